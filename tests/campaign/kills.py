"""The kill matrix: `academy evolve` is killed with SIGKILL inside every stage, then run again to its end.

First an undisturbed control run shows what the end must look like. While it runs, its home is copied at four moments,
with all its processes stopped (SIGSTOP), so that a copy is exactly what a kill at that moment would have left:

    imported    the first decision is logged; no Prefect server yet
    trained     the trainer has written "done"; nothing is registered
    registered  the version is in MLflow; no question has been asked
    answered    both players' answers to the first suite are on disk; no verdict yet

A kill in the arena then begins in the copy `registered` and needs no new training; kills in the import begin in an
empty home, those in server start, dataset and training in `imported`, in the registry in `trained`, in the promotion
in `answered`. The copy is restored under the path of the control, because MLflow stores absolute paths.

One case, "three in a row", uses no copy: the same home is killed in training, in the arena and in the promotion.
The moment inside a stage comes from a seeded generator; a stage that ends earlier is killed at its end.

Not covered: power cuts (the kernel lives on and so does its page cache), PostgreSQL, kills inside the container
backend.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.homes import Ended, RealHome, State
from tests.topics import RECIPE, write_topics

POLL_SECONDS = 0.02
PATIENCE_SECONDS = 300.0
MAIN, TRAINER, SERVER = "main", "academy.habitat.trainer", "academy.operations.prefect_server"


@dataclass
class Line:
    """One row of the table."""

    stage: str
    kills: int = 0
    reruns: int = 0
    checked: int = 0  # homes that were checked at the end
    failed: int = 0  # of these, homes with violations
    violations: list[str] = field(default_factory=list)


class Watch:
    """A running `academy evolve`, seen from outside."""

    def __init__(self, home: RealHome, process: subprocess.Popen[bytes], words: Path) -> None:
        self.home = home
        self.process = process
        self.words = words
        self.began = time.time()

    def said(self, text: str, times: int = 1) -> bool:
        """Whether stderr contains this text so many times, in upper or lower case."""
        return self.words.read_text(encoding="utf-8", errors="replace").lower().count(text.lower()) >= times

    def there(self, pattern: str) -> bool:
        """Whether the home has a file that matches."""
        return any(self.home.path.glob(pattern))

    def touched(self, name: str) -> bool:
        """Whether a file was written since this run began (copies keep their times)."""
        path = self.home.path / name
        return path.is_file() and path.stat().st_mtime > self.began

    def told(self, phase: str) -> bool:
        """Whether a trainer reported this phase."""
        mark = f'"phase":"{phase}"'.encode()
        return any(mark in path.read_bytes() for path in self.home.path.glob("runs/*/events.jsonl"))

    def judged(self) -> bool:
        """Whether the verdict is in the ledger."""
        return bool(self.home.ledger("verdict"))

    def answered(self) -> bool:
        """Whether both players have answered the first suite, which is one chunk: its file is written once."""
        return len([path for path in self.home.path.glob("answers/*.json") if path.name[0] != "."]) >= 2

    def over(self) -> bool:
        """Whether the process ended."""
        return self.process.poll() is not None

    def wait_for(self, *moments: Callable[[Watch], bool], seconds: float = PATIENCE_SECONDS) -> bool:
        """Return when one of the moments has come: False where the process ended or time is up."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if any(moment(self) for moment in moments):
                return True
            if self.over():
                return False
            time.sleep(POLL_SECONDS)
        return False


@dataclass(frozen=True)
class Cut:
    """A process and a moment to kill it: some time after `begins`, at `ends` at the latest."""

    stage: str
    copy: str
    begins: Callable[[Watch], bool]
    ends: Callable[[Watch], bool]
    victim: str = MAIN
    least: float = 0.3
    """The shortest duration of the stage in seconds, if the control measured less."""


IMPORT = Cut("import", "", lambda w: w.there("academy.db"), lambda w: w.said("training: "), least=0.5)
START = Cut("decision, server", "imported", lambda w: w.said("training: "), lambda w: w.there("locks/evolve"))
DATASET = Cut("dataset", "imported", lambda w: w.there("locks/evolve"), lambda w: w.there("runs/*/order.json"))
# the first start of MLflow makes its tables while the trainer starts
TABLES = Cut("MLflow's tables", "imported", lambda w: w.there(".staging-*"), lambda w: w.there("mlflow.db"), least=1.0)
TRAINING = Cut("training", "imported", lambda w: w.told("contract"), lambda w: w.told("done"))
REGISTRY = Cut(
    "registry", "trained", lambda w: w.told("done") and w.touched("mlflow.db"), lambda w: w.said("is registered")
)
ARENA = Cut("arena", "registered", lambda w: w.said("is registered"), Watch.judged)
PROMOTION = Cut("promotion", "answered", Watch.judged, Watch.over, least=1.0)
ALONE = Cut("trainer alone", "imported", lambda w: w.told("contract"), lambda w: w.told("done"), TRAINER)
SERVERLESS = Cut("server alone", "imported", lambda w: w.told("started"), lambda w: w.told("done"), SERVER)

