"""Names of training jobs: `training_<time>`, given once to a run and kept when it continues.

A name is a file in the folder `jobs` beside the runs; it holds the name of the run's folder. Creating the file is what
gives the name, so two processes never give the same one. The order's digest stays the key of a run.
"""

from __future__ import annotations

import re
from contextlib import suppress
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
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            name = first if number == 1 else f"{first}_{number}"
            with suppress(FileExistsError), (folder / f"{name}{SUFFIX}").open("x", encoding="ascii") as file:
                file.write(run)
                break
            number += 1
    return job_name(runs, run)  # the earliest, if two processes named it at once


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
