"""What MLflow's own page shows with a version: markdown with links, written anew whenever something happened to it."""

from __future__ import annotations

import re

from academy.genealogy.history import history
from academy.genealogy.versions import Version, Versions
from academy.store.ledger import BASE, Ledger

MOST = 5000
"""Letters that MLflow keeps."""
EVENTS = 12


def describe(versions: Versions, ledger: Ledger, *numbers: str) -> None:
    """Write the descriptions of these versions. "base" and what was deleted in MLflow are passed over."""
    for number in dict.fromkeys(numbers):
        version = versions.find(number) if number != BASE else None
        if version is not None:
            versions.describe(version.version, description(versions, ledger, version))


def description(versions: Versions, ledger: Ledger, version: Version) -> str:
    """The markdown of one version; what people wrote is quoted so that it stays text."""
    champion = ledger.champion()
    now = (version.version, version.adapter) == (champion.version, champion.adapter)
    lines = [f"**{version.name}**" + (f" ({escape(version.label)})" if version.label else "")]
    lines[0] += f", generation {version.generation}" + (", **champion**" if now else "")
    if version.tainted:
        lines.append("- **tainted**: made of lessons that were forgotten since")
    if version.unverified:
        lines.append(f"- **unverified**: {escape(version.unverified)}")
    if version.archived:
        lines.append("- archived: `academy models restore` brings it back")
    parent = version.parent
    link = parent if parent == BASE else f"[v{escape(parent)}](#/models/{versions.family}/versions/{escape(parent)})"
    lines.append(f"- parent: {link}")
    if version.init_adapter:
        lines.append(f"- begun with: adapter `{escape(version.init_adapter[:64])}`")
    if version.run:
        lines.append(f"- run: [{version.run[:8]}](#/experiments/{versions.experiment}/runs/{version.run})")
    for name, digest in (("dataset", version.dataset), ("adapter", version.adapter)):
        lines += [f"- {name}: `{escape(digest[:64])}`"] if digest else []
    lines.append(
        f"- verdict: **{escape(version.verdict)}**" + (f": {escape(version.because)}" if version.because else "")
    )
    lines += [f"- {escape(name)}: {value:g}" for name, value in sorted(version.metrics.items())]
    events = history(ledger, EVENTS, versions=[version.version])
    if events:
        lines += ["", "What happened, newest first:", ""]
        lines += [
            f"- {one.at}: {escape(one.sentence)}" + (f", by {escape(one.by)}" if one.by else "") for one in events
        ]
    while len("\n".join(lines)) > MOST:
        lines.pop()
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text that markdown and HTML leave as it is, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", " ".join(text.split()))
