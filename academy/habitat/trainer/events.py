"""Writes events.jsonl: numbered over all attempts, one whole line at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from academy.artifacts import canonical
from academy.habitat.backend import Phase, TrainingEvent
from academy.habitat.process import read_events

NOTE = "ended-{}.json"
"""What ended one of several processes, by its number."""


class Silent:
    """For all but the first of several processes: nothing is told twice."""

    def write(self, phase: Phase, **fields: Any) -> None:
        """Say nothing."""


class EventWriter:
    """Appends events. A torn last line of a killed attempt is cut off first.

    `meter` tells the joules of this attempt so far; each event carries them from when there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meter: Callable[[], float | None] = lambda: None
        self.count = 0
        if path.is_file():
            whole = path.read_bytes()
            cut = whole[: whole.rfind(b"\n") + 1]
            if len(cut) != len(whole):
                os.truncate(path, len(cut))
            self.count = max((event.n for event in read_events(path)), default=0)

    def write(self, phase: Phase, **fields: Any) -> None:
        """Number, time and append one event."""
        self.count += 1
        event = TrainingEvent(n=self.count, at=time.time(), phase=phase, energy=self.meter(), **fields)
        with self.path.open("ab") as stream:
            stream.write(canonical(event) + b"\n")
