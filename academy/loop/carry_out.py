"""Carries out a verdict: promotes the winner, or keeps it waiting for a person's approval.

Each call may be repeated after a kill. The promotion itself is one function, in lifecycle/promotion.py.
"""

from __future__ import annotations

import logging

from academy.errors import PromotionError
from academy.genealogy.description import describe
from academy.genealogy.versions import Version
from academy.lifecycle.approval import approval_status, record_approval
from academy.lifecycle.promotion import promote, reconcile
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger import Champion
from academy.store.ledger_rows import ApprovalEntry, Row, VerdictEntry

log = logging.getLogger(__name__)


class Outcome(Record):
    """What became of a verdict: whether the challenger is champion now, or waits for approval."""

    promoted: bool
    waiting: bool = False


def carry_out(home: Home, challenger: Version, row: Row[VerdictEntry], *, by: str) -> Outcome:
    """Carry out a verdict; `by` names who does it. With ACADEMY_PROMOTION=approval a winner waits for a person."""
    if row.body.outcome != "PROMOTE":
        reconcile(home.ledger, home.versions)
        return Outcome(promoted=False)
    before = home.ledger.champion()
    if before.adapter == challenger.adapter:
        reconcile(home.ledger, home.versions)
        return Outcome(promoted=True)
    approval = approval_status(home.ledger, row)
    if approval == "declined":
        log.info("%s was declined: it is not promoted", challenger.name)
        return Outcome(promoted=False)
    if waits_for_approval(home) and approval != "approved":
        log.info("%s waits for approval: academy approve %s", challenger.name, challenger.name)
        return Outcome(promoted=False, waiting=True)
    promote(
        home.ledger, home.versions, challenger, home.gate, row, home.serving,
        by=by, approval=waits_for_approval(home),
    )  # fmt: skip
    log.info("%s is champion; before it was %s", challenger.name, before.name)
    return Outcome(promoted=home.ledger.champion().adapter == challenger.adapter)


def waits_for_approval(home: Home) -> bool:
    """Whether a person must approve every promotion in this home."""
    return home.settings.promotion == "approval"


def approve(home: Home, name: str, *, by: str, note: str = "") -> Champion:
    """Record a person's approval of a version's last verdict, and promote it. Repeating it after a kill finishes it."""
    version, verdict = winner(home, name)
    if home.ledger.champion().adapter != version.adapter:
        record_approval(home.ledger, verdict, approved=True, by=by, note=note)
    carry_out(home, version, verdict, by=by)
    return home.ledger.champion()


def decline(home: Home, name: str, *, by: str, because: str) -> Row[ApprovalEntry]:
    """Record that a person declined a version's last verdict: it never promotes."""
    version, verdict = winner(home, name)
    row = record_approval(home.ledger, verdict, approved=False, by=by, note=because)
    describe(home.versions, home.ledger, version.version)
    return row


def winner(home: Home, name: str) -> tuple[Version, Row[VerdictEntry]]:
    """A version and its last verdict. Raises PromotionError if that is not PROMOTE, or if there is none."""
    version = home.versions.get(name)
    verdicts = [row for row in home.ledger.latest(VerdictEntry) if row.body.challenger == version.adapter]
    if not verdicts:
        raise PromotionError(f"{version.name} was not examined.", f"Run `academy examine {version.name}` first.")
    verdict = verdicts[0]
    if verdict.body.outcome != "PROMOTE":
        raise PromotionError(
            f"{version.name} has the verdict {verdict.body.outcome}: {verdict.body.because.rstrip('.')}.",
            "Only a version with the verdict PROMOTE can become champion.",
        )
    return version, verdict
