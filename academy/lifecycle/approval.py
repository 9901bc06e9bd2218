"""A person's word on a winner: approval and refusal of one verdict, as ledger rows of their own.

An approval counts for one verdict, and dies when the champion changes: what was approved then was another change. A
refusal stays: its verdict never promotes. The first word on a verdict is the one that counts.
"""

from __future__ import annotations

from typing import Literal

from academy.errors import PromotionError
from academy.store.ledger import Ledger
from academy.store.ledger_rows import ApprovalEntry, PromotionEntry, Row, VerdictEntry

ApprovalStatus = Literal["approved", "declined", "undecided"]


def approval_status(ledger: Ledger, verdict: Row[VerdictEntry]) -> ApprovalStatus:
    """What a person said of a verdict, as far as it counts now."""
    since = ledger.champion().seq
    rows = _words(ledger, verdict)
    if any(not row.body.approved for row in rows):
        return "declined"
    return "approved" if any(row.seq > since for row in rows) else "undecided"


def open_verdicts(ledger: Ledger) -> list[Row[VerdictEntry]]:
    """PROMOTE verdicts against the present champion that wait to be carried out, newest first.

    Those are the ones held since it became champion and not declined, and older ones that were approved since.
    """
    champion, done = ledger.champion(), _carried_out(ledger)
    return [
        row
        for row in ledger.latest(VerdictEntry)
        if row.body.outcome == "PROMOTE"
        and row.body.champion == champion.adapter
        and row.seq not in done
        and (said := approval_status(ledger, row)) != "declined"
        and (row.seq > champion.seq or said == "approved")
    ]


def record_approval(
    ledger: Ledger, verdict: Row[VerdictEntry], *, approved: bool, by: str, note: str = ""
) -> Row[ApprovalEntry]:
    """Write a person's word on a verdict against the present champion. Saying the same again changes nothing.

    Raises PromotionError where there is nothing to be decided, or the opposite was said before.
    """
    champion = ledger.champion()
    name = f"v{verdict.body.version}"
    if verdict.body.outcome != "PROMOTE":
        raise PromotionError(
            f"{name} has the verdict {verdict.body.outcome}: there is nothing to approve.",
            "Only a version with the verdict PROMOTE waits for approval.",
        )
    if verdict.body.champion != champion.adapter:
        raise PromotionError(
            f"{name} was examined against another champion than {champion.name}.",
            f"Run `academy examine {name}` again.",
        )
    if verdict.seq in _carried_out(ledger):
        raise PromotionError(
            f"{name} was promoted on this verdict before, and was rolled back since.",
            f"Make it champion again with `academy rollback {name}`.",
        )
    declined = next((row for row in _words(ledger, verdict) if not row.body.approved), None)
    # one word for each verdict and champion: of two people who decide at once the first is heard
    row = declined or ledger.append(
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
        said = "approved" if row.body.approved else "declined"
        raise PromotionError(
            f"{name} was {said} by {row.body.by} before.",
            f"The first word on a verdict counts; `academy models activate {name}` goes without one.",
        )
    return row


def _carried_out(ledger: Ledger) -> set[int]:
    return {row.body.verdict for row in ledger.latest(PromotionEntry) if row.body.verdict is not None}


def _words(ledger: Ledger, verdict: Row[VerdictEntry]) -> list[Row[ApprovalEntry]]:
    return [row for row in ledger.latest(ApprovalEntry) if row.body.verdict == verdict.seq]
