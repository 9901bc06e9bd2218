"""Archived and restored adapters; the champion always is a verified adapter on the disk."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from academy.adapters.adapter import MANIFEST, WEIGHTS, read_adapter
from academy.adapters.archive import AdapterStore
from academy.errors import AcademyError, AdapterError, HomeError, InputError, PromotionError
from academy.genealogy.history import history
from academy.genealogy.versions import Version, Versions
from academy.lifecycle.approval import record_approval
from academy.lifecycle.gate import refuse_adapter
from academy.lifecycle.promotion import activate, reconcile, rollback
from academy.lifecycle.retention import archive, estimate, protected, prune, restore
from academy.store.database import Database
from academy.store.files import STAGING
from academy.store.ledger import BASE, Ledger
from academy.store.ledger_rows import ArchiveEntry, PromotionEntry, RollbackEntry
from academy.store.locks import exclusive_lock
from tests.registry import House, Standby

LEASE_IT = """
import sys, time
from pathlib import Path
from academy.adapters.archive import AdapterStore
with AdapterStore(Path(sys.argv[1])).lease(sys.argv[2]):
    print("leased", flush=True)
    time.sleep(60)
"""


def put_away(house: House, version: Version) -> Any:
    return archive(house.ledger, house.versions, house.store, version, by="tester")


def bring_back(house: House, version: Version) -> Any:
    return restore(house.ledger, house.versions, house.store, version.version, version.adapter, by="tester")


@pytest.fixture
def old(house: House) -> Version:
    """A version that was never champion, behind a newer champion."""
    version = house.train(1.0)
    house.make_champion(house.train(2.0))
    return version


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- one adapter -----------------------------------------------------------------------------------------------------


def test_archived_adapter_is_restored_byte_by_byte(house: House, old: Version) -> None:
    before = files(house.store.folder(old.adapter))
    packed = put_away(house, old)
    assert not house.store.here(old.adapter)
    assert house.versions.get("1").archived
    bring_back(house, old)
    assert files(house.store.folder(old.adapter)) == before
    assert packed.bytes == sum(map(len, before.values()))
    assert not house.versions.get("1").archived
    assert [change.action for change in history(house.ledger)][:2] == ["restore", "archive"]


def test_archiving_twice_writes_one_row_and_the_same_bytes(house: House, old: Version) -> None:
    first = put_away(house, old)
    assert put_away(house, old).sha256 == first.sha256
    assert len(list(house.ledger.rows(ArchiveEntry))) == 1
    bring_back(house, old)
    assert put_away(house, old).sha256 == first.sha256
    assert len(list(house.ledger.rows(ArchiveEntry))) == 2


def test_archive_killed_between_row_and_removal_is_finished(
    house: House, old: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_store: AdapterStore, _digest: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AdapterStore, "remove", killed)
        put_away(house, old)
    assert read_adapter(house.store.folder(old.adapter), digest=old.adapter)
    put_away(house, old)
    assert not house.store.here(old.adapter)
    assert len(list(house.ledger.rows(ArchiveEntry))) == 1


def test_damaged_adapter_is_not_archived(house: House, old: Version) -> None:
    weights = house.store.folder(old.adapter) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(AdapterError, match="was altered"):
        put_away(house, old)
    assert house.store.here(old.adapter)
    assert list(house.ledger.rows(ArchiveEntry)) == []


@pytest.mark.parametrize("spoil", ["flip", "cut", "swap", "evil"])
def test_altered_archive_is_not_restored(house: House, old: Version, spoil: str, tmp_path: Path) -> None:
    put_away(house, old)
    (file,) = house.store.archive.glob("*.tar.gz")
    note = file.with_name(file.name.replace(".tar.gz", ".json"))
    content = file.read_bytes()
    match spoil:
        case "flip":
            file.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "swap":
            note.write_bytes(note.read_bytes().replace(old.adapter.encode(), b"0" * 64))
            note.write_bytes(note.read_bytes()[:-1])
        case "evil":
            (tmp_path / "evil").write_bytes(b"x")
            with tarfile.open(file, "w:gz") as tar:
                tar.add(tmp_path / "evil", "../../evil")
            text = note.read_text()
            old_sum = hashlib.sha256(content).hexdigest()
            note.write_text(text.replace(old_sum, hashlib.sha256(file.read_bytes()).hexdigest()))
    with pytest.raises(AdapterError):
        bring_back(house, old)
    assert not house.store.here(old.adapter)
    assert not list(house.adapters.glob(f"{STAGING}*"))


def test_loaded_adapter_is_not_archived_until_its_process_ends(house: House, old: Version) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", LEASE_IT, str(house.adapters), old.adapter], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "leased\n"
        with pytest.raises(AdapterError, match="is loaded by a running process"):
            put_away(house, old)
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    put_away(house, old)


@pytest.mark.parametrize("tags", [{"unverified": "There is no adapter."}, {"adapter": BASE}])
def test_version_without_an_adapter_cannot_be_restored_or_refused(house: House, tags: dict[str, str]) -> None:
    version = house.versions.register_unverified("seed", tags, "file:///nowhere", parent=BASE, generation=0)
    with pytest.raises(InputError, match="has no adapter"):
        bring_back(house, version)
    with pytest.raises(InputError, match="has no adapter"):
        refuse_adapter(house.ledger, version, "it lies")


def test_one_of_two_concurrent_rollbacks_happens(house: House) -> None:
    for value in (1.0, 2.0, 3.0):
        house.make_champion(house.train(value))
    seen = house.ledger.champion()
    house.rollback()
    with pytest.raises(PromotionError, match="another change came first"):
        rollback(house.ledger, house.versions, house.gate, None, "", Standby(), expected=seen)
    assert [row.kind for row in house.ledger.rows(PromotionEntry, RollbackEntry)].count("rollback") == 1


def test_overlong_version_number_is_not_found(house: House) -> None:
    assert house.versions.find("9" * 25) is None


def test_nothing_is_archived_while_an_evolution_runs(house: House, old: Version) -> None:
    lock = house.adapters.parent / "locks" / "evolve"
    with exclusive_lock(lock, "taken"), pytest.raises(HomeError, match="evolution"):
        put_away(house, old)
    assert house.store.here(old.adapter)


# --- what must stay --------------------------------------------------------------------------------------------------


def test_champion_rollback_target_and_open_verdicts_stay(house: House) -> None:
    versions = [house.train(value) for value in (1.0, 2.0, 3.0, 4.0)]
    for version in versions[:3]:
        house.make_champion(version)
    verdict = house.examine(versions[3])
    assert protected(house.ledger) == {
        versions[2].adapter: "it is the champion",
        versions[1].adapter: "a rollback would restore it",
        versions[3].adapter: "its verdict PROMOTE is still open",
    }
    for version in versions[1:]:
        with pytest.raises(InputError, match="stays on the disk"):
            put_away(house, version)
    record_approval(house.ledger, verdict, approved=False, by="anna")
    put_away(house, versions[3])
    put_away(house, versions[0])


def test_pruning_keeps_the_newest_versions_with_reasons(house: House) -> None:
    versions = [house.train(float(value)) for value in range(1, 7)]
    house.make_champion(versions[0])
    for version in versions[1:5]:
        house.versions.set_tags(version.version, {"verdict": "HOLD"})
    house.versions.set_tags(versions[5].version, {"verdict": "not examined"})
    planned = prune(house.ledger, house.versions, house.store, 0, by="tester", dry_run=True)
    assert [(result.version, result.action) for result in planned] == [
        ("6", "stays"), ("5", "archive"), ("4", "archive"), ("3", "archive"), ("2", "archive"), ("1", "stays"),
    ]  # fmt: skip
    assert all(house.store.here(version.adapter) for version in versions), "a dry run changes nothing"
    done = prune(house.ledger, house.versions, house.store, 3, by="tester")
    assert [result.version for result in done if result.action == "archive"] == ["3", "2"]
    assert [house.store.here(version.adapter) for version in versions] == [True, False, False, True, True, True]
    assert [result.because for result in done][-1] == "it is the champion"


# --- rollback ------------------------------------------------------------------------------------------------------


def test_rollback_restores_an_archived_version_and_logs_the_expected_time(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    versions = [house.train(value) for value in (1.0, 2.0, 3.0)]
    for version in versions:
        house.make_champion(version)
    packed = put_away(house, versions[0])
    expected = estimate(house.ledger, house.store, versions[0].adapter)
    assert expected.bytes == packed.bytes
    assert expected.seconds == pytest.approx(packed.seconds)
    with caplog.at_level(logging.INFO, "academy"):
        assert house.rollback("v1") == "v1"
    assert "v1 is archived; restoring its 0.0 MB takes about" in caplog.text
    assert read_adapter(house.store.folder(versions[0].adapter), digest=versions[0].adapter)
    assert house.alias == "1"


def test_activation_by_hand_checks_the_adapter(house: House, old: Version) -> None:
    def refuse(_folder: Path) -> None:
        raise AdapterError("It answers otherwise.")

    with pytest.raises(AdapterError, match="otherwise"):
        activate(house.ledger, house.versions, old, house.gate, Standby(refuse), by="anna")
    (house.store.folder(old.adapter) / MANIFEST).unlink()
    with pytest.raises(AdapterError, match="does not contain an adapter"):
        activate(house.ledger, house.versions, old, house.gate, Standby(), by="anna")
    assert house.ledger.champion().version == "2"


# --- what people do in MLflow ----------------------------------------------------------------------------------------


def test_champion_deleted_in_mlflow_is_reported_and_can_be_restored(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    for value in (1.0, 2.0):
        house.make_champion(house.train(value))
    house.versions.client.delete_model_version(house.versions.family, "2")
    with caplog.at_level(logging.WARNING, "academy"):
        assert reconcile(house.ledger, house.versions).version == "2"
    assert "v2, the champion, was deleted in MLflow's registry" in caplog.text
    assert house.rollback() == "v1"
    assert house.rollback("2") == "v2", "ledger and disk have all facts"


def test_version_number_that_mlflow_reused_is_not_the_champion(house: House) -> None:
    house.make_champion(house.train(1.0))
    house.versions.client.delete_registered_model(house.versions.family)
    house.versions.client.create_registered_model(house.versions.family)
    impostor = house.train(2.0)
    assert impostor.version == "1"
    assert not house.versions.page(5, None, house.ledger.champion())[0].champion
    reconcile(house.ledger, house.versions)
    assert house.alias == BASE, "no alias is better than a wrong one"


# --- in any order ----------------------------------------------------------------------------------------------------

numbers = itertools.count(1)


class Shelf(RuleBasedStateMachine):
    """Promote, roll back, archive, prune, restore and delete in MLflow, in any order."""

    versions = Bundle("versions")
    make: Callable[[], House]

    def __init__(self) -> None:
        super().__init__()
        self.house = self.make()
        self.versions: list[Version] = []

    @rule(target=versions)
    def train(self) -> Version:
        self.versions.append(self.house.train(float(next(numbers))))
        return self.versions[-1]

    @rule(version=versions, outcome=st.sampled_from(["PROMOTE", "PROMOTE", "HOLD"]), carried_out=st.booleans())
    def examine(self, version: Version, outcome: str, carried_out: bool) -> None:
        if version.adapter == self.house.ledger.champion().adapter or not self.house.store.here(version.adapter):
            return
        verdict = self.house.examine(version, outcome)
        if carried_out and outcome == "PROMOTE":
            self._try(lambda: self.house.promote(version, verdict))

    @rule(version=versions)
    def activate_by_hand(self, version: Version) -> None:
        house = self.house
        self._try(lambda: activate(house.ledger, house.versions, version, house.gate, Standby(), by="hand"))

    @rule()
    def roll_back(self) -> None:
        self._try(self.house.rollback)

    @rule(version=versions)
    def roll_back_to(self, version: Version) -> None:
        self._try(lambda: self.house.rollback(version.version))

    @rule(version=versions)
    def archive_one(self, version: Version) -> None:
        self._try(lambda: put_away(self.house, version))

    @rule(version=versions)
    def restore_one(self, version: Version) -> None:
        self._try(lambda: bring_back(self.house, version))

    @rule(keep=st.integers(0, 2))
    def prune_all(self, keep: int) -> None:
        if self.versions:
            self._try(lambda: prune(self.house.ledger, self.house.versions, self.house.store, keep, by="tester"))

    @rule(version=versions)
    def delete_in_mlflow(self, version: Version) -> None:
        if self.house.versions.find(version.version) is not None:
            self.house.versions.client.delete_model_version(self.house.versions.family, version.version)

    @rule(version=versions)
    def point_the_alias_elsewhere(self, version: Version) -> None:
        if self.house.versions.find(version.version) is not None:
            self.house.versions.set_champion_alias(version.version)

    @invariant()
    def the_champion_is_on_the_disk(self) -> None:
        champion = self.house.ledger.champion()
        if champion.adapter != BASE:
            read_adapter(self.house.store.folder(champion.adapter), digest=champion.adapter)

    @invariant()
    def nothing_is_lost(self) -> None:
        store = self.house.store
        assert all(store.here(version.adapter) or store.package(version.adapter) for version in self.versions)

    @invariant()
    def mlflow_shows_the_champion_or_nobody(self) -> None:
        champion = reconcile(self.house.ledger, self.house.versions)
        there = self.house.versions.find(champion.version) is not None
        if champion.seq:
            assert self.house.alias == (champion.version if there else BASE)

    @staticmethod
    def _try(act: Callable[[], object]) -> None:
        """Errors of the Academy are valid answers; anything else fails the test."""
        with contextlib.suppress(AcademyError):
            act()


@pytest.mark.slow
def test_champion_is_a_verified_adapter_on_the_disk_after_any_operations(
    mlflow_client: Any, new_database: Callable[[], Database], tmp_path: Path
) -> None:
    def make() -> House:
        place = tmp_path / f"home-{next(numbers)}"
        family = f"academy-shelf-{next(numbers)}"
        mlflow_client.create_registered_model(family)
        (place / "adapters").mkdir(parents=True)
        return House(Ledger(new_database(), "f" * 64), Versions(lambda: mlflow_client, family), place)

    class Machine(Shelf):
        pass

    Machine.make = staticmethod(make)  # type: ignore[method-assign]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
