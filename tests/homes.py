"""A home in a folder, the `academy` command run in it, and its state as seen from outside.

Nothing here imports the loop: processes are found in /proc, the databases are read with sqlite3.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from academy.adapters.adapter import digest_of_adapter
from academy.home.identity import adopt_home
from tests.forks import Forks

ACADEMY = (sys.executable, "-m", "academy.cli.main")
ROOT = Path(__file__).parents[1]
OURS = (
    "ACADEMY_",
    "PREFECT_",
    "MLFLOW_",
    "DEFAULT_",
    "MIN_",
    "ENABLE_",
    "WORKSPACE_ROOT",
    "MEMORY_ROOT",
    "DOCKER_CUDA_IMAGE",
)


def bare() -> dict[str, str]:
    """The environment without settings of the Academy, Prefect and MLflow, with one thread."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return variables | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def json(self) -> Any:
        """The JSON object of `--json`."""
        return json.loads(self.out)


def result_of(ended: Ended) -> Any:
    """The JSON of a command that succeeded."""
    assert ended.code == 0, ended.err
    return ended.json


@dataclass(frozen=True)
class Process:
    """A live process of a home."""

    pid: int
    command: str


@dataclass(frozen=True)
class State:
    """The content of a home, read from its files and databases."""

    lessons: int
    datasets: tuple[str, ...]
    adapters: tuple[tuple[str, str], ...]  # folder, digest of what is in it
    versions: tuple[tuple[str, str, str], ...]  # version, order, adapter
    verdicts: tuple[tuple[str, str], ...]  # outcome, challenger
    noted: tuple[str, ...]  # the verdict shown with each registered version
    promotions: tuple[str, ...]  # adapters, in order
    champion: str  # the version that the ledger names
    alias: str  # the version that MLflow's alias names
    runs: tuple[str, ...]  # status of each MLflow run
    failed_tags: int  # runs that still have the tag of a failure
    curve: tuple[int, ...]  # logged steps, in order
    repeated: tuple[int, ...]  # steps that were logged more than once
    staging: tuple[str, ...]  # half-written files of killed processes


