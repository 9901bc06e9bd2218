"""`ModelManager`: versions by the names that people give them, activated by hand, compared, listed.

It is the door that the project's first documents describe; what happens behind it is the house's own: a version is
MLflow's number, a name is a tag (and an alias where MLflow takes it), whose adapter answers is decided by the ledger.
An activation by hand is told as one in the history, and never skips the adapter's check. What is refused raises.
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

log = logging.getLogger("academy")
SCORE = "score"
"""The metric that an examination of record gives: the share of the target's questions that were answered rightly."""


class ModelManager:
    """The versions of one base model."""

    def __init__(self, home: Home | None = None, *, by: str = "") -> None:
        """The versions of a workplace, or of the one that the settings name; `by` is told as who acts."""
        self.home = home or Home.open()
        self.by = by or person()

    def register_version(
        self,
        version_id: str,
        base_model: str | None = None,
        adapter_path: str | Path | None = None,
        performance_metrics: dict[str, float] | None = None,
    ) -> Version:
        """Give an adapter (or, without one, the base model) a name and figures; a version where it was none yet.

        An adapter that a training of this home registered keeps its version. One that cannot be verified is registered
        all the same, marked as unverified, and never activated. `base_model` is a label: what an adapter was trained on
        says its manifest's digest; but a base model of this machine that is another one is refused. Raises InputError
        for that, for a name that is taken, and for figures that are no numbers.
        """
        metrics = _checked(performance_metrics or {})
        label = base_model or self.home.base.name
        if (label == SEED or Path(label).is_dir()) and resolve(label).digest != self.home.base.digest:
            raise InputError(
                f"{label} is another base model than {self.home.base.name}.", "Choose it with ACADEMY_BASE_MODEL."
            )
        known = self._named(version_id)
        tags = {f"{METRIC}{name}": repr(value) for name, value in metrics.items()} | {"base_model_label": label[:500]}
        if adapter_path is None:
            if known is not None and known.adapter != BASE:
                raise _taken(version_id, known)
            source = self.home.base.path.resolve().as_uri()
            found = known or self._enter(label, {"adapter": BASE}, source)
        else:
            found = self._adapter(version_id, label, Path(adapter_path).expanduser(), known)
        self.home.versions.set_tags(found.version, tags)
        if found.label != version_id:
            self.home.versions.set_label(found, version_id)
        describe(self.home.versions, self.home.ledger, found.version)
        return self.home.versions.get(found.version)

    def activate_version(self, version_id: str, because: str = "") -> Champion:
        """Make a version champion by hand. Raises AdapterError where its adapter does not pass, PromotionError else.

        One that is champion already stays so; nothing is written.
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
        """The figures of two versions: `["metrics_diff"][metric]` has both values, `diff` and `diff_pct`.

        `diff_pct` is the change from the first to the second in hundredths of the first one's size: 0 where both are
        zero, plus or minus infinity (null in JSON) where only the first is. Figures that one of them lacks are in
        `only_in`.
        """
        first, second = self.home.versions.get(a), self.home.versions.get(b)
        left, right = figures(first), figures(second)
        return {
            "version_a": _told(first),
            "version_b": _told(second),
            "metrics_diff": {
                name: {
                    "a": left[name],
                    "b": right[name],
                    "diff": right[name] - left[name],
                    "diff_pct": per_cent(left[name], right[name]),
                }
                for name in sorted(left.keys() & right.keys())
            },
            "only_in": {a: sorted(left.keys() - right.keys()), b: sorted(right.keys() - left.keys())},
        }

    def get_genealogy(self, limit: int = 200, before: int | None = None) -> dict[str, Any]:
        """The newest `limit` versions, oldest first, each with its id, figures, parent and whether it is active.

        `before` of the answer asks for the page before it; it is None where there is none.
        """
        champion = self.home.ledger.champion()
        found = self.home.versions.page(limit + 1, before, champion)
        page = found[:limit][::-1]
        return {
            "family": self.home.base.family,
            "base_model": self.home.base.name,
            "current_version": champion.version,
            "versions": [_told(one) | {"is_active": one.adapter == champion.adapter} for one in page],
            "before": int(page[0].version) if len(found) > limit else None,
        }

    def get_active_adapter_info(self) -> dict[str, Any] | None:
        """Which adapter answers now, since when and who made it so; None where the base model answers."""
        champion = self.home.ledger.champion()
        if champion.adapter == BASE:
            return None
        version = self.home.versions.find(champion.version)
        since = next(one for one in history(self.home.ledger) if one.seq == champion.seq)
        told = _told(version) if version is not None and version.adapter == champion.adapter else {}
        return told | {
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
        """Activate an adapter by its job's id (or order, or digest), registering it first where it is not known.

        Raises AdapterError where `adapter_path` holds another adapter than the one that is known by this id.
        """
        version = self.home.versions.find(adapter_id)
        if version is None:
            if adapter_path is None:
                raise InputError(f"There is no adapter {adapter_id}.", "`academy models` lists the versions.")
            version = self.register_version(adapter_id, base_model, adapter_path)
        elif adapter_path is not None and not version.unverified:
            path = Path(adapter_path).expanduser()
            read_adapter(path, base_digest=self.home.base.digest, digest=version.adapter, beside=BESIDE)
        return self.activate_version(version.version, because)

    def deactivate_adapter(self, because: str = "") -> bool:
        """Go back to the base model, as a row of the ledger. False where it answers already."""
        if self.home.ledger.champion().adapter == BASE:
            return False
        rollback(self.home.ledger, self.home.versions, self.home.gate, BASE, because, self.home.serving, by=self.by)
        return True

    def _named(self, version_id: str) -> Version | None:
        """The version that has this very name now."""
        check_name(version_id)
        found = self.home.versions.find(version_id)
        return found if found is not None and found.label == version_id else None

    def _adapter(self, version_id: str, label: str, path: Path, known: Version | None) -> Version:
        try:
            opened = open_adapter(path, base_digest=self.home.base.digest, beside=BESIDE)
            opened.check_signature(self.home.keys)
            adapter = opened.adapter
        except (AdapterError, NotADirectoryError) as problem:
            because = problem.message if isinstance(problem, AdapterError) else f"{path} is no folder."
            if known is not None and not known.unverified:
                raise _taken(version_id, known) from problem
            log.warning("%s is registered as unverified: %s", version_id, because)
            tags = {UNVERIFIED: because[:4900]}
            if known is not None:
                self.home.versions.set_tags(known.version, tags)
                return known
            return self._enter(label, tags, path.resolve().as_uri())
        if known is not None and known.adapter != adapter.digest and not known.unverified:
            raise _taken(version_id, known)
        champion = self.home.ledger.champion()
        found = self.home.versions.adopt(
            self._kept(adapter), parent=champion.version, generation=champion.generation + 1
        )  # fmt: skip
        if found.label and found.label != version_id:
            raise InputError(
                f"This adapter is {found.name} and called {found.label} already.", f"Use the name {found.label}."
            )
        if known is not None and known.version != found.version:  # what could not be verified gives its name away
            self.home.versions.set_tags(known.version, {"label": None})
        return found

    def _kept(self, adapter: Adapter) -> Adapter:
        """The adapter in this home, checked again there."""
        place = self.home.adapter_store.folder(adapter.digest)
        if adapter.path.resolve() != place and not place.is_dir():
            with publish_folder(place) as staged:
                for name in (*FILES, MANIFEST):
                    (staged / name).write_bytes((adapter.path / name).read_bytes())
                read_adapter(staged, base_digest=self.home.base.digest, digest=adapter.digest)
        return read_adapter(place, base_digest=self.home.base.digest, digest=adapter.digest)

    def _enter(self, base_name: str, tags: dict[str, str], source: str) -> Version:
        return self.home.versions.register_unverified(base_name, tags, source, parent=BASE, generation=0)


def figures(version: Version) -> dict[str, float]:
    """What is known of a version in numbers: what was told at registration, and the score of its examination."""
    found = dict(version.metrics)
    if version.verdict != "not examined" and (score := version.scores.get("score_challenger")):
        found.setdefault(SCORE, float(score))
    return found


def per_cent(a: float, b: float) -> float:
    """The change from a to b in hundredths of a's size."""
    if a == 0:
        return 0.0 if b == 0 else math.copysign(math.inf, b)
    return (b - a) / abs(a) * 100


def _told(version: Version) -> dict[str, Any]:
    return {
        "version_id": version.label or version.version,
        "version": version.version,
        "adapter_id": version.order,
        "adapter": version.adapter,
        "parent": version.parent,
        "generation": version.generation,
        "verdict": version.verdict,
        "unverified": version.unverified,
        "performance_metrics": figures(version),
        "created_at": version.created,
    }


def _checked(metrics: dict[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if not NAME.fullmatch(name):
            raise InputError(f"'{name}' is no name of a metric.", "Take letters, digits and . _ - : @ +.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"The metric {name} is no finite number.", "Give a number.")
    return {name: float(value) for name, value in metrics.items()}


def _taken(version_id: str, known: Version) -> InputError:
    return InputError(f"The name {version_id} is taken by {known.name}.", "Choose another; a version keeps its name.")
