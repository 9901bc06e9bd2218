"""The trainings of a home by their folders: which there are, how they stand, their log as it comes, and their end.

Any process may ask: all that is known of a run is in its folder, and whether somebody follows it is told by its lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from academy.errors import InputError, TrainingError
from academy.habitat.backends.base import TrainingEvent
from academy.habitat.backends.process import (
    CANCEL,
    ENDED,
    EVENTS,
    LOCK,
    POLL_SECONDS,
    read_events,
    read_events_from,
    read_run_events,
)
from academy.habitat.progress import Line, Progress, line, progress
from academy.store.files import write_file
from academy.store.locks import is_locked

PREFIX = "training-"
"""A job's name is this and its run's name."""
SEARCH = "tune-"
"""What lies beside the runs: a search for a recipe, with its trials."""
SHOWN = 5
END_SECONDS = 60.0
"""A cancelled training has ended long before."""


def all_runs(runs: Path, price: float | None = None) -> list[tuple[str, Progress]]:
    """Every training of a home with its name, the newest attempt first. One that cannot be read says so."""
    found = []
    for folder in _folders(runs):
        try:
            stands = run_progress(folder, price)
        except TrainingError as problem:
            stands = Progress(status="failed", error=str(problem))
        found.append((folder.name, stands))
    return sorted(found, key=lambda one: (-(one[1].began or 0.0), one[0]))


def find_run(runs: Path, said: str) -> Path:
    """The folder of a run, by the beginning of its order's digest or by its job's name. Raises InputError."""
    start = said.removeprefix(PREFIX)[:16]
    found = {path.name: path for path in sorted(_folders(runs)) if start and path.name.startswith(start)}
    if not found:
        raise InputError(f"There is no training {said} in this home.", "`academy habitat runs` lists them.")
    if len(found) > 1:
        more = ", ..." if len(found) > SHOWN else ""
        raise InputError(f"{said} may be {', '.join(sorted(found)[:SHOWN])}{more}.", "Say more of its digest.")
    return next(iter(found.values()))


def _folders(runs: Path) -> Iterator[Path]:
    """Of the trainings, and of a search's trials the one that runs; the others are figures in its record."""
    for path in _within(runs):
        if path.name.startswith(SEARCH):
            yield from (trial for trial in _within(path) if is_followed(trial))
        else:
            yield path


def _within(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:  # a search tidies up behind its trials
        return


def is_followed(folder: Path) -> bool:
    """Whether somebody runs it now."""
    return is_locked(folder / LOCK)


def run_progress(folder: Path, price: float | None = None) -> Progress:
    """How a run stands. Raises TrainingError where its events cannot be read."""
    followed = is_followed(folder)  # asked first: it may end while its events are read
    return progress(read_run_events(folder), followed=followed, price=price)


def run_log(folder: Path, *, follow: bool = False) -> Iterator[Line]:
    """A run's events in words, from the first on; with `follow` as they come, until nobody runs it any more.

    Raises TrainingError.
    """
    place = count = 0
    while True:
        running = follow and is_followed(folder)
        found, place = read_events_from(folder / EVENTS, place)
        for event in found:
            count = event.n
            yield line(event)
        if not running:
            break
        time.sleep(POLL_SECONDS)
    yield from (line(event) for event in read_events(folder / ENDED) if event.n >= count)


def cancel_run(folder: Path, price: float | None = None) -> Progress:
    """End a run, whoever follows it, and wait for its end; its checkpoints stay. How it stands afterwards.

    Raises InputError where nobody runs it, TrainingError where it does not end.
    """
    if not is_followed(folder):
        raise InputError(f"The training {folder.name} is not running.", "`academy habitat runs` tells which are.")
    before = _last(folder)
    until = time.monotonic() + END_SECONDS
    while is_followed(folder) and _last(folder) in (None, before):
        if time.monotonic() > until:
            raise TrainingError(
                f"The training {folder.name} was told to end, and has not ended within {END_SECONDS:.0f} s.",
                "Who started it may be waiting for something else; end that program.",
            )
        if not (folder / CANCEL).exists():  # a training that is just starting removes what was left of the last one
            write_file(folder / CANCEL, b"")
        time.sleep(POLL_SECONDS)
    while is_followed(folder) and time.monotonic() < until:  # it is being tidied up
        time.sleep(POLL_SECONDS)
    return run_progress(folder, price)


def _last(folder: Path) -> TrainingEvent | None:
    """What was left by who followed it to its end."""
    return next(iter(read_events(folder / ENDED)), None)
