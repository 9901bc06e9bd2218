"""`python -m bench.overhead`: wall time of the whole loop, compared with bare training and bare evaluation.

Bare training is the trainer's process on the same order. Bare evaluation is a process that loads both players and lets
them answer all held-out questions, and the other questions of the examination. Both include their imports. Creating
databases is set-up and not counted. It does not run on a busy machine.
Also measured: the peak memory of all processes of the loop together (proportional set size: shared pages count once),
and the time of a second `academy evolve` with nothing new.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench.machine import too_busy

CHECKOUT = Path(__file__).parent.parent
LESSONS = CHECKOUT / "examples/lessons/01-2026-07-operations.jsonl"
EVALUATE = """
import sys
from pathlib import Path
from academy.arena.examination import read_examination
from academy.curriculum.dataset import read_dataset
from academy.loop.choose_suites import choose_suites
from academy.store.ledger import Champion
from academy.loop.players import RuntimePlayer
from academy.loop.home import Home
work = Home.open()
(record,) = (work.settings.home / "examinations").glob("*.json")
asked = {(result.suite, item.question) for result in read_examination(record).results for item in result.items}
suites, _ = choose_suites(work, read_dataset(work.datasets, sys.argv[1]), Champion(), work.settings.suites)
for adapter in ("base", sys.argv[2]):
    player, known = RuntimePlayer(work, work.versions.get("1").adapter if adapter != "base" else adapter), set()
    for suite, generation in suites:
        requests = {q.request for q in suite.questions() if suite.name == "recall" or (suite.name, q.id) in asked}
        player.answer(sorted(requests - known), generation) if requests - known else None
        known |= requests
"""


def main() -> int:
    """Measure once and print a table."""
    if too_busy():
        return 2
    place = Path(tempfile.mkdtemp(prefix="academy-bench-"))
    try:
        return _measure(place)
    finally:
        shutil.rmtree(place)


def _measure(place: Path) -> int:
    environment = {**os.environ, "ACADEMY_HOME": str(place / "home")}
    academy = [sys.executable, "-m", "academy.cli.main"]
    _timed([*academy, "init"], environment)
    with _Peak(environment["ACADEMY_HOME"]) as peak:
        wall, out = _timed([*academy, "evolve", "--lessons", str(LESSONS), "--json"], environment)
    result = json.loads(out)
    repetition, _ = _timed([*academy, "evolve", "--lessons", str(LESSONS), "--json"], environment)
    order = next((place / "home/runs").glob("*/order.json"))
    bare = json.loads(order.read_bytes()) | {"runs": str(place / "bare"), "adapters": str(place / "bare-adapters")}
    folder = place / "bare" / "again"
    folder.mkdir(parents=True)
    (folder / "order.json").write_text(json.dumps(bare), encoding="utf-8")
    command = [sys.executable, "-m", "academy.habitat.trainer", str(folder / "order.json"), str(os.getpid())]
    training, _ = _timed(command, environment)
    arguments = [result["dataset"]["digest"], result["adapter"]["digest"]]
    evaluation, _ = _timed([sys.executable, "-c", EVALUATE, *arguments], environment)
    print(f"stages: {result['stages']}")
    print(f"evolve {wall:.1f} s; bare training {training:.1f} s, bare evaluation {evaluation:.1f} s")
    print(f"ratio {wall / (training + evaluation):.2f} (goal: at most 1.25)")
    print(f"peak memory {peak.bytes / 1e9:.2f} GB (goal: under 3)")
    print(f"evolve again, nothing new: {repetition:.1f} s (goal: under 15)")
    return 0


class _Peak(threading.Thread):
    """Measures the memory of all processes whose environment names this home, once a second."""

    def __init__(self, home: str) -> None:
        super().__init__(daemon=True)
        self.mark = f"ACADEMY_HOME={home}".encode()
        self.bytes = 0
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(1.0):
            self.bytes = max(self.bytes, sum(self._one(entry) for entry in Path("/proc").glob("[0-9]*")))

    def _one(self, entry: Path) -> int:
        try:
            if self.mark not in (entry / "environ").read_bytes().split(b"\0"):
                return 0
            lines = (entry / "smaps_rollup").read_text().splitlines()
        except OSError:
            return 0  # the process has ended meanwhile
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)

    def __enter__(self) -> _Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def _timed(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    began = time.monotonic()
    process = subprocess.run(command, env=environment, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    return time.monotonic() - began, process.stdout


if __name__ == "__main__":
    sys.exit(main())