class RealHome:
    """A folder as ACADEMY_HOME. Commands run in the folder beside it, which is not a git repository."""

    forks: Forks | None = None
    """Starts commands as forks, in the tests; without it each command is a new process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.desk = path.parent / f"{path.name}-desk"
        self.desk.mkdir(parents=True, exist_ok=True)

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of a command in this home, with these settings."""
        return bare() | {"ACADEMY_HOME": str(self.path), "ACADEMY_TRAINING_INTERVAL_HOURS": "0"} | settings

    def start(self, *arguments: str | Path, stderr: Path, **settings: str) -> subprocess.Popen[bytes]:
        """Start `academy ...` with its stderr in a file, and its stdout in the same file with the suffix .out."""
        with stderr.open("wb") as words, stderr.with_suffix(".out").open("wb") as out:
            return subprocess.Popen(
                [*ACADEMY, *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=words, cwd=self.desk, env=self.environment(**settings),
            )  # fmt: skip

    def run(self, *arguments: str | Path, timeout: float = 600, **settings: str) -> Ended:
        """Run `academy ...` to its end."""
        began = time.monotonic()
        if self.forks is not None and all(name.startswith(OURS) for name in settings):
            code, out, err = self.forks.run(
                [*map(str, arguments)], folder=self.desk, environment=self.environment(**settings), timeout=timeout
            )
            return Ended(code, out, err, time.monotonic() - began)
        process = subprocess.run(
            [*ACADEMY, *map(str, arguments)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            cwd=self.desk, env=self.environment(**settings), timeout=timeout,
        )  # fmt: skip
        return Ended(process.returncode, process.stdout, process.stderr, time.monotonic() - began)

    def processes(self) -> list[Process]:
        """Live processes whose environment names this home."""
        mark = f"ACADEMY_HOME={self.path}".encode()
        processes = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    processes.append(Process(int(entry.name), command))
            except OSError:
                continue  # the process has ended meanwhile
        return processes

    def left_behind(self, patience: float = 5.0) -> list[Process]:
        """Processes that still run after so many seconds."""
        until = time.monotonic() + patience
        while (processes := self.processes()) and time.monotonic() < until:
            time.sleep(0.05)
        return processes

    def end(self, *processes: Process) -> None:
        """Kill these processes, or all that run in this home."""
        for process in processes or self.processes():
            _signal(process.pid, signal.SIGKILL)

    def copy_frozen(self, place: Path) -> None:
        """Copy the home while all its processes are stopped: exactly what a kill at this moment would leave."""
        processes = self.processes()
        for process in processes:
            _signal(process.pid, signal.SIGSTOP)
        try:
            shutil.copytree(self.path, place, symlinks=True)
        finally:
            for process in processes:
                _signal(process.pid, signal.SIGCONT)

    def restore(self, place: Path | None) -> None:
        """Replace the home by a copy, or by an empty home. The path stays the same, because MLflow stores paths."""
        shutil.rmtree(self.path, ignore_errors=True)
        if place is not None:
            shutil.copytree(place, self.path, symlinks=True)
            adopt_home(self.path)

    def events(self) -> list[dict[str, Any]]:
        """The events of all trainings, without a line that is half-written."""
        events = []
        for path in sorted(self.path.glob("runs/*/events.jsonl")):
            events += [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return events

    def ledger(self, kind: str) -> list[dict[str, Any]]:
        """Bodies of the ledger's rows of one kind."""
        rows = self._rows("academy.db", "SELECT body FROM ledger WHERE kind = ? ORDER BY seq", kind)
        return [json.loads(body) for (body,) in rows]

    def state(self) -> State:
        """Read everything that a kill could have damaged."""
        versions = self._rows(
            "mlflow.db",
            "SELECT v.version, o.value, a.value, d.value FROM model_versions v "
            "LEFT JOIN model_version_tags o ON o.name = v.name AND o.version = v.version AND o.key = 'academy.order' "
            "LEFT JOIN model_version_tags a ON a.name = v.name AND a.version = v.version AND a.key = 'adapter' "
            "LEFT JOIN model_version_tags d ON d.name = v.name AND d.version = v.version AND d.key = 'verdict'",
        )
        changes = self._rows(
            "academy.db", "SELECT kind, body FROM ledger WHERE kind IN ('promotion', 'rollback') ORDER BY seq"
        )
        steps = [
            step
            for (step,) in self._rows("mlflow.db", "SELECT step FROM metrics WHERE key = 'loss' ORDER BY timestamp")
        ]
        alias = self._rows("mlflow.db", "SELECT version FROM registered_model_aliases WHERE alias = 'champion'")
        failures = self._rows("mlflow.db", "SELECT count(*) FROM tags WHERE key = 'academy.failed'")
        return State(
            lessons=next((n for (n,) in self._rows("academy.db", "SELECT count(*) FROM lessons")), 0),
            datasets=tuple(path.name for path in self._folders("datasets")),
            adapters=tuple((path.name, digest_of_adapter(path)) for path in self._folders("adapters")),
            versions=tuple((str(number), order, adapter) for number, order, adapter, _ in versions),
            verdicts=tuple((body["outcome"], body["challenger"]) for body in self.ledger("verdict")),
            noted=tuple(verdict for _, _, _, verdict in versions),
            promotions=tuple(json.loads(body)["adapter"] for kind, body in changes if kind == "promotion"),
            champion=json.loads(changes[-1][1])["version"] if changes else "base",
            alias=str(alias[0][0]) if alias else "base",
            runs=tuple(status for (status,) in self._rows("mlflow.db", "SELECT status FROM runs")),
            failed_tags=failures[0][0] if failures else 0,
            curve=tuple(steps),
            repeated=tuple(sorted(step for step, count in Counter(steps).items() if count > 1)),
            staging=tuple(sorted(str(path.relative_to(self.path)) for path in self._left_half_written())),
        )

    def cut_after_verdict(self, *, promotion: bool) -> None:
        """Delete the alias, or the promotion as well: what a process killed after its verdict leaves unwritten."""
        with closing(sqlite3.connect(self.path / "mlflow.db")) as registry:
            registry.execute("DELETE FROM registered_model_aliases")
            if promotion:
                registry.execute("UPDATE model_version_tags SET value = 'not examined' WHERE key = 'verdict'")
            registry.commit()
        if promotion:
            with closing(sqlite3.connect(self.path / "academy.db")) as ledger:
                for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                    ledger.execute(f'DROP TRIGGER "{name}"')
                ledger.execute("DELETE FROM ledger WHERE kind = 'promotion'")
                ledger.commit()

    def let_a_day_pass(self) -> None:
        """Make half-written files a day old. Younger ones may belong to another process, so nothing removes them."""
        for path in self._left_half_written():
            os.utime(path, (time.time() - 25 * 3600,) * 2)

    def _left_half_written(self) -> Iterator[Path]:
        for top in self.path.iterdir():
            if top.name.startswith(".staging-"):
                yield top
            elif top.name != "prefect" and top.is_dir():
                yield from top.rglob(".staging-*")
        yield from self.path.glob(".write-*")
        yield from self.path.glob("runs/*/draft")

    def _folders(self, name: str) -> list[Path]:
        return sorted(path for path in self.path.glob(f"{name}/*") if not path.name.startswith("."))

    def _rows(self, database: str, query: str, *values: str) -> list[tuple[Any, ...]]:
        path = self.path / database
        if not path.is_file():
            return []
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.OperationalError as problem:
            if "no such table" in str(problem):
                return []  # killed before its migration
            raise


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
