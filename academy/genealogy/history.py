"""The history of champions and adapters of a family: ledger rows as deployments, and in sentences."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, TypeGuard

from pydantic import Field

from academy.records import Record
from academy.store.ledger import BASE, Ledger
from academy.store.ledger_rows import (
    ApprovalEntry,
    ArchiveEntry,
    ChampionEntry,
    Entry,
    PromotionEntry,
    RefusalEntry,
    RestoreEntry,
    RollbackEntry,
    Row,
)

Action = Literal["deploy", "rollback", "archive", "restore", "approve", "decline"]
Change = PromotionEntry | RollbackEntry | ArchiveEntry | RestoreEntry | ApprovalEntry
CHANGES: tuple[type[Change], ...] = (PromotionEntry, RollbackEntry, ArchiveEntry, RestoreEntry, ApprovalEntry)


class Deployment(Record):
    """One change of a version: what, when, by whom and why."""

    seq: int  # of the ledger's row
    at: str  # ISO 8601, UTC
    action: Action
    version: str
    adapter: str
    replaces: str = ""  # the former champion; only for deploy and rollback
    by: str = ""  # a person, or `flow run ID`; empty in rows of early releases
    verdict: int | None = None  # row of the verdict; a deploy without one is an activation by hand
    notes: str = ""
    config: dict[str, Any] = Field(default_factory=dict)  # base model and recipe of the new champion

    @property
    def by_hand(self) -> bool:
        """Whether a person made it champion without a verdict."""
        return self.action == "deploy" and self.verdict is None

    @property
    def sentence(self) -> str:
        """The change as a sentence, without time and person."""
        name, before = version_name(self.version), version_name(self.replaces or BASE)
        why = f" ({self.notes})" if self.notes else ""
        match self.action:
            case "deploy":
                how = " by hand, without a verdict" if self.by_hand else ""
                return f"{name} replaces {before}{how}{why}"
            case "rollback":
                return f"rollback from {before} to {name}{why}"
            case "archive":
                return f"{name} was archived{why}"
            case "restore":
                return f"{name} was restored{why}"
            case "approve":
                return f"{name} was approved for promotion{why}"
            case "decline":
                return f"{name} was declined for promotion{why}"


def history(
    ledger: Ledger, limit: int | None = None, before: int | None = None, versions: Collection[str] | None = None
) -> list[Deployment]:
    """Changes, newest first; `before` is a row's number, `versions` selects changes of these versions."""
    return [to_deployment(row) for row in ledger.latest(*CHANGES, limit=limit, before=before, versions=versions)]


def is_change(row: Row[Entry]) -> TypeGuard[Row[Change]]:
    """Whether a row can be shown as a deployment."""
    return isinstance(row.body, CHANGES)


def to_deployment(row: Row[Change]) -> Deployment:
    """The ledger row of a change as a deployment."""
    entry = row.body
    champion = entry if isinstance(entry, ChampionEntry) else None
    return Deployment(
        seq=row.seq,
        at=row.at,
        action=_action(entry),
        version=entry.version,
        adapter=entry.adapter,
        replaces=champion.replaces if champion else "",
        by=entry.by,
        verdict=None if isinstance(entry, ArchiveEntry | RestoreEntry) else entry.verdict,
        notes=entry.because,
        config=champion.config.as_json() if champion else {},
    )


def _action(entry: Change) -> Action:
    match entry:
        case PromotionEntry():
            return "deploy"
        case ApprovalEntry(approved=True):
            return "approve"
        case ApprovalEntry():
            return "decline"
        case RollbackEntry():
            return "rollback"
        case ArchiveEntry():
            return "archive"
        case RestoreEntry():
            return "restore"


def version_name(version: str) -> str:
    """The name of a version for people: `v7` or `base`."""
    return version if version == BASE else f"v{version}"


def describe_refusal(entry: RefusalEntry) -> str:
    """A refusal as a sentence."""
    subject = (
        f"all versions before v{entry.older_than}" if entry.older_than is not None else version_name(entry.version)
    )
    why = f" ({entry.because})" if entry.because else ""
    return f"{subject} {'must not be served' if entry.refused else 'may be served again'}{why}"
