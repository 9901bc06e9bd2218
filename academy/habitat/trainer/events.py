"""Writes events.jsonl: numbered over all attempts, one whole line at a time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from academy.habitat.backends.base import Phase, TrainingEvent
from academy.habitat.backends.process import read_events
from academy.records import canonical

NOTE = "ended-{}.json"
"""What ended one of several processes, by its number."""
PULSE_SECONDS = 5.0
"""How often a trainer shows that it is alive where it has nothing to tell."""
LONGEST_SECONDS = 3600.0
"""A library may import, load or write for so long without a sign of life of its own."""


class NullEventWriter:
    """For all but the first of several processes: nothing is told twice."""

    def write(self, phase: Phase, **fields: Any) -> None:
        """Say nothing."""

    def pulse(self) -> None:
        """Show nothing."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Show nothing."""
        yield


class EventWriter:
    """Appends events. A torn last line of a killed attempt is cut off first.

    `meter` tells the joules of this attempt so far; each event carries them from when there is one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meter: Callable[[], float | None] = lambda: None
        self.count = 0
        self._shown = 0.0
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
        size = self.path.stat().st_size if self.path.is_file() else 0
        try:
            with self.path.open("ab") as stream:
                stream.write(canonical(event) + b"\n")
        except OSError:
            # half a line on a full disk would run into the next one, and nobody could read the run again
            self.count -= 1
            with suppress(OSError):
                os.truncate(self.path, size)
            raise

    def pulse(self) -> None:
        """Show that the training goes on, by the time of the file; whoever follows it would end a hung one."""
        if time.monotonic() - self._shown > PULSE_SECONDS:
            self._shown = time.monotonic()
            with suppress(OSError):
                os.utime(self.path)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The same for a library's call that takes long and says nothing, such as to load a model.

        For at most LONGEST_SECONDS: what hangs in there is found later, but found.
        """
        over = threading.Event()

        def show() -> None:
            until = time.monotonic() + LONGEST_SECONDS
            while not over.wait(PULSE_SECONDS) and time.monotonic() < until:
                self.pulse()

        thread = threading.Thread(target=show, name="at work", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
