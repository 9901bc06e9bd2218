"""What becomes of a verdict: it is carried out, waits for a person's word, or is finished after a kill.

Each call may be repeated after it was killed; the promotion itself is one function (lifecycle/promotion.py),
whoever asks for it.
"""

from __future__ import annotations

import logging

from academy.errors import AdapterError, PromotionError
from academy.genealogy.description import describe
from academy.genealogy.versions import Version
from academy.lifecycle.approval import decide, open_verdicts, standing
from academy.lifecycle.promotion import promote, reconcile
from academy.loop.examine import publish_verdict
from academy.loop.home import Home
from academy.records import Record
from academy.store.files import sweep
from academy.store.ledger import Champion
from academy.store.ledger_rows import ApprovalEntry, Row, VerdictEntry

log = logging.getLogger("academy")
SETTLED = "the next start, after a kill"
"""Who carries out what a killed run had left open."""


class Acted(Record):
    """What became of a verdict: whether the challenger is champion now, or waits for a person's word."""

    promoted: bool
    waiting: bool = False


def act(home: Home, challenger: Version, row: Row[VerdictEntry], *, by: str) -> Acted:
    """Do what a verdict says; `by` is who does it. With ACADEMY_PROMOTION=approval a winner waits for a person."""
    if row.body.outcome != "PROMOTE":
        reconcile(home.ledger, home.versions)
        return Acted(promoted=False)
    before = home.ledger.champion()
    if before.adapter == challenger.adapter:
        reconcile(home.ledger, home.versions)
        return Acted(promoted=True)
    said = standing(home.ledger, row)
    if said == "declined":
        log.info("%s was declined: it is not promoted", challenger.name)
        return Acted(promoted=False)
    if waits_for_approval(home) and said != "approved":
        log.info("%s waits for approval: academy approve %s", challenger.name, challenger.name)
        return Acted(promoted=False, waiting=True)
    promote(
        home.ledger, home.versions, challenger, home.gate, row, home.serving,
        by=by, approval=waits_for_approval(home),
    )  # fmt: skip
    log.info("%s is champion; before it was %s", challenger.name, before.name)
    return Acted(promoted=home.ledger.champion().adapter == challenger.adapter)


def waits_for_approval(home: Home) -> bool:
    """Whether a person must approve every promotion here."""
    return home.settings.promotion == "approval"


def approve(home: Home, name: str, *, by: str, note: str = "") -> Champion:
    """Write a person's approval of a version's last verdict, and promote it. Repeating it after a crash finishes it."""
    version, verdict = winner(home, name)
    if home.ledger.champion().adapter != version.adapter:
        decide(home.ledger, verdict, approved=True, by=by, note=note)
    act(home, version, verdict, by=by)
    return home.ledger.champion()


def decline(home: Home, name: str, *, by: str, because: str) -> Row[ApprovalEntry]:
    """Write a person's refusal of a version's last verdict: it never promotes."""
    version, verdict = winner(home, name)
    row = decide(home.ledger, verdict, approved=False, by=by, note=because)
    describe(home.versions, home.ledger, version.version)
    return row


def winner(home: Home, name: str) -> tuple[Version, Row[VerdictEntry]]:
    """A version and its last verdict. Raises PromotionError where it is not PROMOTE, or there is none."""
    version = home.versions.get(name)
    verdicts = [row for row in home.ledger.latest(VerdictEntry) if row.body.challenger == version.adapter]
    if not verdicts:
        raise PromotionError(f"{version.name} was not examined.", f"Run `academy examine {version.name}` first.")
    if verdicts[0].body.outcome != "PROMOTE":
        raise PromotionError(
            f"{version.name} has the verdict {verdicts[0].body.outcome}: {verdicts[0].body.because.rstrip('.')}.",
            "Only a version with the verdict PROMOTE becomes champion.",
        )
    return version, verdicts[0]


def settle(home: Home) -> None:
    """Finish what an evolution that was killed after its verdict had left open: registry, crown, alias.

    So is an approval whose promotion was killed. A winner that waits for approval is left waiting. One that is damaged
    by now, or was deleted in MLflow, is not promoted, and does not stop the loop either.
    """
    sweep(home.settings.home)
    verdicts = list(home.ledger.rows(VerdictEntry))
    last = verdicts[-1:]
    for row in last:
        version = home.versions.find(row.body.version)
        if version is not None and version.verdict != row.body.outcome:
            publish_verdict(home, version, row)
    champion = home.ledger.champion().seq
    for row in open_verdicts(home.ledger):
        approved = standing(home.ledger, row) == "approved"
        if not approved and row not in last:
            continue  # a later examination was held instead of its promotion
        version = home.versions.find(row.body.version)
        if version is None:
            log.warning("v%s won its examination and was deleted in MLflow", row.body.version)
            continue
        try:
            act(home, version, row, by=SETTLED)
        except (AdapterError, PromotionError) as problem:
            log.warning("%s won its examination and is not promoted: %s", version.name, problem)
        if home.ledger.champion().seq != champion:
            break  # what else was open was an examination against another champion
    if home.ledger.champion().seq:  # MLflow is opened only where it has something to show
        reconcile(home.ledger, home.versions)
