"""`ModelManager`: the versions of a home under the method names of the seed documents (loop/named_versions.py)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from academy.loop import named_versions
from academy.loop.home import Home, current_user

if TYPE_CHECKING:
    from academy.genealogy.versions import Version
    from academy.store.ledger import Champion


class ModelManager:
    """The versions of one base model."""

    def __init__(self, home: Home | Path | None = None, *, by: str = "") -> None:
        """The versions of a home, by default the home of the settings. `by` names who acts, for the history."""
        self.home = home if isinstance(home, Home) else Home.open(home=home)
        self.by = by or current_user()

    def register_version(
        self,
        version_id: str,
        base_model: str | None = None,
        adapter_path: str | Path | None = None,
        performance_metrics: dict[str, float] | None = None,
    ) -> Version:
        """Register an adapter (or, without one, the base model) under a name with metrics, or add them to its version.

        An adapter that cannot be verified is registered as unverified and is never activated. Raises InputError for
        another base model of this machine, for a name that is taken, and for metrics that are not numbers.
        """
        return named_versions.register_version(self.home, version_id, base_model, adapter_path, performance_metrics)

    def activate_version(self, version_id: str, because: str = "") -> Champion:
        """Make a version champion by hand. A champion stays champion, and nothing is written.

        Raises AdapterError if its adapter does not pass the checks, and PromotionError if the ledger refuses it.
        """
        return named_versions.activate_version(self.home, version_id, because, by=self.by)

    def compare_versions(self, a: str, b: str) -> dict[str, Any]:
        """Compare the metrics of two versions: `["metrics_diff"][metric]` has both values, `diff` and `diff_pct`."""
        return named_versions.compare_versions(self.home, a, b)

    def get_genealogy(self, limit: int = 200, before: int | None = None) -> dict[str, Any]:
        """The newest `limit` versions, oldest first, each with its id, metrics, parent and whether it is active.

        Pass `before` of the answer to get the page before it. It is None on the first page.
        """
        return named_versions.version_page(self.home, limit, before)

    def get_active_adapter_info(self) -> dict[str, Any] | None:
        """The adapter that answers now, since when, and who activated it; None if the base model answers."""
        return named_versions.active_adapter(self.home)

    def activate_adapter(
        self, adapter_id: str, adapter_path: str | Path | None = None, base_model: str | None = None, because: str = ""
    ) -> Champion:
        """Activate an adapter by its job's id (or its order or digest), and register it first if it is new.

        Raises AdapterError if `adapter_path` contains another adapter than the registered one.
        """
        return named_versions.activate_adapter(self.home, adapter_id, adapter_path, base_model, because, by=self.by)

    def deactivate_adapter(self, because: str = "") -> bool:
        """Roll back to the base model, as a ledger row. False if the base model already answers."""
        return named_versions.deactivate_adapter(self.home, because, by=self.by)
