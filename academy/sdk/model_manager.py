"""`ModelManager`: versions by name, activated by hand, compared and listed, as the seed documents describe it.

A version is MLflow's number. Its name is a tag, and an alias if MLflow accepts it. The ledger decides whose adapter
answers. The history shows an activation by hand as such, and an activation never skips the checks of the adapter.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from academy.adapters.adapter import BESIDE, FILES, MANIFEST, Adapter, open_adapter, read_adapter
from academy.errors import AdapterError, InputError
from academy.genealogy.description import describe
from academy.genealogy.history import history
from academy.genealogy.versions import METRIC, NAME, UNVERIFIED, Version, check_name
from academy.lifecycle.promotion import activate, rollback
from academy.loop.home import Home
from academy.models.base_model import SEED, resolve
from academy.store.files import publish_folder
from academy.store.ledger import BASE, Champion
from academy.system.processes import person

log = logging.getLogger(__name__)
SCORE = "score"
"""The metric that an official examination adds: the share of the target's questions that were answered correctly."""


class ModelManager:
    """The versions of one base model."""

    def __init__(self, home: Home | None = None, *, by: str = "") -> None:
        """The versions of a home, by default the home of the settings. `by` names who acts, for the history."""
        self.home = home or Home.open()
        self.by = by or person()

    def register_version(
        self,
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
        metrics = _checked(performance_metrics or {})
        label = base_model or self.home.base.name
        if (label == SEED or Path(label).is_dir()) and resolve(label).digest != self.home.base.digest:
            raise InputError(
                f"{label} is not the base model {self.home.base.name}.",
                "Choose the base model with ACADEMY_BASE_MODEL.",
            )
        version = self._named(version_id)
        tags = {f"{METRIC}{name}": repr(value) for name, value in metrics.items()} | {"base_model_label": label[:500]}
        if adapter_path is None:
            if version is not None and version.adapter != BASE:
                raise _taken(version_id, version)
            source = self.home.base.path.resolve().as_uri()
            version = version or self._enter(label, {"adapter": BASE}, source)
        else:
            version = self._register_adapter(version_id, label, Path(adapter_path).expanduser(), version)
        self.home.versions.set_tags(version.version, tags)
        if version.label != version_id:
            self.home.versions.set_label(version, version_id)
        describe(self.home.versions, self.home.ledger, version.version)
        return self.home.versions.get(version.version)

    def activate_version(self, version_id: str, because: str = "") -> Champion:
        """Make a version champion by hand. A champion stays champion, and nothing is written.

        Raises AdapterError if its adapter does not pass the checks, and PromotionError if the ledger refuses it.
        """
        version = self.home.versions.get(version_id)
        champion = self.home.ledger.champion()
        if version.adapter == champion.adapter:
            return champion
        return activate(
            self.home.ledger, self.home.versions, version, self.home.gate, self.home.serving,
            by=self.by, because=because,
        )  # fmt: skip

    def compare_versions(self, a: str, b: str) -> dict[str, Any]:
        """Compare the metrics of two versions: `["metrics_diff"][metric]` has both values, `diff` and `diff_pct`.

        `diff_pct` is the change from the first to the second in per cent of the first value's size: 0 if both are
        zero, plus or minus infinity (null in JSON) if only the first is. `only_in` has the metrics that one lacks.
        """
        first, second = self.home.versions.get(a), self.home.versions.get(b)
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

    def get_genealogy(self, limit: int = 200, before: int | None = None) -> dict[str, Any]:
        """The newest `limit` versions, oldest first, each with its id, metrics, parent and whether it is active.

        Pass `before` of the answer to get the page before it. It is None on the first page.
        """
        champion = self.home.ledger.champion()
        versions = self.home.versions.page(limit + 1, before, champion)
        page = versions[:limit][::-1]
        return {
            "family": self.home.base.family,
            "base_model": self.home.base.name,
            "current_version": champion.version,
            "versions": [_summary(version) | {"is_active": version.adapter == champion.adapter} for version in page],
            "before": int(page[0].version) if len(versions) > limit else None,
        }

    def get_active_adapter_info(self) -> dict[str, Any] | None:
        """The adapter that answers now, since when, and who activated it; None if the base model answers."""
        champion = self.home.ledger.champion()
        if champion.adapter == BASE:
            return None
        version = self.home.versions.find(champion.version)
        since = next(change for change in history(self.home.ledger) if change.seq == champion.seq)
        summary = _summary(version) if version is not None and version.adapter == champion.adapter else {}
        return summary | {
            "version": champion.version,
            "adapter": champion.adapter,
            "adapter_path": str(self.home.adapter_store.folder(champion.adapter)),
            "base_model": self.home.base.name,
            "generation": champion.generation,
            "activated_at": since.at,
            "activated_by": since.by,
            "by_hand": since.by_hand,
        }

    def activate_adapter(
        self, adapter_id: str, adapter_path: str | Path | None = None, base_model: str | None = None, because: str = ""
    ) -> Champion:
        """Activate an adapter by its job's id (or its order or digest), and register it first if it is new.

        Raises AdapterError if `adapter_path` contains another adapter than the registered one.
        """
        version = self.home.versions.find(adapter_id)
        if version is None:
            if adapter_path is None:
                raise InputError(f"Unknown adapter {adapter_id}.", "`academy models` lists the versions.")
            version = self.register_version(adapter_id, base_model, adapter_path)
        elif adapter_path is not None and not version.unverified:
            path = Path(adapter_path).expanduser()
            read_adapter(path, base_digest=self.home.base.digest, digest=version.adapter, beside=BESIDE)
        return self.activate_version(version.version, because)

    def deactivate_adapter(self, because: str = "") -> bool:
        """Roll back to the base model, as a ledger row. False if the base model already answers."""
        if self.home.ledger.champion().adapter == BASE:
            return False
        rollback(self.home.ledger, self.home.versions, self.home.gate, BASE, because, self.home.serving, by=self.by)
        return True

    def _named(self, version_id: str) -> Version | None:
        """The version that has exactly this name now."""
        check_name(version_id)
        version = self.home.versions.find(version_id)
        return version if version is not None and version.label == version_id else None

    def _register_adapter(self, version_id: str, label: str, path: Path, named: Version | None) -> Version:
        try:
            opened = open_adapter(path, base_digest=self.home.base.digest, beside=BESIDE)
            opened.check_signature(self.home.keys)
            adapter = opened.adapter
        except (AdapterError, NotADirectoryError) as problem:
            because = problem.message if isinstance(problem, AdapterError) else f"{path} is not a folder."
            if named is not None and not named.unverified:
                raise _taken(version_id, named) from problem
            log.warning("%s is registered as unverified: %s", version_id, because)
            tags = {UNVERIFIED: because[:4900]}
            if named is not None:
                self.home.versions.set_tags(named.version, tags)
                return named
            return self._enter(label, tags, path.resolve().as_uri())
        if named is not None and named.adapter != adapter.digest and not named.unverified:
            raise _taken(version_id, named)
        champion = self.home.ledger.champion()
        version = self.home.versions.adopt(
            self._stored(adapter), parent=champion.version, generation=champion.generation + 1
        )  # fmt: skip
        if version.label and version.label != version_id:
            raise InputError(
                f"This adapter is {version.name} and already has the name {version.label}.",
                f"Use the name {version.label}.",
            )
        if named is not None and named.version != version.version:  # an unverified version gives up its name
            self.home.versions.set_tags(named.version, {"label": None})
        return version

    def _stored(self, adapter: Adapter) -> Adapter:
        """A copy of the adapter in this home, checked again there."""
        place = self.home.adapter_store.folder(adapter.digest)
        if adapter.path.resolve() != place and not place.is_dir():
            with publish_folder(place) as folder:
                for name in (*FILES, MANIFEST):
                    (folder / name).write_bytes((adapter.path / name).read_bytes())
                read_adapter(folder, base_digest=self.home.base.digest, digest=adapter.digest)
        return read_adapter(place, base_digest=self.home.base.digest, digest=adapter.digest)

    def _enter(self, base_name: str, tags: dict[str, str], source: str) -> Version:
        return self.home.versions.register_unverified(base_name, tags, source, parent=BASE, generation=0)


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
