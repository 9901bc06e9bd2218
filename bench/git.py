"""`python -m bench.git [--anyway]`: reading a history, beside draining `git log -p` and beside reading it again.

Three histories: this repository's, and two of 5,000 commits that are made here (renames, binaries, merges, reverts,
submodules, bots, non-ASCII): one of which most commits are kept, one of which most are dropped. CPU seconds of this
process and its children, median of five. Prints the funnel of each.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from academy.experience.sources.base import Skipped
from academy.experience.sources.commits import CommitsSource
from tests.unit.histories import history

BUSY = 0.5
TIMES = 5
MANY = 1_000_000


def main() -> int:
    """Measure and print."""
    if os.getloadavg()[0] > BUSY and "--anyway" not in sys.argv:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}); measure when it is idle, or say --anyway.")
        return 2
    with tempfile.TemporaryDirectory(prefix="academy-bench-") as name:
        place = Path(name)
        repositories = {
            "this repository": Path(__file__).parent.parent,
            "most kept": history(place / "kept", 5000, dropped=0.2),
            "most dropped": history(place / "dropped", 5000, dropped=0.85),
        }
        print("| history | commits | drain s | read s | ratio | again s | again / read |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        funnels = {}
        for title, path in repositories.items():
            caches = (place / f"{title}-{n}" for n in range(100))
            drained = _median(lambda path=path: _drain(path))
            read = _median(lambda path=path, caches=caches: _read(path, next(caches)))
            cache = place / f"{title}-again"
            _read(path, cache)
            again = _median(lambda path=path, cache=cache: _read(path, cache))
            funnels[title] = Counter(
                one.because if isinstance(one, Skipped) else "kept" for one in CommitsSource(path, MANY).read()
            )
            cells = (title, funnels[title].total(), f"{drained:.2f}", f"{read:.2f}", f"{read / drained:.2f}")
            print("|", *(f"{cell} |" for cell in (*cells, f"{again:.3f}", f"{again / read:.1%}")))
        for title, funnel in funnels.items():
            print(f"{title}: " + ", ".join(f"{reason} {count}" for reason, count in funnel.most_common()))
    return 0


def _drain(path: Path) -> None:
    with subprocess.Popen(["git", "log", "-p", "--no-color"], cwd=path, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in process.stdout:
            pass


def _read(path: Path, cache: Path) -> None:
    for _ in CommitsSource(path, MANY, cache=cache).read():
        pass


def _median(work: Callable[[], None]) -> float:
    return statistics.median(_cpu(work) for _ in range(TIMES))


def _cpu(work: Callable[[], None]) -> float:
    def spent() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    before = spent()
    work()
    return spent() - before


if __name__ == "__main__":
    sys.exit(main())
