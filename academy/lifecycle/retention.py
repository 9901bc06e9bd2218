"""Which adapters stay on the disk, which are put away, and how they come back.

What this module promises: the champion, whom a plain rollback goes back to, what an open verdict names and what a
running process has loaded are never put away; nothing is while an evolution runs in this home. Every archiving and
every restoring is a ledger row. Adapters do not build on each other's weights, so an ancestor that nobody uses may be
archived: going back to it restores it first.
"""

from __future__ import annotations

import logging
from typing import Literal

from academy.adapters.archive import AdapterStore, Packed
from academy.errors import AdapterError, InputError
from academy.genealogy.description import describe
from academy.genealogy.versions import ARCHIVED, Version, Versions
from academy.lifecycle.approval import open_verdicts
from academy.records import Record
from academy.store.ledger import BASE, Ledger
from academy.store.ledger_rows import ArchiveEntry, PromotionEntry, RestoreEntry, RollbackEntry
from academy.store.locks import exclusive_lock

log = logging.getLogger("academy")


class Kept(Record):
    """What a pruning does with a version, and why."""

    version: str
    adapter: str
    action: Literal["stays", "archive"]
    because: str
    bytes: int  # on the disk now


class Estimate(Record):
    """How long a restoring will take: its size, and the rate of all that were read in this home."""

    bytes: int
    rate: float  # bytes a second
    seconds: float


def protected(ledger: Ledger) -> dict[str, str]:
    """Adapters (digests) that may not be put away now, each with the reason."""
    champion = ledger.champion()
    found = {champion.adapter: "it is the champion"}
    back = ledger.rollback_target()
    for row in ledger.latest(PromotionEntry, RollbackEntry, versions=[back] if back else []):
        if row.body.version == back:
            found.setdefault(row.body.adapter, "a rollback goes back to it")
            break
    for verdict in open_verdicts(ledger):
        found.setdefault(verdict.body.challenger, "its verdict PROMOTE is still open")
    found.pop(BASE, None)
    return found


def archive(
    ledger: Ledger, versions: Versions, store: AdapterStore, version: Version, *, by: str, because: str = ""
) -> Packed:
    """Put a version's adapter away: its folder becomes one file. Doing it again finishes what a kill left undone.

    Raises InputError where it must stay, AdapterError where it is loaded or damaged, HomeError where an evolution runs.
    """
    if version.adapter == BASE or not version.adapter:
        raise InputError(f"{version.name} has no adapter.", "There is nothing to archive.")
    if not store.here(version.adapter):
        if (known := store.packed(version.adapter)) is not None:
            _show(ledger, versions, version.version, archived=True)
            return known
        raise AdapterError(f"The adapter of {version.name} is not on the disk.", "Train it again.")
    lock = store.adapters.parent / "locks" / "evolve"
    with (
        exclusive_lock(lock, "An evolution is running in this home; nothing is archived meanwhile."),
        store.exclusive(version.adapter),
    ):
        # nobody can make it champion between this look and the end: who does that uses the adapter
        if (reason := protected(ledger).get(version.adapter)) is not None:
            raise InputError(f"{version.name} stays on the disk: {reason}.", "`academy models prune` leaves it alone.")
        found = store.pack(version.adapter)
        _row(ledger, ArchiveEntry, version.version, found, by, because)
        store.remove(version.adapter)
    _show(ledger, versions, version.version, archived=True)
    return found


def restore(
    ledger: Ledger, versions: Versions, store: AdapterStore, version: str, adapter: str, *, by: str, because: str = ""
) -> Packed | None:
    """Bring an archived adapter back, having said how long it will take. None where it is on the disk already.

    Raises InputError for a version without an adapter, AdapterError for one that is nowhere or was altered.
    """
    if adapter == BASE or not adapter:
        raise InputError(f"v{version} has no adapter.", "There is nothing to restore.")
    if store.here(adapter):
        return None
    if store.packed(adapter) is None:
        raise AdapterError(
            f"The adapter of v{version} is neither on the disk nor in the archive.",
            "Train again: on processors the bytes are the same.",
        )
    expected = estimate(ledger, store, adapter)
    log.info(
        "v%s is archived; restoring its %.1f MB takes about %.1f s",
        version, expected.bytes / 1e6, expected.seconds,
    )  # fmt: skip
    found = store.unpack(adapter)
    _row(ledger, RestoreEntry, version, found, by, because)
    _show(ledger, versions, version, archived=False)
    return found


def estimate(ledger: Ledger, store: AdapterStore, adapter: str) -> Estimate:
    """From the size of the archive's files and the measured rate of earlier readings, its own among them."""
    own = store.packed(adapter)
    if own is None:
        raise AdapterError(f"The adapter {adapter[:12]} is not archived.", "`academy models` lists the versions.")
    timed: list[ArchiveEntry | Packed] = [row.body for row in ledger.latest(ArchiveEntry, limit=50)]
    timed = timed or [own]
    seconds = sum(packing.seconds for packing in timed)
    rate = sum(packing.bytes for packing in timed) / max(seconds, 1e-6)
    return Estimate(bytes=own.bytes, rate=rate, seconds=own.bytes / rate)


def prune(
    ledger: Ledger, versions: Versions, store: AdapterStore, keep: int, *, by: str, dry_run: bool = False
) -> list[Kept]:
    """Leave the newest `keep` versions and what must stay; archive the rest. Newest first.

    With `dry_run` nothing is changed, and a version that a running process has loaded counts as one to be archived.
    """
    folders = {path.name for path in store.adapters.iterdir() if not path.name.startswith(".")}
    guarded = protected(ledger)
    seen: set[str] = set()
    found: list[Kept] = []
    for version in versions.newest(ledger.champion()):
        if not folders - seen:
            break  # older versions have nothing on the disk
        name = version.adapter[:16]
        if name not in folders or name in seen:
            continue
        seen.add(name)
        size = sum(path.stat().st_size for path in store.folder(version.adapter).iterdir())
        reason = f"it is among the newest {keep}" if len(found) < keep else ""
        if version.verdict == "not examined" and not version.unverified:
            reason = reason or "it is not examined yet"
        reason = guarded.get(version.adapter, reason)
        because = reason or f"it is older than the newest {keep}"
        if not reason and not dry_run:
            try:
                archive(ledger, versions, store, version, by=by, because=f"pruned to {keep}")
            except AdapterError as problem:  # loaded or damaged: it stays, and the others go on
                reason = because = problem.message.rstrip(".")
        action: Literal["stays", "archive"] = "stays" if reason else "archive"
        found.append(Kept(version=version.version, adapter=version.adapter, action=action, because=because, bytes=size))
    return found


def _row(
    ledger: Ledger, entry_of: type[ArchiveEntry | RestoreEntry], version: str, found: Packed, by: str, because: str
) -> None:
    """A history row. A second one of the same kind in a row is the first one's: it was killed before its end."""
    rows = [row for row in ledger.latest(ArchiveEntry, RestoreEntry) if row.body.adapter == found.adapter]
    if rows and rows[0].kind == entry_of.kind:
        return
    entry = entry_of(
        version=version, adapter=found.adapter, sha256=found.sha256, bytes=found.bytes,
        packed_bytes=found.packed_bytes, seconds=found.seconds, by=by, because=because,
    )  # fmt: skip
    ledger.append(f"{entry.kind}:{ledger.family}:{found.adapter}:{len(rows)}", entry)


def _show(ledger: Ledger, versions: Versions, version: str, *, archived: bool) -> None:
    if versions.set_tags(version, {ARCHIVED: "yes" if archived else None}):
        describe(versions, ledger, version)
