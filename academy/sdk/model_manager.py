"""`ModelManager`: versions by name, activated by hand, compared and listed, as the seed documents describe it.

A version is MLflow's number. Its name is a tag, and an alias if MLflow accepts it. The ledger decides whose adapter
answers. The history shows an activation by hand as such, and an activation never skips the checks of the adapter.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from academy.loop import activate_version, compare_versions, register_version
from academy.loop.home import Home
from academy.system.processes import person

if TYPE_CHECKING:
    from academy.genealogy.versions import Version
    from academy.store.ledger import Champion


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
        """Register an adapter (or, without one, the base model) under a name; see `loop.register_version`."""
        return register_version.register_version(
            self.home, version_id, base_model, adapter_path, performance_metrics
        )  # fmt: skip

    def activate_version(self, version_id: str, because: str = "") -> Champion:
        """Make a version champion by hand; see `loop.activate_version`."""
        return activate_version.activate_version(self.home, version_id, because, by=self.by)

    def activate_adapter(
        self, adapter_id: str, adapter_path: str | Path | None = None, base_model: str | None = None, because: str = ""
    ) -> Champion:
        """Activate an adapter by its job's id (or its order or digest), and register it first if it is new."""
        return activate_version.activate_adapter(
            self.home, adapter_id, adapter_path, base_model, because, by=self.by
        )  # fmt: skip

    def deactivate_adapter(self, because: str = "") -> bool:
        """Roll back to the base model. False if the base model already answers."""
        return activate_version.deactivate_adapter(self.home, because, by=self.by)

    def compare_versions(self, a: str, b: str) -> dict[str, Any]:
        """Compare the metrics of two versions; see `loop.compare_versions`."""
        return compare_versions.compare_versions(self.home, a, b)

    def get_genealogy(self, limit: int = 200, before: int | None = None) -> dict[str, Any]:
        """The newest `limit` versions, oldest first; pass `before` of the answer to get the page before it."""
        return compare_versions.list_versions(self.home, limit, before)

    def get_active_adapter_info(self) -> dict[str, Any] | None:
        """The adapter that answers now, since when, and who activated it; None if the base model answers."""
        return compare_versions.active_adapter(self.home)
