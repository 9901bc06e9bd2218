"""The ledger is append-only, writes each key once, and lets exactly one of racing promotions win."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa

from academy.errors import HomeError, PromotionError
from academy.store.database import HEAD, Database, lessons, metadata
from academy.store.database import ledger as ledger_table
from academy.store.ledger import BASE, Champion, Ledger
from academy.store.ledger_rows import (
    ENTRIES,
    Entry,
    Kind,
    PromotionEntry,
    ReleaseEntry,
    RollbackEntry,
    Row,
    VerdictEntry,
)
from tests import ledger_entries
from tests.ledger_entries import verdict

FAMILY, OTHER = "f" * 64, "0" * 64


def promotion(version: int, cursor: int = 0) -> PromotionEntry:
    return ledger_entries.promotion(str(version), f"adapter-{version}", version, cursor)


def rollback(version: int) -> RollbackEntry:
    return ledger_entries.rollback(str(version), f"adapter-{version}", version)


@pytest.fixture
def ledger(database: Database) -> Ledger:
    return Ledger(database, FAMILY)


def test_migration_creates_the_tables_that_the_code_describes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'academy.db'}")
    database.migrate()
    database.migrate()
    with database.read() as connection:
        inspector = sa.inspect(connection)
        for table in metadata.sorted_tables:
            assert {column["name"] for column in inspector.get_columns(table.name)} == set(table.c.keys())
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars().all() == [HEAD]
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 2
    database.engine.dispose()


def test_exception_rolls_back_a_writing_transaction(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        Ledger(database, FAMILY).append("key", verdict(), connection)
        _ = 1 / 0
    assert list(Ledger(database, FAMILY).rows()) == []


@pytest.mark.parametrize(
    "change",
    [
        sa.update(ledger_table).values(kind="rollback"),
        sa.delete(ledger_table),
        sa.text("UPDATE ledger SET body = '{}'"),
    ],
)
def test_ledger_row_cannot_be_changed_or_deleted(ledger: Ledger, change: sa.Executable) -> None:
    ledger.append("key", verdict("HOLD"))
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), ledger.database.write() as connection:
        connection.execute(change)
    assert [row.body for row in ledger.rows()] == [verdict("HOLD")]


def test_second_row_with_the_same_key_changes_nothing(ledger: Ledger) -> None:
    first = ledger.append("key", verdict("HOLD"))
    assert ledger.append("key", verdict("PROMOTE")) == first
    assert ledger.find(VerdictEntry, "key") == first
    assert list(ledger.rows()) == [first]


def test_rows_come_oldest_first_and_by_kind(ledger: Ledger) -> None:
    entries = {"a": verdict(), "b": ReleaseEntry(batch=None, lessons=1), "c": verdict()}
    for key, entry in entries.items():
        ledger.append(key, entry)
    assert [row.key for row in ledger.rows()] == ["a", "b", "c"]
    assert [row.key for row in ledger.rows(VerdictEntry)] == ["a", "c"]
    assert ledger.find(Entry, "d") is None


def write(ledger: Ledger, kind: str, body: dict[str, Any]) -> None:
    """A row as another version of the program wrote it."""
    values = {"at": "2026-01-01T00:00:00+00:00", "family": FAMILY, "kind": kind, "key": "another version's"}
    with ledger.database.write() as connection:
        connection.execute(sa.insert(ledger_table).values(**values, body=body))


def test_row_of_an_earlier_version_is_read_with_defaults_and_shown_as_stored(ledger: Ledger) -> None:
    body = {"version": "3", "adapter": "adapter-3", "generation": 2, "cursor": 40, "replaces": "1", "since": 0}
    write(ledger, "promotion", body)
    (row,) = ledger.rows(PromotionEntry)
    assert (row.body.version, row.body.by, row.body.verdict, row.body.config.recipe) == ("3", "", None, {})
    assert row.body.as_json() == body
    assert ledger.champion().version == "3"


def test_row_of_a_later_version_keeps_its_unknown_keys(ledger: Ledger) -> None:
    body = verdict().as_json() | {
        "weather": "rain",
        "findings": [{"suite": "recall", "role": "target", "mood": "good"}],
    }
    write(ledger, "verdict", body)
    (row,) = ledger.rows(VerdictEntry)
    assert row.body.findings[0].suite == "recall"
    assert row.body.as_json() == body
    assert row.as_json()["body"] == body


def test_every_kind_of_row_has_an_entry() -> None:
    assert set(ENTRIES) == set(get_args(Kind))
    assert all(kind == entry.kind for kind, entry in ENTRIES.items())


def test_row_survives_json_and_pickle(ledger: Ledger) -> None:
    row = ledger.append("key", verdict("PROMOTE"))
    assert Row.model_validate_json(row.model_dump_json()).body == row.body
    assert pickle.loads(pickle.dumps(row)) == row  # noqa: S301  our own bytes: Prefect keeps results so


def test_base_model_is_the_first_champion(ledger: Ledger) -> None:
    assert ledger.champion() == Champion(seq=0, version=BASE, adapter=BASE, generation=0, cursor=0)
    assert ledger.champion().name == "base"


def test_promotion_sets_the_champion_and_names_the_replaced_version(ledger: Ledger) -> None:
    row = ledger.set_champion(ledger.champion(), promotion(1, cursor=40))
    champion = ledger.champion()
    assert row.body.replaces == BASE
    assert (champion.seq, champion.name, champion.adapter) == (row.seq, "v1", "adapter-1")
    assert (champion.generation, champion.cursor) == (1, 40)


def test_repeating_a_promotion_is_harmless(ledger: Ledger) -> None:
    before = ledger.champion()
    first = ledger.set_champion(before, promotion(1))
    assert ledger.set_champion(before, promotion(1)) == first
    assert len(list(ledger.rows())) == 1


def test_promotion_against_a_former_champion_is_refused(ledger: Ledger) -> None:
    before = ledger.champion()
    ledger.set_champion(before, promotion(1))
    with pytest.raises(PromotionError, match=r"The champion is no longer base"):
        ledger.set_champion(before, promotion(2))
    with pytest.raises(PromotionError, match=r"The champion is no longer base"):
        ledger.set_champion(before, rollback(1))
    assert ledger.champion().version == "1"


def test_champion_can_change_back_and_forth(ledger: Ledger) -> None:
    ledger.set_champion(ledger.champion(), promotion(1))
    ledger.set_champion(ledger.champion(), promotion(2))
    ledger.set_champion(ledger.champion(), rollback(1))
    ledger.set_champion(ledger.champion(), promotion(2))
    assert [row.body.replaces for row in ledger.rows()] == [BASE, "1", "2", "1"]
    assert ledger.champion().version == "2"


def test_one_of_eight_racing_threads_wins(ledger: Ledger) -> None:
    before = ledger.champion()
    start, winners, losers = threading.Barrier(8), [], []

    def race(version: int) -> None:
        start.wait()
        try:
            winners.append(ledger.set_champion(before, promotion(version)).body.version)
        except PromotionError:
            losers.append(version)

    threads = [threading.Thread(target=race, args=(version,)) for version in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(winners), len(losers)) == (1, 7)
    assert [row.body.version for row in ledger.rows()] == winners
    assert ledger.champion().version == winners[0]


def test_one_of_four_racing_processes_wins(ledger: Ledger) -> None:
    script = (
        "import sys\n"
        "from academy.store.database import Database\n"
        "from academy.errors import PromotionError\n"
        "from academy.store.ledger import Champion, Ledger\n"
        "from academy.store.ledger_rows import PromotionEntry\n"
        "url, family, version = sys.argv[1:]\n"
        "ledger = Ledger(Database(url), family)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "entry = PromotionEntry(version=version, adapter='adapter-' + version, generation=1, cursor=0)\n"
        "try:\n"
        "    ledger.set_champion(Champion(), entry)\n"
        "except PromotionError:\n"
        "    sys.exit(7)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, ledger.database.url, FAMILY, str(version)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for version in range(1, 5)
    ]  # fmt: skip
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    for racer in racers:
        racer.communicate(timeout=60)
    assert sorted(racer.returncode for racer in racers) == [0, 7, 7, 7]
    winner = next(version for version, racer in enumerate(racers, 1) if racer.returncode == 0)
    assert ledger.champion().version == str(winner)
    assert len(list(ledger.rows())) == 1


def test_families_do_not_see_each_other(ledger: Ledger) -> None:
    other = Ledger(ledger.database, OTHER)
    ledger.set_champion(ledger.champion(), promotion(1))
    ledger.append("verdict:1", verdict())
    assert list(other.rows()) == []
    assert other.champion() == Champion()
    assert other.verdicts_spent() == 0
    other.set_champion(other.champion(), promotion(5))
    assert (ledger.champion().version, other.champion().version) == ("1", "5")


def test_examinations_that_could_not_promote_are_not_spent(ledger: Ledger) -> None:
    ledger.append("one", verdict(spends=True))
    ledger.append("two", verdict(spends=False))
    ledger.append("three", ReleaseEntry(batch=None, lessons=1))
    assert ledger.verdicts_spent() == 1


def test_lesson_number_is_never_reused(new_database: Callable[[], Database]) -> None:
    database = new_database()
    row = dict.fromkeys(("kind", "situation", "action", "result", "feedback", "author", "batch", "at"), "x")
    row |= {"tags": [], "outcome": "success", "standing": "active", "extra": {}}
    with database.write() as connection:
        connection.execute(sa.insert(lessons).values(id="a", **row))
        connection.execute(sa.delete(lessons))
        connection.execute(sa.insert(lessons).values(id="b", **row))
        assert connection.execute(sa.select(lessons.c.seq)).scalar_one() == 2


def test_file_that_is_not_a_database_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "academy.db").write_bytes(b"this is not a database, but it is long enough to look like one" * 20)
    with pytest.raises(HomeError, match="file is not a database") as refused:
        Database(f"sqlite:///{tmp_path / 'academy.db'}").migrate()
    assert "\n" not in str(refused.value)


def test_database_on_a_full_disk_is_refused_in_one_sentence(small_disk: Path) -> None:
    database = Database(f"sqlite:///{small_disk / 'academy.db'}")
    with pytest.raises(HomeError, match="cannot be used") as refused:
        database.migrate()
    database.engine.dispose()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("url", ["nonsense", "nodatabase://somewhere/academy", "sqlite+unknown:///academy.db"])
def test_invalid_database_address_is_refused(url: str) -> None:
    with pytest.raises(HomeError, match="database"):
        Database(url).migrate()


def test_database_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'none' / 'academy.db'}")
    with pytest.raises(HomeError, match="unable to open database file"):
        database.migrate()
    database.engine.dispose()
