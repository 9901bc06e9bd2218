"""`python -m bench.git [--anyway]`: reading a git history, compared with `git log -p` and with a second reading.

It reads three histories: that of this repository, and two generated ones of 5,000 commits (renames, binaries, merges,
reverts, submodules, bots, non-ASCII), of which most commits are kept in one and dropped in the other. Figures are CPU
seconds of this process and its children, median of five. It also prints the funnel of each history.
"""

from __future__ import annotations

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
from bench.machine import too_busy
from tests.unit.histories import history

TIMES = 5
MANY = 1_000_000


def main() -> int:
    """Measure and print."""
    if too_busy():
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
            drain = _median(lambda path=path: _drain(path))
            read = _median(lambda path=path, caches=caches: _read(path, next(caches)))
            cache = place / f"{title}-again"
            _read(path, cache)
            repetition = _median(lambda path=path, cache=cache: _read(path, cache))
            funnels[title] = Counter(
                commit.because if isinstance(commit, Skipped) else "kept" for commit in CommitsSource(path, MANY).read()
            )
            cells = (title, funnels[title].total(), f"{drain:.2f}", f"{read:.2f}", f"{read / drain:.2f}")
            print("|", *(f"{cell} |" for cell in (*cells, f"{repetition:.3f}", f"{repetition / read:.1%}")))
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
