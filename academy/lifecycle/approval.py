"""A person approves or declines a PROMOTE verdict; each decision is a ledger row.

An approval is valid for one verdict and one champion: after a change of the champion it no longer counts. A declined
verdict never promotes. The first decision on a verdict counts.
"""

from __future__ import annotations

from typing import Literal

from academy.errors import PromotionError
from academy.store.ledger import Ledger
from academy.store.ledger_rows import ApprovalEntry, PromotionEntry, Row, VerdictEntry

ApprovalStatus = Literal["approved", "declined", "undecided"]


def approval_status(ledger: Ledger, verdict: Row[VerdictEntry]) -> ApprovalStatus:
    """The decision on a verdict that counts now."""
    since = ledger.champion().seq
    rows = _decisions(ledger, verdict)
    if any(not row.body.approved for row in rows):
        return "declined"
    return "approved" if any(row.seq > since for row in rows) else "undecided"


def open_verdicts(ledger: Ledger) -> list[Row[VerdictEntry]]:
    """PROMOTE verdicts against the current champion that are not carried out yet, newest first.

    These are verdicts since it became champion that were not declined, and older ones that were approved since then.
    """
    champion, carried_out = ledger.champion(), _carried_out(ledger)
    return [
        row
        for row in ledger.latest(VerdictEntry)
        if row.body.outcome == "PROMOTE"
        and row.body.champion == champion.adapter
        and row.seq not in carried_out
        and (status := approval_status(ledger, row)) != "declined"
        and (row.seq > champion.seq or status == "approved")
    ]


def record_approval(
    ledger: Ledger, verdict: Row[VerdictEntry], *, approved: bool, by: str, note: str = ""
) -> Row[ApprovalEntry]:
    """Record that a person approved or declined a verdict against the current champion. Repeating it changes nothing.

    Raises PromotionError if the verdict needs no decision, or the opposite was decided before.
    """
    champion = ledger.champion()
    name = f"v{verdict.body.version}"
    if verdict.body.outcome != "PROMOTE":
        raise PromotionError(
            f"{name} has the verdict {verdict.body.outcome}, so there is nothing to approve.",
            "Only a version with the verdict PROMOTE can be approved.",
        )
    if verdict.body.champion != champion.adapter:
        raise PromotionError(
            f"{name} was not examined against the current champion, {champion.name}.",
            f"Run `academy examine {name}` again.",
        )
    if verdict.seq in _carried_out(ledger):
        raise PromotionError(
            f"{name} was already promoted on this verdict and rolled back since.",
            f"Run `academy rollback {name}` to make it champion again.",
        )
    refusal = next((row for row in _decisions(ledger, verdict) if not row.body.approved), None)
    # one decision per verdict and champion: if two people decide at once, the first one counts
    row = refusal or ledger.append(
        f"approval:{ledger.family}:{verdict.seq}:{champion.seq}",
        ApprovalEntry(
            verdict=verdict.seq,
            version=verdict.body.version,
            adapter=verdict.body.challenger,
            approved=approved,
            by=by,
            because=note,
        ),
    )
    if row.body.approved != approved:
        decision = "approved" if row.body.approved else "declined"
        raise PromotionError(
            f"{name} was {decision} by {row.body.by} before.",
            f"The first decision on a verdict counts. `academy models activate {name}` promotes without a verdict.",
        )
    return row


def _carried_out(ledger: Ledger) -> set[int]:
    return {row.body.verdict for row in ledger.latest(PromotionEntry) if row.body.verdict is not None}


def _decisions(ledger: Ledger, verdict: Row[VerdictEntry]) -> list[Row[ApprovalEntry]]:
    return [row for row in ledger.latest(ApprovalEntry) if row.body.verdict == verdict.seq]
