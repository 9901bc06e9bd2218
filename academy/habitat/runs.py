"""The trainings of a home, read from their folders: list, progress, log and cancellation.

Any process can use this: a run's folder holds everything about it, and its lock shows whether a process follows it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from academy.errors import InputError, TrainingError
from academy.habitat.backends.base import TrainingEvent
from academy.habitat.job_names import run_of_job
from academy.habitat.progress import LogLine, Progress, log_line, progress
from academy.habitat.run_folder import (
    CANCEL,
    ENDED,
    EVENTS,
    LOCK,
    POLL_SECONDS,
    read_events,
    read_events_from,
    read_run_events,
)
from academy.store.files import write_file
from academy.store.locks import is_locked

SEARCH = "tune-"
"""Prefix of a folder beside the runs: a search for a recipe, with its trials."""
SHOWN = 5
END_SECONDS = 60.0
"""A cancelled training normally ends much earlier."""


def all_runs(runs: Path, price: float | None = None) -> list[tuple[str, Progress]]:
    """Every training of a home with its name, newest attempt first. An unreadable one is listed as failed."""
    trainings = []
    for folder in _folders(runs):
        try:
            state = run_progress(folder, price)
        except TrainingError as problem:
            state = Progress(status="failed", error=str(problem))
        trainings.append((folder.name, state))
    return sorted(trainings, key=lambda training: (-(training[1].began or 0.0), training[0]))


def find_run(runs: Path, name: str) -> Path:
    """The folder of a run, by the beginning of its order's digest or by its job's name. Raises InputError."""
    start = run_of_job(runs, name) or name[:16]
    matches = {path.name: path for path in sorted(_folders(runs)) if start and path.name.startswith(start)}
    if not matches:
        raise InputError(f"This home has no training {name}.", "`academy habitat runs` lists its trainings.")
    if len(matches) > 1:
        ellipsis = ", ..." if len(matches) > SHOWN else ""
        candidates = f"{', '.join(sorted(matches)[:SHOWN])}{ellipsis}"
        raise InputError(f"Several trainings match {name}: {candidates}.", "Give more characters of the digest.")
    return next(iter(matches.values()))


def _folders(runs: Path) -> Iterator[Path]:
    """Folders of the trainings. Of a search's trials only the running one: the others are figures in its record."""
    for path in _within(runs):
        if path.name.startswith(SEARCH):
            yield from (trial for trial in _within(path) if is_followed(trial))
        else:
            yield path


def _within(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:  # a search removes its trials
        return


def is_followed(folder: Path) -> bool:
    """Whether a process is running it now."""
    return is_locked(folder / LOCK)


def run_progress(folder: Path, price: float | None = None) -> Progress:
    """The progress of a run. Raises TrainingError if its events cannot be read."""
    followed = is_followed(folder)  # before reading: it may end while its events are read
    return progress(read_run_events(folder), followed=followed, price=price)


def run_log(folder: Path, *, follow: bool = False) -> Iterator[LogLine]:
    """A run's events in words, from the first one. With `follow`, new ones as they arrive until the run ends.

    Raises TrainingError.
    """
    offset = count = 0
    while True:
        running = follow and is_followed(folder)
        events, offset = read_events_from(folder / EVENTS, offset)
        for event in events:
            count = event.n
            yield log_line(event)
        if not running:
            break
        time.sleep(POLL_SECONDS)
    yield from (log_line(event) for event in read_events(folder / ENDED) if event.n >= count)


def cancel_run(folder: Path, price: float | None = None) -> Progress:
    """Cancel a run, whichever process follows it, and wait until it ends; its checkpoints stay.

    Returns its progress. Raises InputError if it is not running, TrainingError if it does not end.
    """
    if not is_followed(folder):
        raise InputError(f"The training {folder.name} is not running.", "`academy habitat runs` shows which are.")
    before = _last(folder)
    until = time.monotonic() + END_SECONDS
    while is_followed(folder) and _last(folder) in (None, before):
        if time.monotonic() > until:
            raise TrainingError(
                f"The training {folder.name} was cancelled, but has not ended within {END_SECONDS:.0f} s.",
                "The program that started it may be busy with something else; end that program.",
            )
        if not (folder / CANCEL).exists():  # a training that is just starting removes the file of the attempt before
            write_file(folder / CANCEL, b"")
        time.sleep(POLL_SECONDS)
    while is_followed(folder) and time.monotonic() < until:  # it is cleaning up
        time.sleep(POLL_SECONDS)
    return run_progress(folder, price)


def _last(folder: Path) -> TrainingEvent | None:
    """The last event that the backend wrote for the trainer."""
    return next(iter(read_events(folder / ENDED)), None)
