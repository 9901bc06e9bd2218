"""Names of training jobs: `training_<time>`, given once to a run and kept when it continues.

A name is a file in the folder `jobs` beside the runs; it holds the name of the run's folder. One process at a time
gives names, so no two runs have one name, and no run has two. The order's digest stays the key of a run.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from academy.store.files import explain_disk_errors

NAME = re.compile(r"training_\d{8}_\d{6}(?:_\d+)?", re.ASCII)
JOBS, SUFFIX = "jobs", ".run"


def name_job(runs: Path, run: str) -> str:
    """The name of a run in the folder `runs`; the first call gives it."""
    if name := job_name(runs, run):
        return name
    folder = runs.with_name(JOBS)
    first = f"training_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    number = 1
    with explain_disk_errors(folder), _alone(folder):
        if name := job_name(runs, run):  # another process has just named it
            return name
        while True:
            name = first if number == 1 else f"{first}_{number}"
            with suppress(FileExistsError), (folder / f"{name}{SUFFIX}").open("x", encoding="ascii") as file:
                file.write(run)
                return name
            number += 1


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process gives a name meanwhile; it takes milliseconds, so the others wait."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def job_name(runs: Path, run: str) -> str:
    """The name that a run has; empty for a run without one, such as a search's trial."""
    return job_names(runs).get(run, "")


def job_names(runs: Path) -> dict[str, str]:
    """The names of all runs by run, the earliest where a run has several."""
    files = sorted(runs.with_name(JOBS).glob(f"training_*{SUFFIX}"), reverse=True)
    return {run: file.stem for file in files if NAME.fullmatch(file.stem) and (run := _read(file))}


def run_of_job(runs: Path, name: str) -> str:
    """The run with this name; empty if there is none."""
    return _read(runs.with_name(JOBS) / f"{name}{SUFFIX}") if NAME.fullmatch(name) else ""


def _read(file: Path) -> str:
    try:
        run = file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    return run if run.isalnum() else ""
