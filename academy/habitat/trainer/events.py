"""Writes events.jsonl: events are numbered over all attempts, and each is written as one whole line."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from academy.habitat.backends.base import Phase, TrainingEvent
from academy.habitat.run_folder import read_events
from academy.records import canonical

NOTE = "ended-{}.json"
"""File with the reason why one of several processes ended, by its rank."""
PULSE_SECONDS = 5.0
"""How often a trainer touches its events file while it has no event to write."""
LONGEST_SECONDS = 3600.0
"""Limit for a library call that shows no activity itself, such as importing, loading or writing."""


class NullEventWriter:
    """Writes nothing: of several processes only the first writes events."""

    def write(self, phase: Phase, **fields: Any) -> None:
        """Write nothing."""

    def pulse(self) -> None:
        """Touch nothing."""

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Touch nothing."""
        yield


class EventWriter:
    """Appends events. First it cuts off an incomplete last line of a killed attempt.

    `meter` returns the joules of this attempt so far; once it is set, each event contains them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meter: Callable[[], float | None] = lambda: None
        self.count = 0
        self._pulse_time = 0.0
        if path.is_file():
            content = path.read_bytes()
            size = content.rfind(b"\n") + 1
            if size != len(content):
                os.truncate(path, size)
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
            # on a full disk, half a line would run into the next one and make the file unreadable
            self.count -= 1
            with suppress(OSError):
                os.truncate(self.path, size)
            raise

    def pulse(self) -> None:
        """Touch the events file to show activity: a trainer without activity counts as hung and is stopped."""
        if time.monotonic() - self._pulse_time > PULSE_SECONDS:
            self._pulse_time = time.monotonic()
            with suppress(OSError):
                os.utime(self.path)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Touch the events file during a long library call, such as loading a model.

        Stops after LONGEST_SECONDS, so a call that hangs is still noticed.
        """
        over = threading.Event()

        def keep_touching() -> None:
            until = time.monotonic() + LONGEST_SECONDS
            while not over.wait(PULSE_SECONDS) and time.monotonic() < until:
                self.pulse()

        thread = threading.Thread(target=keep_touching, name="busy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
