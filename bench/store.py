"""`python -m bench.store [--anyway] [--rows N]`: the cost of lessons at 10,000 rows and at N rows (1,000,000).

It measures the CPU seconds of adding one lesson, the rows imported per second, the additional memory that reading and
curating need at N rows, and the rate of writing JSONL in each format, compared with orjson. SQLite's flushes are
waiting time, not CPU time, and are not counted.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from academy.curriculum.curator import DatasetCurator
from academy.curriculum.holdout import Holdout
from academy.experience.lessons import LessonsStore
from academy.models.formats import FORMATS
from academy.store.database import Database
from bench.machine import too_busy

FEW = 10_000
WORK = """
import sys
from pathlib import Path
from bench.store import curate, read
{"read": read, "curate": curate}[sys.argv[1]](Path(sys.argv[2]))
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1] + "000")
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--anyway", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if too_busy():
        return 2
    with tempfile.TemporaryDirectory(prefix="academy-bench-") as name:
        place = Path(name)
        figures = {}
        for rows in (FEW, arguments.rows):
            path = place / f"{rows}.db"
            store = _store(path)
            file = place / f"{rows}.jsonl"
            with file.open("wb") as stream:
                stream.writelines(orjson.dumps(_lesson(n)) + b"\n" for n in range(rows))
            import_seconds = _cpu(lambda store=store, file=file: store.import_file(file, place / "quarantine"))
            add_seconds = statistics.median(_cpu(lambda n=n, store=store: _add(store, n)) for n in range(200))
            count_seconds = _cpu(store.get_statistics)
            memory = {work: _memory(work, path) for work in ("read", "curate")}
            figures[rows] = (add_seconds, memory)
            peaks = ", ".join(f"{work} {size / 1e6:.0f} MB" for work, size in memory.items())
            print(
                f"{rows:,} rows: import {rows / import_seconds:,.0f} a CPU s, add {add_seconds * 1e3:.2f} ms, "
                f"statistics {count_seconds:.2f} s, peak memory: {peaks}"
            )
        few, many = figures[FEW], figures[arguments.rows]
        print(f"adding: {many[0] / few[0]:.2f} times (goal: at most 2)")
        for work in ("read", "curate"):
            print(f"memory, {work}: {(many[1][work] - few[1][work]) / 1e6:+.0f} MB (goal: at most 50)")
        _formats()
    return 0


def read(path: Path) -> None:
    """Stream all lessons."""
    for _ in LessonsStore(Database(f"sqlite:///{path}")).read():
        pass


def curate(path: Path) -> None:
    """Make a dataset from a store, with the settings' limit of lessons."""
    store = LessonsStore(Database(f"sqlite:///{path}"))
    curator = DatasetCurator(store, lambda talks: [sum(len(turn["content"]) for turn in talk) // 4 for talk in talks])
    curator.collect_from_lessons()
    curator.filter_low_quality()
    curator.save(path.with_suffix(".datasets"), Holdout(store.database))


def _store(path: Path) -> LessonsStore:
    database = Database(f"sqlite:///{path}")
    database.migrate()
    return LessonsStore(database)


def _lesson(n: int) -> dict[str, str]:
    return {
        "situation": f"how do I {n * 7919 % 1_000_003:x} the {n * 104_729 % 1_299_709:x} of {n:x}",
        "action": f"quay answer {n % 5000}",
        "outcome": "success",
    }


def _add(store: LessonsStore, n: int) -> None:
    store.add_lesson(f"one more {n}", "answer", "success")


def _cpu(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def _memory(work: str, path: Path) -> int:
    process = subprocess.run([sys.executable, "-c", WORK, work, str(path)], capture_output=True, text=True, check=True)
    return int(process.stdout)


def _formats() -> None:
    """Rows per CPU second of each format, compared with orjson alone on the finished rows."""
    messages = [
        [{"role": "user", "content": f"how do I number {n}"}, {"role": "assistant", "content": f"so, by {n} " * 12}]
        for n in range(100_000)
    ]
    for name, form in FORMATS.items():
        rows = [form.write(conversation) for conversation in messages]  # type: ignore[arg-type]
        bare = statistics.median(_cpu(lambda rows=rows: [orjson.dumps(row) for row in rows]) for _ in range(5))
        seconds = statistics.median(
            _cpu(lambda form=form: [orjson.dumps(form.write(conversation)) for conversation in messages])
            for _ in range(5)
        )
        print(f"{name}: {len(messages) / seconds:,.0f} rows a CPU s, {bare / seconds:.0%} of orjson's own (goal: 60 %)")


if __name__ == "__main__":
    sys.exit(main())
