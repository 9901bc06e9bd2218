"""Versions by the names that people give them: registered, activated by hand, compared and listed.

A version is MLflow's number. Its name is a tag, and an alias if MLflow accepts it. The ledger decides whose adapter
answers. The history shows an activation by hand as such, and an activation never skips the checks of the adapter.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from academy.adapters.adapter import BESIDE, FILES, MANIFEST, Adapter, open_adapter, read_adapter, sign_adapter
from academy.errors import AdapterError, InputError
from academy.genealogy.description import describe
from academy.genealogy.history import history
from academy.genealogy.versions import METRIC, NAME, UNVERIFIED, Version, check_name
from academy.habitat.job_names import run_of_job
from academy.habitat.runs import run_log, run_progress
from academy.lifecycle.promotion import activate, rollback
from academy.loop.home import Home
from academy.models.base_model import SEED, resolve
from academy.store.files import publish_folder
from academy.store.ledger import BASE, Champion

log = logging.getLogger(__name__)
SCORE = "score"
"""The metric that an official examination adds: the share of the target's questions that were answered correctly."""


def register_version(
    home: Home,
    version_id: str,
    base_model: str | None = None,
    adapter_path: str | Path | None = None,
    performance_metrics: dict[str, float] | None = None,
) -> Version:
    """Register an adapter (or, without one, the base model) under a name with metrics, or add them to its version.

    An adapter that a training of this home registered keeps its version. An adapter that cannot be verified is
    registered as unverified and is never activated. `base_model` is a label, because the adapter's manifest has the
    digest of its base model. Raises InputError for another base model of this machine, for a name that is taken,
    and for metrics that are not numbers.
    """
    check_name(version_id if isinstance(version_id, str) else "")
    metrics = _checked(performance_metrics or {})
    label = base_model or home.base.name
    if (label == SEED or Path(label).is_dir()) and resolve(label).digest != home.base.digest:
        raise InputError(
            f"{label} is not the base model {home.base.name}.",
            "Choose the base model with ACADEMY_BASE_MODEL.",
        )
    version = _named(home, version_id)
    tags = {f"{METRIC}{name}": repr(value) for name, value in metrics.items()} | {"base_model_label": label[:500]}
    if adapter_path is None:
        if version is not None and version.adapter != BASE:
            raise _taken(version_id, version)
        source = home.base.path.resolve().as_uri()
        version = version or _enter(home, label, {"adapter": BASE}, source)
    else:
        version = _register_adapter(home, version_id, label, Path(adapter_path).expanduser(), version)
    home.versions.set_tags(version.version, tags)
    if version.label != version_id:
        home.versions.set_label(version, version_id)
    describe(home.versions, home.ledger, version.version)
    return home.versions.get(version.version)


def activate_version(home: Home, version_id: str, because: str = "", *, by: str) -> Champion:
    """Make a version champion by hand. A champion stays champion, and nothing is written.

    Raises AdapterError if its adapter does not pass the checks, and PromotionError if the ledger refuses it.
    """
    version = get_version(home, version_id)
    champion = home.ledger.champion()
    if version.adapter == champion.adapter:
        return champion
    return activate(
        home.ledger, home.versions, version, home.gate, home.serving,
        by=by, because=because,
    )  # fmt: skip


def compare_versions(home: Home, a: str, b: str) -> dict[str, Any]:
    """Compare the metrics of two versions: `["metrics_diff"][metric]` has both values, `diff` and `diff_pct`.

    `diff_pct` is the change from the first to the second in per cent of the first value's size: 0 if both are
    zero, plus or minus infinity (null in JSON) if only the first is. `only_in` has the metrics that one lacks.
    """
    first, second = get_version(home, a), get_version(home, b)
    metrics_a, metrics_b = metrics_of(first), metrics_of(second)
    return {
        "version_a": _summary(first),
        "version_b": _summary(second),
        "metrics_diff": {
            name: {
                "a": metrics_a[name],
                "b": metrics_b[name],
                "diff": metrics_b[name] - metrics_a[name],
                "diff_pct": per_cent(metrics_a[name], metrics_b[name]),
            }
            for name in sorted(metrics_a.keys() & metrics_b.keys())
        },
        "only_in": {a: sorted(metrics_a.keys() - metrics_b.keys()), b: sorted(metrics_b.keys() - metrics_a.keys())},
    }


