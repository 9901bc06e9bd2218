"""Promotion and rollback on a real ledger and a real MLflow registry: the ledger decides, the alias follows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from academy.artifacts import digest_of_file
from academy.database import Database
from academy.errors import AdapterError, PromotionError
from academy.experience.lessons import LessonsStore
from academy.genealogy.tracking import ORDER_TAG, open_mlflow
from academy.genealogy.versions import CHAMPION, Version, Versions
from academy.habitat.adapter import CONFIG, FILES, MANIFEST, TEMPLATE_FILE, WEIGHTS, digest_of_adapter
from academy.ledger import BASE, Ledger, Row
from academy.professor import Recipe
from academy.promotion import promote, reconcile, record_verdict, rollback
from academy.settings import Settings


@pytest.fixture(scope="module")
def mlflow_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY",
                     "MLFLOW_LOGGING_LEVEL", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"):  # fmt: skip
            patch.setenv(name, "")  # so that what open_mlflow sets is taken back at the end
        home = tmp_path_factory.mktemp("mlflow")
        patch.chdir(home)
        yield open_mlflow(Settings().model_copy(update={"home": home}))


@dataclass
class House:
    """One family with its ledger, its registry and a folder of tiny adapters."""

    ledger: Ledger
    versions: Versions
    adapters: Path

    def train(self, value: float) -> Version:
        """A registered version with a tiny adapter whose tensors hold `value`."""
        staged = self.adapters / f"made-{value}"
        staged.mkdir(parents=True)
        save_file({"layer.lora_A": np.full((2, 4), value, dtype=np.float32)}, staged / WEIGHTS)
        (staged / CONFIG).write_bytes(b'{"r": 4}')
        (staged / TEMPLATE_FILE).write_text("{{ messages }}", encoding="utf-8")
        digest = digest_of_adapter(staged)
        manifest = {
            "adapter": digest, "files": {name: digest_of_file(staged / name) for name in FILES}, "base_name": "seed",
            "base_digest": self.ledger.family, "dataset": "d", "train_digest": "t", "order": f"order-{value}",
            "template": "t", "special_tokens": {}, "recipe": Recipe().model_dump(mode="json"), "trainer": "test",
            "versions": {}, "threads": 1, "examples": 50, "supervised_tokens": 500, "steps": 10, "loss": 0.5,
            "canaries": [],
        }  # fmt: skip
        (staged / MANIFEST).write_bytes(orjson.dumps(manifest))
        staged.rename(self.adapters / digest[:16])
        made = self.versions.client.create_model_version(
            self.versions.family, source=self.adapters.as_uri(), tags={"adapter": digest, ORDER_TAG: f"order-{value}"}
        )
        return self.versions.get(str(made.version))

    def examine(self, version: Version, outcome: str = "PROMOTE", cursor: int = 10) -> Row:
        """A verdict on a version against the present champion."""
        champion = self.ledger.champion().adapter
        body = {
            "outcome": outcome, "challenger": version.adapter, "champion": champion, "cursor": cursor, "spends": True,
        }  # fmt: skip
        key = f"verdict:{len(list(self.ledger.rows()))}"
        return record_verdict(self.ledger, key, body, (self.ledger.champion().cursor, cursor))

    def promote(self, version: Version, verdict: Row, verify: Callable[[Path], None] | None = None) -> Row:
        return promote(self.ledger, self.versions, version, self.adapters, verdict, verify)

    def crown(self, version: Version) -> None:
        self.promote(version, self.examine(version))

    def rollback(self, to: str | None = None) -> str:
        return rollback(self.ledger, self.versions, self.adapters, to, "a test").name

    @property
    def alias(self) -> str:
        """Whom MLflow shows as champion."""
        aliases = self.versions.client.get_registered_model(self.versions.family).aliases
        return str(aliases.get(CHAMPION, BASE))


@pytest.fixture
def house(mlflow_client: Any, database: Database, tmp_path: Path) -> House:
    family = f"academy-test-{tmp_path.name}".replace("_", "-")
    mlflow_client.create_registered_model(family)
    return House(Ledger(database, "f" * 64), Versions(mlflow_client, family), tmp_path / "adapters")


def test_a_promotion_crowns_the_version_and_shows_it(house: House) -> None:
    version = house.train(1.0)
    row = house.promote(version, house.examine(version, cursor=40))
    champion = house.ledger.champion()
    assert (champion.version, champion.adapter) == (version.version, version.adapter)
    assert (champion.generation, champion.cursor, house.alias) == (1, 40, version.version)
    assert row.body["replaces"] == BASE


def test_promoting_twice_writes_one_row(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    assert house.promote(version, verdict) == house.promote(version, verdict)
    assert len(list(house.ledger.rows("promotion"))) == 1


@pytest.mark.parametrize("outcome", ["HOLD", "REJECT", "CANNOT DECIDE"])
def test_without_the_verdict_promote_nothing_is_promoted(house: House, outcome: str) -> None:
    version = house.train(1.0)
    with pytest.raises(PromotionError, match=outcome):
        house.promote(version, house.examine(version, outcome))
    assert (house.ledger.champion().version, house.alias) == (BASE, BASE)


def test_the_verdict_of_one_version_promotes_no_other(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    with pytest.raises(PromotionError):
        house.promote(second, house.examine(first))
    assert house.ledger.champion().version == BASE


def test_a_verdict_against_a_champion_of_yesterday_promotes_nothing(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    stale = house.examine(second)
    house.crown(first)
    with pytest.raises(PromotionError, match="was examined against another champion"):
        house.promote(second, stale)
    assert house.ledger.champion().version == first.version


def test_an_adapter_altered_after_its_examination_is_not_promoted(house: House) -> None:
    version = house.train(1.0)
    verdict = house.examine(version)
    path = house.adapters / version.adapter[:16] / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterError):
        house.promote(version, verdict)
    assert house.ledger.champion().version == BASE


def test_an_adapter_that_answers_otherwise_now_is_not_promoted(house: House) -> None:
    def refuse(folder: Path) -> None:
        raise AdapterError(f"{folder} sings another song.")

    version = house.train(1.0)
    with pytest.raises(AdapterError, match="another song"):
        house.promote(version, house.examine(version), refuse)
    assert house.ledger.champion().version == BASE


def test_rollback_goes_back_step_by_step_to_the_base_model(house: House) -> None:
    for value in (1.0, 2.0, 3.0):
        house.crown(house.train(value))
    assert [house.rollback() for _ in range(3)] == ["v2", "v1", "base"]
    assert (house.alias, house.ledger.champion().generation) == (BASE, 0)
    with pytest.raises(PromotionError, match="There is nothing to go back to"):
        house.rollback()


def test_rollback_restores_generation_and_cursor(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.promote(first, house.examine(first, cursor=10))
    house.promote(second, house.examine(second, cursor=20))
    house.rollback()
    champion = house.ledger.champion()
    assert (champion.version, champion.adapter, champion.generation, champion.cursor) == ("1", first.adapter, 1, 10)
    assert house.alias == "1"


def test_after_a_rollback_another_version_can_be_promoted_and_taken_back(house: House) -> None:
    for value in (1.0, 2.0):
        house.crown(house.train(value))
    house.rollback()
    house.crown(house.train(3.0))
    assert (house.ledger.champion().version, house.ledger.champion().generation) == ("3", 2)
    assert [house.rollback(), house.rollback()] == ["v1", "base"]


def test_rollback_to_a_named_version_or_the_base(house: House) -> None:
    for value in (1.0, 2.0, 3.0):
        house.crown(house.train(value))
    assert [house.rollback("v1"), house.rollback("3"), house.rollback("base")] == ["v1", "v3", "base"]


def test_rollback_refuses_the_present_champion_and_one_that_never_was(house: House) -> None:
    house.crown(house.train(1.0))
    house.train(2.0)
    with pytest.raises(PromotionError, match="v1 is the champion already"):
        house.rollback("v1")
    with pytest.raises(PromotionError, match="v2 was never champion"):
        house.rollback("2")
    assert house.ledger.champion().version == "1"


def test_rollback_to_a_damaged_adapter_is_refused_and_the_champion_stays(house: House) -> None:
    first = house.train(1.0)
    house.crown(first)
    house.crown(house.train(2.0))
    (house.adapters / first.adapter[:16] / CONFIG).unlink()
    with pytest.raises(AdapterError):
        house.rollback()
    assert (house.ledger.champion().version, house.alias) == ("2", "2")
    assert house.rollback("base") == "base"


def test_a_version_that_was_rolled_back_is_not_silently_left_so_when_promoted_again(house: House) -> None:
    """Either it is champion afterwards, or the refusal says why not."""
    house.crown(house.train(1.0))
    second = house.train(2.0)
    verdict = house.examine(second)
    house.promote(second, verdict)
    house.rollback()
    with contextlib.suppress(PromotionError):
        house.promote(second, verdict)
        assert house.ledger.champion().version == second.version


def test_the_alias_is_made_true_again_at_the_next_start(house: House) -> None:
    first, second = house.train(1.0), house.train(2.0)
    house.crown(first)
    house.versions.show_champion(second.version)
    assert house.alias == second.version
    assert reconcile(house.ledger, house.versions).version == first.version
    assert house.alias == first.version


def test_a_reject_sets_the_new_lessons_aside_and_a_hold_does_not(house: House) -> None:
    store = LessonsStore(house.ledger.database)
    for n in range(6):
        store.add_lesson(f"request {n}", "answer", "success")
    version = house.train(1.0)
    house.examine(version, "HOLD", cursor=3)
    assert store.trainable() == 6
    house.examine(version, "REJECT", cursor=4)
    assert [one.seq for one in store.read()] == [5, 6]
