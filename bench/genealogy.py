"""`python -m bench.genealogy [VERSIONS]`: reading a family of 10,000 versions in MLflow's SQLite and the ledger.

The first version is registered through MLflow; the others are copies of its rows, with tags of their own, because
10,000 registrations would take minutes and show nothing more. Each figure is the median of nine calls after one that is
not counted: wall time, and CPU time of this process, which is more reliable on a busy machine. The goal is a page of 50
in under 200 ms.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from academy.genealogy import drawing
from academy.genealogy.history import history
from academy.genealogy.tracking import ORDER_TAG
from academy.genealogy.tree import family_tree
from academy.genealogy.versions import Versions
from academy.loop.home import Home
from academy.store.ledger import Ledger
from academy.store.ledger_rows import ChampionConfig, PromotionEntry

CALLS = 9
GOAL = 0.2
TAGS = {
    "generation": "1", "dataset": "d" * 64, "base_model": "seed", "verdict": "HOLD", "verdict_because": "b" * 120,
    "recipe": '{"alpha":32,"batch_size":16,"epochs":3,"rank":16}',
    "score_champion": "0.5000", "score_challenger": "0.6000",
    "score_difference": "+0.1000", "score_interval": "+0.0100 to +0.1900", "examined_against": "base",
}  # fmt: skip


def main() -> int:
    """Make the family, read it in every way and print a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory(prefix="academy-bench-") as place:
        work = Home.open(home=Path(place))
        began = time.perf_counter()
        _fill(work.versions, place, count)
        _promote_every_tenth(work.ledger, count)
        print(f"{count:,} versions and {count // 10:,} promotions made in {time.perf_counter() - began:.1f} s")
        versions, ledger = work.versions, work.ledger
        page = _timed("page of 50, newest", lambda: family_tree(versions, ledger, "seed", 50))
        middle = _timed("page of 50, from the middle", lambda: family_tree(versions, ledger, "seed", 50, count // 2))
        _timed("page of 200 as SVG", lambda: drawing.svg(family_tree(versions, ledger, "seed", 200)))
        _timed("page of 50 of the history", lambda: history(ledger, 50))
        _timed("one version by its order", lambda: versions.by_order(f"{count // 2:064x}"))
        _timed("one version by its number", lambda: versions.get(str(count // 2)))
        _timed("one version by its name", lambda: versions.get("half-way"))
        _timed("the alias, as it was", lambda: versions.set_champion_alias(str(count), f"{count:064x}"))
        _timed("a verdict written", lambda: versions.set_tags("7", {"verdict": str(time.perf_counter())}))
        began = time.perf_counter()
        count_read = sum(1 for _ in versions.newest())
        print(f"{'all ' + format(count_read, ','):<32} {(time.perf_counter() - began) * 1000:8.0f} ms, once")
    good = max(page, middle) < GOAL
    print(f"goal (a page under {GOAL * 1000:.0f} ms): {'met' if good else 'missed'}")
    return 0 if good else 1


def _fill(versions: Versions, place: str, count: int) -> None:
    first = versions.register_unverified(
        "seed", {"adapter": f"{1:064x}"}, Path(place).as_uri(), parent="base", generation=1
    )
    versions.set_champion_alias(first.version)
    with closing(sqlite3.connect(Path(place) / "mlflow.db")) as database:
        database.row_factory = sqlite3.Row
        row = dict(database.execute("SELECT * FROM model_versions").fetchone())
        tag = dict(database.execute("SELECT * FROM model_version_tags").fetchone())
        database.execute("DELETE FROM model_version_tags")
        rows = [row | {"version": n, "run_id": f"{n:032x}"} for n in range(2, count + 1)]
        _insert(database, "model_versions", rows)
        tags = []
        for n in range(1, count + 1):
            tags_of_version = {
                "adapter": f"{n:064x}",
                ORDER_TAG: f"{n:064x}",
                "parent": str(n - n % 10 or "base") if n > 10 else "base",
            }
            tags_of_version |= {"label": "half-way"} if n == count // 2 else {}
            tags += [
                tag | {"version": n, "key": key, "value": value} for key, value in (TAGS | tags_of_version).items()
            ]
        _insert(database, "model_version_tags", tags)
        database.execute("UPDATE registered_model_aliases SET version = ?", (count,))
        database.commit()


def _promote_every_tenth(ledger: Ledger, count: int) -> None:
    """Record a promotion of every tenth version."""
    with ledger.database.write() as connection:
        before = "base"
        for n in range(10, count + 1, 10):
            entry = PromotionEntry(
                version=str(n), adapter=f"{n:064x}", generation=n // 10, cursor=n, verdict=None,
                by="bench", because="", replaces=before, config=ChampionConfig(base_model="seed"),
            )  # fmt: skip
            ledger.append(f"bench:{n}", entry, connection)
            before = str(n)


def _insert(database: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    names = list(rows[0])
    places = ", ".join("?" * len(names))
    database.executemany(
        f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})",  # noqa: S608  names are MLflow's own columns
        [tuple(row[name] for name in names) for row in rows],
    )


def _timed(what: str, call: Callable[[], object]) -> float:
    call()
    seconds, cpu_seconds = [], []
    for _ in range(CALLS):
        began, cpu_began = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    median = statistics.median(seconds)
    quickest, cpu = min(seconds) * 1000, statistics.median(cpu_seconds) * 1000
    print(f"{what:<32} {median * 1000:6.0f} ms (quickest {quickest:.0f}); CPU {cpu:.0f}")
    return median


if __name__ == "__main__":
    sys.exit(main())