def version_page(home: Home, limit: int = 200, before: int | None = None) -> dict[str, Any]:
    """The newest `limit` versions, oldest first, each with its id, metrics, parent and whether it is active.

    Pass `before` of the answer to get the page before it. It is None on the first page.
    """
    champion = home.ledger.champion()
    versions = home.versions.page(limit + 1, before, champion)
    page = versions[:limit][::-1]
    return {
        "family": home.base.family,
        "base_model": home.base.name,
        "current_version": champion.version,
        "versions": [_summary(version) | {"is_active": version.adapter == champion.adapter} for version in page],
        "before": int(page[0].version) if len(versions) > limit else None,
    }


def active_adapter(home: Home) -> dict[str, Any] | None:
    """The adapter that answers now, since when, and who activated it; None if the base model answers."""
    champion = home.ledger.champion()
    if champion.adapter == BASE:
        return None
    version = home.versions.find(champion.version)
    since = next(change for change in history(home.ledger) if change.seq == champion.seq)
    summary = _summary(version) if version is not None and version.adapter == champion.adapter else {}
    return summary | {
        "version": champion.version,
        "adapter": champion.adapter,
        "adapter_path": str(home.adapter_store.folder(champion.adapter)),
        "base_model": home.base.name,
        "generation": champion.generation,
        "activated_at": since.at,
        "activated_by": since.by,
        "by_hand": since.by_hand,
    }


def activate_adapter(
    home: Home,
    adapter_id: str,
    adapter_path: str | Path | None = None,
    base_model: str | None = None,
    because: str = "",
    *,
    by: str,
) -> Champion:
    """Activate an adapter by its job's id (or its order or digest), and register it first if it is new.

    Raises AdapterError if `adapter_path` contains another adapter than the registered one.
    """
    version = find_version(home, adapter_id)
    if version is None and adapter_path is None:
        version = version_of_job(home, adapter_id)
    elif version is None:
        version = register_version(home, adapter_id, base_model, adapter_path)
    elif adapter_path is not None and not version.unverified:
        path = Path(adapter_path).expanduser()
        read_adapter(path, base_digest=home.base.digest, digest=version.adapter, beside=BESIDE)
    return activate_version(home, version.version, because, by=by)


def deactivate_adapter(home: Home, because: str = "", *, by: str) -> bool:
    """Roll back to the base model, as a ledger row. False if the base model already answers."""
    if home.ledger.champion().adapter == BASE:
        return False
    rollback(home.ledger, home.versions, home.gate, BASE, because, home.serving, by=by)
    return True


def vouch_for(home: Home, version: Version) -> Version:
    """Sign the adapter of an unverified version, because a person vouches for it, and register it under its name.

    Its folder is the one that it was registered from. Raises AdapterError, and SignatureError for an adapter that was
    altered after it was signed.
    """
    folder = _folder_of(version)
    adapter = open_adapter(folder, base_digest=home.base.digest, beside=BESIDE).adapter
    stored = _stored(home, adapter)
    sign_adapter(stored.path, home.keys, base_digest=home.base.digest, digest=adapter.digest)
    return register_version(home, version.label or f"adapter-{adapter.digest[:12]}", None, stored.path, version.metrics)


def find_version(home: Home, name: str) -> Version | None:
    """A version by its number, name, order or adapter, or by the name of the job that trained it; None if missing."""
    name = str(name)  # None and numbers, too, get a sentence
    return home.versions.find(run_of_job(home.settings.folder("runs"), name) or name)


def get_version(home: Home, name: str) -> Version:
    """As `find_version`. Raises InputError if there is none."""
    return find_version(home, name) or home.versions.get(str(name))


def version_of_job(home: Home, job: str) -> Version:
    """The version of a finished job; its adapter is registered under the job's name if it is not yet.

    Raises InputError for an unknown job, and for one that has no adapter.
    """
    if version := find_version(home, job):
        return version
    runs = home.settings.folder("runs")
    adapter = ""
    if run := run_of_job(runs, job):
        deque(run_log(runs / run, follow=True), maxlen=0)  # its process signs the adapter after the last event
        adapter = run_progress(runs / run).adapter
    if not adapter:
        raise InputError(f"Unknown adapter {job}.", "`academy models` lists the versions.")
    return register_version(home, job, None, home.adapter_store.folder(adapter))


