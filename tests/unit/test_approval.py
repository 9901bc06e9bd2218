"""Approvals: one decision per verdict and champion, also after a kill between its rows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from academy.errors import PromotionError
from academy.genealogy.history import history
from academy.genealogy.versions import Version
from academy.lifecycle.approval import approval_status, open_verdicts, record_approval
from academy.lifecycle.promotion import activate, promote
from academy.store.ledger_rows import ApprovalEntry, PromotionEntry, Row, VerdictEntry
from tests.registry import House, Standby


def approved_promotion(house: House, version: Version, verdict: Row[VerdictEntry]) -> Row[PromotionEntry]:
    return promote(
        house.ledger, house.versions, version, house.gate, verdict, Standby(), by="a flow", approval=True
    )  # fmt: skip


def test_winner_waits_until_a_person_approves_it(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    assert approval_status(house.ledger, verdict) == "undecided"
    with pytest.raises(PromotionError, match="v1 waits for approval"):
        approved_promotion(house, version, verdict)
    assert house.ledger.champion().version == "base"
    record_approval(house.ledger, verdict, approved=True, by="anna", note="seen")
    assert approval_status(house.ledger, verdict) == "approved"
    row = approved_promotion(house, version, verdict)
    assert (row.body.by, house.ledger.champion().version, house.alias) == ("a flow", "1", "1")


def test_declined_verdict_never_promotes(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    record_approval(house.ledger, verdict, approved=False, by="anna", note="too early")
    assert open_verdicts(house.ledger) == []
    for approval in (True, False):
        with pytest.raises(PromotionError, match="was declined"):
            promote(house.ledger, house.versions, version, house.gate, verdict, Standby(), approval=approval)
    with pytest.raises(PromotionError, match="v1 was declined by anna before"):
        record_approval(house.ledger, verdict, approved=True, by="bert")
    assert house.ledger.champion().version == "base"


def test_approval_expires_when_the_champion_changes(house: House) -> None:
    first, second, third = (house.train(value) for value in (1.0, 2.0, 3.0))
    house.make_champion(first)
    verdict = house.examine(third)
    record_approval(house.ledger, verdict, approved=True, by="anna")
    house.make_champion(second)
    assert (approval_status(house.ledger, verdict), open_verdicts(house.ledger)) == ("undecided", [])
    house.rollback()
    assert house.ledger.champion().version == first.version, "the champion of its examination is back"
    assert (approval_status(house.ledger, verdict), open_verdicts(house.ledger)) == ("undecided", [])
    with pytest.raises(PromotionError, match="waits for approval"):
        approved_promotion(house, third, verdict)
    record_approval(house.ledger, verdict, approved=True, by="bert")
    assert open_verdicts(house.ledger) == [verdict]
    approved_promotion(house, third, verdict)
    assert house.ledger.champion().version == third.version


def test_approval_is_valid_for_one_verdict_only(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    verdicts = house.examine(first), house.examine(second)
    record_approval(house.ledger, verdicts[0], approved=True, by="anna")
    with pytest.raises(PromotionError, match="v2 waits"):
        approved_promotion(house, second, verdicts[1])


@pytest.mark.parametrize("outcome", ["HOLD", "REJECT", "CANNOT DECIDE"])
def test_verdict_other_than_promote_cannot_be_approved(house: House, outcome: str) -> None:
    verdict = house.examine(house.train(1.0), outcome)
    with pytest.raises(PromotionError, match=outcome):
        record_approval(house.ledger, verdict, approved=True, by="anna")
    assert list(house.ledger.rows(ApprovalEntry)) == []


def test_verdict_that_was_carried_out_cannot_be_approved_again(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    house.promote(version, verdict)
    house.rollback()
    with pytest.raises(PromotionError, match="rolled back since"):
        record_approval(house.ledger, verdict, approved=True, by="anna")


def test_approving_twice_writes_one_row_and_finishes_what_a_kill_left(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    first = record_approval(house.ledger, verdict, approved=True, by="anna")
    # killed here: the approval is written, the promotion is not
    assert open_verdicts(house.ledger) == [verdict]
    assert record_approval(house.ledger, verdict, approved=True, by="anna") == first
    approved_promotion(house, version, verdict)
    house.versions.set_champion_alias("base")  # killed before the alias was set
    approved_promotion(house, version, verdict)
    assert (house.alias, len(list(house.ledger.rows(PromotionEntry)))) == ("1", 1)


def test_first_of_two_concurrent_decisions_counts(house: House) -> None:
    verdict = house.examine(house.train(1.0))

    def say(approved: bool) -> bool:
        try:
            return record_approval(house.ledger, verdict, approved=approved, by=str(approved)).body.approved is approved
        except PromotionError:
            return False

    with ThreadPoolExecutor(2) as pool:
        heard = list(pool.map(say, (True, False)))
    assert sorted(heard) == [False, True]
    assert len(list(house.ledger.rows(ApprovalEntry))) == 1


def test_history_shows_who_did_what_and_why(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    verdict = house.examine(first)
    record_approval(house.ledger, verdict, approved=True, by="anna", note="seen")
    approved_promotion(house, first, verdict)
    activate(
        house.ledger, house.versions, second, house.gate, Standby(), by="bert", because="a rehearsal"
    )  # fmt: skip
    house.rollback()
    changes = history(house.ledger)[::-1]
    assert [(change.action, change.version, change.by) for change in changes] == [
        ("approve", "1", "anna"), ("deploy", "1", "a flow"), ("deploy", "2", "bert"), ("rollback", "1", "tester"),
    ]  # fmt: skip
    assert [change.by_hand for change in changes] == [False, False, True, False]
    assert changes[2].sentence == "v2 replaces v1 by hand, without a verdict (a rehearsal)"
    assert changes[2].config["base_model"] == "seed"
    assert [change.seq for change in history(house.ledger, 2)] == [changes[3].seq, changes[2].seq]
    assert [change.seq for change in history(house.ledger, 2, before=changes[2].seq)] == [
        changes[1].seq,
        changes[0].seq,
    ]
