"""Archives, restores and prunes adapters by the names of their versions."""

from __future__ import annotations

from academy.adapters.archive import Package
from academy.genealogy.versions import Version
from academy.lifecycle import retention
from academy.lifecycle.retention import PrunedVersion
from academy.loop.home import Home


def archive(home: Home, name: str, because: str, *, by: str) -> tuple[Version, Package]:
    """Pack a version's adapter into one file and remove its folder. Raises InputError where it must stay."""
    version = home.versions.get(name)
    file = retention.archive(home.ledger, home.versions, home.adapter_store, version, by=by, because=because)
    return version, file


def restore(home: Home, name: str, *, by: str) -> tuple[Version, Package | None]:
    """Unpack a version's archived adapter; None where it is already on the disk."""
    version = home.versions.get(name)
    file = retention.restore(
        home.ledger, home.versions, home.adapter_store, version.version, version.adapter, by=by
    )  # fmt: skip
    return version, file


def prune(home: Home, keep: int, *, by: str, dry_run: bool) -> list[PrunedVersion]:
    """Archive all versions except the newest `keep` and those that must stay. Newest first."""
    return retention.prune(home.ledger, home.versions, home.adapter_store, keep, by=by, dry_run=dry_run)
