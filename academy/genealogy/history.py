"""What happened to the champion and to the adapters of a family: the ledger's rows as deployments, and in words."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from academy.records import Record
from academy.store.ledger import BASE, Kind, Ledger, Row

Action = Literal["deploy", "rollback", "archive", "restore", "approve", "decline"]
KINDS: tuple[Kind, ...] = ("promotion", "rollback", "archive", "restore", "approval")


class Deployment(Record):
    """One change: what was done to which version, who did it, when, and why."""

    seq: int  # of the ledger's row
    at: str  # ISO 8601, UTC
    action: Action
    version: str
    adapter: str
    replaces: str = ""  # the version that was champion before; only of deploy and rollback
    by: str = ""  # a person, or `flow run ID`; empty in rows that were written before this was kept
    verdict: int | None = None  # the row it rests on; a deploy without one is a person's activation by hand
    notes: str = ""
    config: dict[str, Any] = Field(default_factory=dict)  # base model and recipe of what answers now

    @property
    def by_hand(self) -> bool:
        """Whether a person made it champion without a verdict."""
        return self.action == "deploy" and self.verdict is None

    @property
    def sentence(self) -> str:
        """What was done, for people; who and when stand beside it."""
        name, before = shown(self.version), shown(self.replaces or BASE)
        why = f" ({self.notes})" if self.notes else ""
        match self.action:
            case "deploy":
                how = " by hand, without a verdict" if self.by_hand else ""
                return f"{name} replaces {before}{how}{why}"
            case "rollback":
                return f"back to {name} from {before}{why}"
            case "archive":
                return f"{name} was archived{why}"
            case "restore":
                return f"{name} was restored{why}"
            case "approve":
                return f"{name} may be promoted{why}"
            case "decline":
                return f"{name} is not to be promoted{why}"


def history(
    ledger: Ledger, limit: int | None = None, before: int | None = None, versions: Collection[str] | None = None
) -> list[Deployment]:
    """Changes, newest first; `before` is a row's number, `versions` leaves only what concerns these."""
    return [deployment(row) for row in ledger.latest(*KINDS, limit=limit, before=before, versions=versions)]


def deployment(row: Row) -> Deployment:
    """A ledger row of one of KINDS as a deployment."""
    body = row.body
    actions: dict[str, Action] = {"promotion": "deploy", "rollback": "rollback", "archive": "archive"}
    actions |= {"restore": "restore", "approval": "approve" if body.get("approved") else "decline"}
    return Deployment(
        seq=row.seq,
        at=row.at,
        action=actions[row.kind],
        version=str(body["version"]),
        adapter=str(body["adapter"]),
        replaces=str(body.get("replaces", "")),
        by=str(body.get("by", "")),
        verdict=body.get("verdict"),
        notes=str(body.get("because", "")),
        config=body.get("config") or {},
    )


def shown(version: str) -> str:
    """A version as people see it: `v7` or `base`."""
    return version if version == BASE else f"v{version}"


def refused(row: Row) -> str:
    """A row of the kind `refuse` as a sentence."""
    body = row.body
    who = f"all before v{body['older_than']}" if "older_than" in body else shown(body["version"])
    why = f" ({body['because']})" if body.get("because") else ""
    return f"{who} {'is served again' if body.get('refused') is False else 'must not be served'}{why}"
