"""Which adapters stay on the disk, which are archived, and how they are restored.

The champion, the version that a rollback would restore, the versions of open verdicts and adapters that a running
process has loaded are never archived. Nothing is archived while an evolution runs in this home. Each archive and each
restore is a ledger row. Adapters do not depend on each other's weights, so an unused ancestor may be archived: a
rollback to it restores it first.
"""

from __future__ import annotations

import logging
from typing import Literal

from academy.adapters.archive import AdapterStore, Package
from academy.errors import AdapterError, InputError
from academy.genealogy.description import describe
from academy.genealogy.versions import ARCHIVED, Version, Versions
from academy.lifecycle.approval import open_verdicts
from academy.records import Record
from academy.store.ledger import BASE, Ledger
from academy.store.ledger_rows import ArchiveEntry, PromotionEntry, RestoreEntry, RollbackEntry
from academy.store.locks import exclusive_lock

log = logging.getLogger("academy")


class PrunedVersion(Record):
    """What `prune` does with a version, and why."""

    version: str
    adapter: str
    action: Literal["stays", "archive"]
    because: str
    bytes: int  # on the disk now


class RestoreEstimate(Record):
    """How long a restore will take: from the size, and the measured rate of this home."""

    bytes: int
    rate: float  # bytes a second
    seconds: float


def protected(ledger: Ledger) -> dict[str, str]:
    """Adapters (digests) that must not be archived now, each with the reason."""
    champion = ledger.champion()
    reasons = {champion.adapter: "it is the champion"}
    back = ledger.rollback_target()
    for row in ledger.latest(PromotionEntry, RollbackEntry, versions=[back] if back else []):
        if row.body.version == back:
            reasons.setdefault(row.body.adapter, "a rollback would restore it")
            break
    for verdict in open_verdicts(ledger):
        reasons.setdefault(verdict.body.challenger, "its verdict PROMOTE is still open")
    reasons.pop(BASE, None)
    return reasons


def archive(
    ledger: Ledger, versions: Versions, store: AdapterStore, version: Version, *, by: str, because: str = ""
) -> Package:
    """Archive a version's adapter: its folder becomes one file. Repeating it finishes an interrupted archive.

    Raises InputError if it must stay, AdapterError if it is loaded or damaged, HomeError while an evolution runs.
    """
    if version.adapter == BASE or not version.adapter:
        raise InputError(f"{version.name} has no adapter.", "There is nothing to archive.")
    if not store.here(version.adapter):
        if (package := store.package(version.adapter)) is not None:
            _show(ledger, versions, version.version, archived=True)
            return package
        raise AdapterError(f"The adapter of {version.name} is not on the disk.", "Train it again.")
    lock = store.adapters.parent / "locks" / "evolve"
    with (
        exclusive_lock(lock, "An evolution is running in this home, so nothing can be archived."),
        store.exclusive(version.adapter),
    ):
        # it cannot become champion between this check and the end: that needs a lease on the adapter
        if (reason := protected(ledger).get(version.adapter)) is not None:
            raise InputError(
                f"{version.name} stays on the disk: {reason}.", "`academy models prune` skips such versions."
            )
        package = store.pack(version.adapter)
        _row(ledger, ArchiveEntry, version.version, package, by, because)
        store.remove(version.adapter)
    _show(ledger, versions, version.version, archived=True)
    return package


def restore(
    ledger: Ledger, versions: Versions, store: AdapterStore, version: str, adapter: str, *, by: str, because: str = ""
) -> Package | None:
    """Restore an archived adapter; the log shows the expected time. None if it is on the disk already.

    Raises InputError for a version without an adapter, AdapterError for one that is missing or altered.
    """
    if adapter == BASE or not adapter:
        raise InputError(f"v{version} has no adapter.", "There is nothing to restore.")
    if store.here(adapter):
        return None
    if store.package(adapter) is None:
        raise AdapterError(
            f"The adapter of v{version} is neither on the disk nor in the archive.",
            "Train again: on CPUs the bytes are the same.",
        )
    forecast = estimate(ledger, store, adapter)
    log.info(
        "v%s is archived; restoring its %.1f MB takes about %.1f s",
        version, forecast.bytes / 1e6, forecast.seconds,
    )  # fmt: skip
    package = store.unpack(adapter)
    _row(ledger, RestoreEntry, version, package, by, because)
    _show(ledger, versions, version, archived=False)
    return package


def estimate(ledger: Ledger, store: AdapterStore, adapter: str) -> RestoreEstimate:
    """Estimate from the archive's size and the measured rate of the last 50 archives."""
    package = store.package(adapter)
    if package is None:
        raise AdapterError(f"The adapter {adapter[:12]} is not archived.", "`academy models` lists the versions.")
    packages: list[ArchiveEntry | Package] = [row.body for row in ledger.latest(ArchiveEntry, limit=50)]
    packages = packages or [package]
    seconds = sum(earlier.seconds for earlier in packages)
    rate = sum(earlier.bytes for earlier in packages) / max(seconds, 1e-6)
    return RestoreEstimate(bytes=package.bytes, rate=rate, seconds=package.bytes / rate)


def prune(
    ledger: Ledger, versions: Versions, store: AdapterStore, keep: int, *, by: str, dry_run: bool = False
) -> list[PrunedVersion]:
    """Archive all versions except the newest `keep` and those that must stay. Returns all, newest first.

    `dry_run` changes nothing; it shows a version that a running process has loaded as one to archive.
    """
    folders = {path.name for path in store.adapters.iterdir() if not path.name.startswith(".")}
    reasons = protected(ledger)
    names: set[str] = set()
    results: list[PrunedVersion] = []
    for version in versions.newest(ledger.champion()):
        if not folders - names:
            break  # older versions have no folder on the disk
        name = version.adapter[:16]
        if name not in folders or name in names:
            continue
        names.add(name)
        size = sum(path.stat().st_size for path in store.folder(version.adapter).iterdir())
        reason = f"it is among the newest {keep}" if len(results) < keep else ""
        if version.verdict == "not examined" and not version.unverified:
            reason = reason or "it is not examined yet"
        reason = reasons.get(version.adapter, reason)
        because = reason or f"it is older than the newest {keep}"
        if not reason and not dry_run:
            try:
                archive(ledger, versions, store, version, by=by, because=f"pruned to the newest {keep}")
            except AdapterError as problem:  # loaded or damaged: it stays, and pruning continues
                reason = because = problem.message.rstrip(".")
        action: Literal["stays", "archive"] = "stays" if reason else "archive"
        results.append(
            PrunedVersion(version=version.version, adapter=version.adapter, action=action, because=because, bytes=size)
        )
    return results


def _row(
    ledger: Ledger, entry_of: type[ArchiveEntry | RestoreEntry], version: str, package: Package, by: str, because: str
) -> None:
    """Write a history row, unless the last row of this adapter has the same kind: then a killed call wrote it."""
    rows = [row for row in ledger.latest(ArchiveEntry, RestoreEntry) if row.body.adapter == package.adapter]
    if rows and rows[0].kind == entry_of.kind:
        return
    entry = entry_of(
        version=version, adapter=package.adapter, sha256=package.sha256, bytes=package.bytes,
        packed_bytes=package.packed_bytes, seconds=package.seconds, by=by, because=because,
    )  # fmt: skip
    ledger.append(f"{entry.kind}:{ledger.family}:{package.adapter}:{len(rows)}", entry)


def _show(ledger: Ledger, versions: Versions, version: str, *, archived: bool) -> None:
    if versions.set_tags(version, {ARCHIVED: "yes" if archived else None}):
        describe(versions, ledger, version)
