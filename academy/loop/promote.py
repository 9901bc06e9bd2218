"""Promotes a version by hand, based on its last verdict, or declines it."""

from __future__ import annotations

from academy.errors import PromotionError
from academy.genealogy.history import Deployment, to_deployment
from academy.loop.carry_out import Outcome, carry_out, winner
from academy.loop.carry_out import decline as decline_version
from academy.loop.home import Home
from academy.loop.rollback import Change


def promote(home: Home, name: str, *, by: str) -> Change:
    """Make a version champion. Raises PromotionError where its verdict, an approval or the ledger does not allow it."""
    version = home.versions.get(name)
    before = home.ledger.champion()
    if before.adapter == version.adapter:
        raise PromotionError(f"{version.name} is already the champion.", "`academy models` lists the versions.")
    version, verdict = winner(home, name)
    if carry_out(home, version, verdict, by=by).waiting:
        raise PromotionError(
            f"{version.name} waits for approval: every promotion in this home needs one.",
            f"Approve it with `academy approve {version.name}`.",
        )
    champion = home.ledger.champion()
    if champion.adapter != version.adapter:
        raise PromotionError(
            f"{version.name} was declined.",
            f"To make it champion without a verdict, run `academy models activate {version.name}`.",
        )
    return Change(before=before, champion=champion)


def request_promotion(home: Home, name: str, *, by: str) -> Outcome:
    """Carry out a version's last verdict. It waits where a person must approve it: asking is not approving."""
    version, verdict = winner(home, name)
    return carry_out(home, version, verdict, by=by)


def decline(home: Home, name: str, *, by: str, because: str) -> Deployment:
    """Decline a version's last verdict: it never promotes. Raises PromotionError where it was approved before."""
    return to_deployment(decline_version(home, name, by=by, because=because))
