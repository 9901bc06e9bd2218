"""The folder of a training run: its files, its events, and how to read them while they are still being written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingEvent

EVENTS, ORDER, LOG, LOCK = "events.jsonl", "order.json", "trainer.log", "lock"
ENDED = "ended.jsonl"
"""The last event of an attempt whose trainer could not write it. The backend writes it instead."""
CANCEL = "cancel"
"""Any process that creates this file cancels the training."""
POLL_SECONDS = 0.1


def read_events(path: Path) -> Iterator[TrainingEvent]:
    """Yield the complete lines of an events file. Raises TrainingError."""
    yield from read_events_from(path, 0)[0]


def read_events_from(path: Path, offset: int) -> tuple[list[TrainingEvent], int]:
    """Read the complete lines after a byte offset; returns them and the offset after them.

    A line that is still being written is read next time. Raises TrainingError for a file that our trainer does not
    write: a symbolic link could point out of a container.
    """
    remedy = f"Remove {path.parent} and start the training again."
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return [], offset
    except OSError as problem:
        if problem.errno != errno.ELOOP:
            raise
        raise TrainingError("The trainer's events file is a symbolic link.", remedy) from problem
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise TrainingError("The trainer's events file is not a regular file.", remedy)
    with os.fdopen(handle, "rb") as stream:
        stream.seek(offset)
        lines, newline, _ = stream.read().rpartition(b"\n")
    try:
        events = [TrainingEvent.model_validate_json(line) for line in lines.splitlines()]
    except ValidationError as problem:
        raise TrainingError("The trainer's events file cannot be read.", remedy) from problem
    return events, offset + len(lines) + len(newline)


def read_run_events(folder: Path) -> list[TrainingEvent]:
    """All events of a run: the trainer's, then the backend's last one where the trainer could not write it.

    Raises TrainingError.
    """
    events, last = list(read_events(folder / EVENTS)), list(read_events(folder / ENDED))
    return [*(event for event in events if not last or event.n < last[0].n), *last]
