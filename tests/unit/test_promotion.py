"""Promotion and rollback on a real ledger and a real MLflow registry: the ledger decides, the alias follows."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from academy.adapters.adapter import CONFIG, WEIGHTS
from academy.errors import AdapterError, InputError, PromotionError
from academy.experience.lessons import LessonsStore
from academy.lifecycle.promotion import reconcile
from academy.store.ledger import BASE
from academy.store.ledger_rows import PromotionEntry
from tests.registry import House, Standby


def test_promotion_sets_the_champion_and_the_alias(house: House) -> None:
    version = house.train(1.0)
    row = house.promote(version, house.examine(version, cursor=40))
    champion = house.ledger.champion()
    assert (champion.version, champion.adapter) == (version.version, version.adapter)
    assert (champion.generation, champion.cursor, house.alias) == (1, 40, version.version)
    assert row.body.replaces == BASE


def test_promoting_twice_writes_one_row(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    assert house.promote(version, verdict) == house.promote(version, verdict)
    assert len(list(house.ledger.rows(PromotionEntry))) == 1


@pytest.mark.parametrize("outcome", ["HOLD", "REJECT", "CANNOT DECIDE"])
def test_verdict_other_than_promote_is_refused(house: House, outcome: str) -> None:
    version = house.train(1.0)
    with pytest.raises(PromotionError, match=outcome):
        house.promote(version, house.examine(version, outcome))
    assert (house.ledger.champion().version, house.alias) == (BASE, BASE)


def test_verdict_of_another_version_is_refused(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    with pytest.raises(PromotionError):
        house.promote(second, house.examine(first))
    assert house.ledger.champion().version == BASE


def test_verdict_against_a_former_champion_is_refused(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    stale = house.examine(second)
    house.make_champion(first)
    with pytest.raises(PromotionError, match="was not examined against the current champion"):
        house.promote(second, stale)
    assert house.ledger.champion().version == first.version


def test_adapter_altered_after_its_examination_is_not_promoted(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    path = house.adapters / version.adapter[:16] / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterError):
        house.promote(version, verdict)
    assert house.ledger.champion().version == BASE


def test_adapter_with_other_canary_answers_is_not_promoted(house: House) -> None:
    def refuse(folder: Path) -> None:
        raise AdapterError(f"{folder} sings another song.")

    version = house.train(1.0)
    with pytest.raises(AdapterError, match="another song"):
        house.promote(version, house.examine(version), refuse)
    assert house.ledger.champion().version == BASE


def test_rollback_goes_step_by_step_to_the_base_model(house: House) -> None:
    for value in (1.0, 2.0, 3.0):
        house.make_champion(house.train(value))
    assert [house.rollback() for _ in range(3)] == ["v2", "v1", "base"]
    assert (house.alias, house.ledger.champion().generation) == (BASE, 0)
    with pytest.raises(PromotionError, match="there is nothing to roll back to"):
        house.rollback()


def test_rollback_restores_generation_and_cursor(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.promote(first, house.examine(first, cursor=10))
    house.promote(second, house.examine(second, cursor=20))
    house.rollback()
    champion = house.ledger.champion()
    assert (champion.version, champion.adapter, champion.generation, champion.cursor) == ("1", first.adapter, 1, 10)
    assert house.alias == "1"


def test_version_can_be_promoted_and_rolled_back_after_a_rollback(house: House) -> None:
    for value in (1.0, 2.0):
        house.make_champion(house.train(value))
    house.rollback()
    house.make_champion(house.train(3.0))
    assert (house.ledger.champion().version, house.ledger.champion().generation) == ("3", 2)
    assert [house.rollback(), house.rollback()] == ["v1", "base"]


def test_rollback_to_a_named_version_or_the_base(house: House) -> None:
    for value in (1.0, 2.0, 3.0):
        house.make_champion(house.train(value))
    assert [house.rollback("v1"), house.rollback("3"), house.rollback("base")] == ["v1", "v3", "base"]


def test_rollback_refuses_the_champion_and_versions_that_never_were_champion(house: House) -> None:
    house.make_champion(house.train(1.0))
    house.train(2.0)
    with pytest.raises(PromotionError, match="v1 is the champion already"):
        house.rollback("v1")
    with pytest.raises(InputError, match="has no version v9"):
        house.rollback("v9")
    with pytest.raises(PromotionError, match="v2 was never champion"):
        house.rollback("2")
    assert house.ledger.champion().version == "1"


def test_mlflow_shows_a_rollback_that_the_gateway_failed_to_follow(house: House) -> None:
    def refuse() -> None:
        raise AdapterError("Another adapter answers.")

    house.make_champion(house.train(1.0))
    house.make_champion(house.train(2.0))
    with pytest.raises(AdapterError, match="Another adapter answers"):
        house.rollback(serving=Standby(alias=refuse))
    assert (house.ledger.champion().version, house.alias) == ("1", "1")


def test_rollback_to_a_damaged_adapter_is_refused_and_the_champion_stays(house: House) -> None:
    first = house.train(1.0)
    house.make_champion(first)
    house.make_champion(house.train(2.0))
    (house.adapters / first.adapter[:16] / CONFIG).unlink()
    with pytest.raises(AdapterError):
        house.rollback()
    assert (house.ledger.champion().version, house.alias) == ("2", "2")
    assert house.rollback("base") == "base"


def test_promoting_a_rolled_back_version_again_raises(house: House) -> None:
    """Either it is champion afterwards, or the error says why not."""
    house.make_champion(house.train(1.0))
    second = house.train(2.0)
    verdict = house.examine(second)
    house.promote(second, verdict)
    house.rollback()
    with contextlib.suppress(PromotionError):
        house.promote(second, verdict)
        assert house.ledger.champion().version == second.version


def test_alias_is_corrected_at_the_next_start(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.make_champion(first)
    house.versions.set_champion_alias(second.version)
    assert house.alias == second.version
    assert reconcile(house.ledger, house.versions).version == first.version
    assert house.alias == first.version


def test_reject_sets_new_lessons_aside_and_hold_does_not(house: House) -> None:
    store = LessonsStore(house.ledger.database)
    for n in range(6):
        store.add_lesson(f"request {n}", "answer", "success")
    version = house.train(1.0)
    house.examine(version, "HOLD", cursor=3)
    assert store.trainable() == 6
    house.examine(version, "REJECT", cursor=4)
    assert [lesson.seq for lesson in store.read()] == [5, 6]