def _folder_of(version: Version) -> Path:
    parts = urlsplit(version.source)
    if parts.scheme != "file":
        raise AdapterError(f"{version.name} was not registered from a folder.", "Register its adapter again.")
    return Path(unquote(parts.path))


def _named(home: Home, version_id: str) -> Version | None:
    """The version that has exactly this name now."""
    check_name(version_id)
    version = home.versions.find(version_id)
    return version if version is not None and version.label == version_id else None


def _register_adapter(home: Home, version_id: str, label: str, path: Path, named: Version | None) -> Version:
    try:
        opened = open_adapter(path, base_digest=home.base.digest, beside=BESIDE)
        opened.check_signature(home.keys)
        adapter = opened.adapter
    except (AdapterError, NotADirectoryError) as problem:
        because = problem.message if isinstance(problem, AdapterError) else f"{path} is not a folder."
        if named is not None and not named.unverified:
            raise _taken(version_id, named) from problem
        log.warning("%s is registered as unverified: %s", version_id, because)
        tags = {UNVERIFIED: because[:4900]}
        if named is not None:
            home.versions.set_tags(named.version, tags)
            return named
        return _enter(home, label, tags, path.resolve().as_uri())
    if named is not None and named.adapter != adapter.digest and not named.unverified:
        raise _taken(version_id, named)
    champion = home.ledger.champion()
    version = home.versions.adopt(
        _stored(home, adapter), parent=champion.version, generation=champion.generation + 1
    )  # fmt: skip
    if version.label and version.label != version_id:
        raise InputError(
            f"This adapter is {version.name} and already has the name {version.label}.",
            f"Use the name {version.label}.",
        )
    if named is not None and named.version != version.version:  # an unverified version gives up its name
        home.versions.set_tags(named.version, {"label": None})
    return version


def _stored(home: Home, adapter: Adapter) -> Adapter:
    """A copy of the adapter in this home, checked again there."""
    place = home.adapter_store.folder(adapter.digest)
    if adapter.path.resolve() != place and not place.is_dir():
        with publish_folder(place) as folder:
            for name in (*FILES, MANIFEST):
                (folder / name).write_bytes((adapter.path / name).read_bytes())
            read_adapter(folder, base_digest=home.base.digest, digest=adapter.digest)
    return read_adapter(place, base_digest=home.base.digest, digest=adapter.digest)


def _enter(home: Home, base_name: str, tags: dict[str, str], source: str) -> Version:
    return home.versions.register_unverified(base_name, tags, source, parent=BASE, generation=0)


def metrics_of(version: Version) -> dict[str, float]:
    """The metrics of a version: those of its registration, and the score of its examination."""
    metrics = dict(version.metrics)
    if version.verdict != "not examined" and (score := version.scores.get("score_challenger")):
        metrics.setdefault(SCORE, float(score))
    return metrics


def per_cent(a: float, b: float) -> float:
    """The change from a to b in per cent of the size of a."""
    if a == 0:
        return 0.0 if b == 0 else math.copysign(math.inf, b)
    return (b - a) / abs(a) * 100


def _summary(version: Version) -> dict[str, Any]:
    return {
        "version_id": version.label or version.version,
        "version": version.version,
        "adapter_id": version.order,
        "adapter": version.adapter,
        "parent": version.parent,
        "generation": version.generation,
        "verdict": version.verdict,
        "unverified": version.unverified,
        "performance_metrics": metrics_of(version),
        "created_at": version.created,
    }


def _checked(metrics: dict[str, float]) -> dict[str, float]:
    if not isinstance(metrics, Mapping):
        raise InputError("performance_metrics must be a dictionary of numbers.", 'For example {"accuracy": 0.9}.')
    for name, value in metrics.items():
        if not NAME.fullmatch(name):
            raise InputError(f"Invalid metric name '{name}'.", "Use letters, digits and . _ - : @ +.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"The metric {name} must be a finite number.", "Pass a number.")
    return {name: float(value) for name, value in metrics.items()}


def _taken(version_id: str, owner: Version) -> InputError:
    return InputError(
        f"{owner.name} already has the name {version_id}.", "Choose another name; a version keeps its name."
    )