ONE_OF_EACH = (TABLES, PROMOTION, REGISTRY, ARENA, TRAINING, ALONE, IMPORT, START, DATASET, SERVERLESS)
IN_A_ROW = (TRAINING, ARENA, PROMOTION)
COPIES: tuple[tuple[str, Callable[[Watch], bool]], ...] = (
    ("imported", lambda w: w.said("training: ")),
    ("trained", lambda w: w.told("done")),
    ("registered", lambda w: w.said("is registered")),
    ("answered", Watch.answered),
)
CONTROL, ROW = "control", "three in a row"


class Matrix:
    """All cuts in one folder, within a budget of seconds."""

    def __init__(self, folder: Path, until: float, seed: int) -> None:
        self.folder = folder
        self.until = until
        self.chance = random.Random(seed)
        self.home = RealHome(folder / "home")
        self.lessons = write_topics(folder / "topics.jsonl")
        self.copies: dict[str, Path] = {}
        self.spans: dict[str, float] = {}
        self.costs: dict[str, float] = {}
        self.lines: dict[str, Line] = {}
        self.wanted: State | None = None
        self.control_seconds = 0.0

    def run(self, rounds: int) -> list[Line]:
        """The control, the row, then every cut in each round. Cuts that exceed the budget are skipped and listed."""
        self.control()
        if self.wanted is not None:
            self.in_a_row()
            omissions: list[str] = []
            for _ in range(rounds):
                for cut in ONE_OF_EACH:
                    if self.left < self.costs.get(cut.stage, 1.4 * self.control_seconds):
                        omissions.append(cut.stage)
                    else:
                        self.cut(cut)
            if omissions:
                _tell(f"skipped for lack of time: {len(omissions)} kills ({', '.join(sorted(set(omissions)))})")
        return list(self.lines.values())

    @property
    def left(self) -> float:
        """Seconds of the budget."""
        return self.until - time.monotonic()

    def control(self) -> None:
        """The undisturbed run, and the copies of its home."""
        began = time.monotonic()
        line = self._line(CONTROL)
        watch = self._evolve()
        self._measure(watch)
        code = watch.process.wait()
        self.control_seconds = time.monotonic() - began
        processes = self.home.left_behind()
        state = self.home.state()
        line.checked = 1
        if code != 0:
            self._violate(line, [f"exit {code}: {_last(watch.words)}"])
            return
        problems = [f"left behind: {process.command}" for process in processes] + _unsound(state)
        if not state.promotions:
            problems.append(f"the control was not promoted, so promotions cannot be checked: {state.verdicts}")
        self._violate(line, problems)
        self.wanted = state
        _tell(f"control: {self.control_seconds:.0f} s, {state.verdicts[0][0]}, adapter {state.adapters[0][1][:12]}")

    def in_a_row(self) -> None:
        """Kill one home in three stages one after the other, then run it to its end."""
        line = self._line(ROW)
        self.home.restore(None)
        began = time.monotonic()
        violations: list[str] = []
        for cut in IN_A_ROW:
            if self.left < 1.2 * self.control_seconds:
                _tell(f"{ROW}: no time for the kill in {cut.stage}")
                break
            problems, hit = self._kill(cut)
            violations += problems
            if hit:
                line.kills += 1
        if not line.kills:
            return
        violations += self._to_the_end(line)
        self._violate(line, violations)
        _tell(f"{ROW}: {line.kills} kills, {time.monotonic() - began:.0f} s, {_summary(violations)}")

    def cut(self, cut: Cut) -> None:
        """Restore, kill once, run to the end, check."""
        copy = self.copies.get(cut.copy)
        if cut.copy and copy is None:
            _tell(f"{cut.stage}: the control has made no copy '{cut.copy}'")
            return
        began = time.monotonic()
        line = self._line(cut.stage)
        self.home.restore(copy)
        violations, hit = self._kill(cut)
        if hit:
            line.kills += 1
            violations += self._to_the_end(line)
            self._violate(line, violations)
        elif violations:
            line.checked += 1
            self._violate(line, violations)
        self.costs[cut.stage] = time.monotonic() - began
        _tell(f"{cut.stage}: {self.costs[cut.stage]:.0f} s, {_summary(violations) if hit else 'not hit'}")

    def _kill(self, cut: Cut) -> tuple[list[str], bool]:
        watch = self._evolve()
        if not watch.wait_for(cut.begins):
            watch.process.kill()
            watch.process.wait()
            return [f"the stage was never reached: {_last(watch.words)}"], False
        span = max(cut.least, self.spans.get(cut.stage, 0.0))
        watch.wait_for(cut.ends, seconds=self.chance.uniform(0.0, span))
        if cut.victim == MAIN:
            if watch.over():
                return [], True  # at the end of its last stage: the home must be complete all the same
            watch.process.kill()
            watch.process.wait()
            return [f"left behind by the kill: {process.command}" for process in self.home.left_behind()], True
        victims = [process for process in self.home.processes() if cut.victim in process.command]
        if not victims:
            watch.process.wait()
            return [], False  # it has ended by itself
        self.home.end(*victims)
        problems = []
        try:
            code = watch.process.wait(timeout=PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            watch.process.kill()
            watch.process.wait()
            return [f"hung for {PATIENCE_SECONDS:.0f} s after its {cut.victim} was killed"], True
        if code not in (0, 2) or "Traceback" in watch.words.read_text(errors="replace"):
            problems.append(f"no plain refusal after its {cut.victim} was killed (exit {code}): {_last(watch.words)}")
        problems += [f"left behind: {process.command}" for process in self.home.left_behind()]
        return problems, True

    def _to_the_end(self, line: Line) -> list[str]:
        """Run again until the end, and compare with the control."""
        line.reruns += 1
        line.checked += 1
        self.home.let_a_day_pass()
        rerun = self._again()
        problems = [f"left behind: {process.command}" for process in self.home.left_behind()]
        if rerun.code != 0:
            problems.append(f"the rerun ended with {rerun.code}: {(rerun.err.strip().splitlines() or [''])[-1][:300]}")
        state = self.home.state()
        return problems + _unsound(state) + (self._differences(state) if self.wanted else [])

    def _differences(self, state: State) -> list[str]:
        control = self.wanted
        assert control is not None
        differences = []
        for name in ("lessons", "datasets", "adapters", "verdicts", "noted", "promotions", "champion", "alias"):
            is_, should = getattr(state, name), getattr(control, name)
            if is_ != should:
                differences.append(f"{name}: {is_} instead of {should}")
        if [version[1:] for version in state.versions] != [version[1:] for version in control.versions]:
            differences.append(f"versions: {state.versions} instead of {control.versions}")
        if missing := set(control.curve) - set(state.curve):
            differences.append(f"loss curve: {len(missing)} of {len(control.curve)} steps are missing")
        return differences

    def _evolve(self) -> Watch:
        words = self.folder / "words.log"
        process = self.home.start("evolve", "--lessons", self.lessons, *RECIPE, "--json", stderr=words)
        return Watch(self.home, process, words)

    def _again(self) -> Ended:
        return self.home.run("evolve", "--lessons", self.lessons, *RECIPE, "--json")

    def _measure(self, watch: Watch) -> None:
        """Copy the home at its moments, and measure how long each stage lasts."""
        starts: dict[str, float] = {}
        open_copies, open_cuts = list(COPIES), list(ONE_OF_EACH)
        while not watch.over():
            while open_copies and open_copies[0][1](watch):
                name, _ = open_copies.pop(0)
                place = self.folder / f"copy-{name}"
                self.home.copy_frozen(place)
                if name != "answered" or not RealHome(place).ledger("verdict"):
                    self.copies[name] = place
            for cut in list(open_cuts):
                if cut.stage not in starts and cut.begins(watch):
                    starts[cut.stage] = time.monotonic()
                if cut.stage in starts and cut.ends(watch):
                    self.spans[cut.stage] = time.monotonic() - starts[cut.stage]
                    open_cuts.remove(cut)
            time.sleep(POLL_SECONDS)
        for cut in open_cuts:
            if cut.stage in starts:
                self.spans[cut.stage] = time.monotonic() - starts[cut.stage]

    def _line(self, stage: str) -> Line:
        return self.lines.setdefault(stage, Line(stage))

    @staticmethod
    def _violate(line: Line, problems: list[str]) -> None:
        if problems:
            line.failed += 1
            line.violations += problems


def _unsound(state: State) -> list[str]:
    """What is wrong with a home after a finished loop, a sentence for each broken rule."""
    rules = (
        (len(state.versions) == 1, f"{len(state.versions)} versions are registered"),
        (len(state.verdicts) == 1, f"{len(state.verdicts)} verdicts"),
        (len(state.promotions) <= 1, f"{len(state.promotions)} promotions"),
        (state.champion == state.alias, f"the ledger's champion is {state.champion}, MLflow's alias {state.alias}"),
        (state.runs == ("FINISHED",), f"MLflow runs: {state.runs}"),
        (not state.failed_tags, "the MLflow run still has the tag of a failure"),
        (not state.repeated, f"steps logged twice: {state.repeated}"),
        (len(state.adapters) == 1, f"{len(state.adapters)} adapters"),
        (all(name == digest[:16] for name, digest in state.adapters), "an adapter's name is not its digest"),
        (not state.staging, f"half-written files stay: {', '.join(state.staging)}"),
    )
    return [sentence for holds, sentence in rules if not holds]


def _summary(problems: list[str]) -> str:
    return f"{len(problems)} violations: {'; '.join(problems)}" if problems else "no violation"


def _last(words: Path) -> str:
    return (words.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[-1][:300]


def _tell(text: str) -> None:
    print(f"  {text}", flush=True)


@contextmanager
def _folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="academy-kills-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def run(seconds: float, seed: int, rounds: int = 3) -> list[Line]:
    """Run this part of the campaign."""
    with _folder() as place:
        matrix = Matrix(place, time.monotonic() + seconds, seed)
        try:
            return matrix.run(rounds)
        finally:
            matrix.home.end()  # where the campaign itself was interrupted
