"""The description of a version on MLflow's page: markdown with links, rewritten after every change."""

from __future__ import annotations

import re

from academy.border.plain_text import plain_line
from academy.genealogy.history import history
from academy.genealogy.versions import Version, Versions
from academy.store.ledger import BASE, Ledger

MAX_CHARACTERS = 5000
"""MLflow's limit for a description."""
EVENTS = 12


def describe(versions: Versions, ledger: Ledger, *numbers: str) -> None:
    """Write the descriptions of these versions. "base" and versions deleted in MLflow are skipped."""
    for number in dict.fromkeys(numbers):
        version = versions.find(number) if number != BASE else None
        if version is not None:
            versions.describe(version.version, description(versions, ledger, version))


def description(versions: Versions, ledger: Ledger, version: Version) -> str:
    """The markdown of one version. Text from people is escaped."""
    champion = ledger.champion()
    is_champion = (version.version, version.adapter) == (champion.version, champion.adapter)
    lines = [f"**{version.name}**" + (f" ({escape(version.label)})" if version.label else "")]
    lines[0] += f", generation {version.generation}" + (", **champion**" if is_champion else "")
    if version.tainted:
        lines.append("- **tainted**: trained on lessons that have since been forgotten")
    if version.unverified:
        lines.append(f"- **unverified**: {escape(version.unverified)}")
    if version.archived:
        lines.append("- archived: restore it with `academy models restore`")
    parent = version.parent
    link = parent if parent == BASE else f"[v{escape(parent)}](#/models/{versions.family}/versions/{escape(parent)})"
    lines.append(f"- parent: {link}")
    if version.init_adapter:
        lines.append(f"- started from: adapter `{escape(version.init_adapter[:64])}`")
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
        lines += ["", "History, newest first:", ""]
        lines += [
            f"- {event.at}: {escape(event.sentence)}" + (f", by {escape(event.by)}" if event.by else "")
            for event in events
        ]
    while len("\n".join(lines)) > MAX_CHARACTERS:
        lines.pop()
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text escaped for markdown and HTML, in one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$&])", r"\\\1", plain_line(" ".join(text.split())))
