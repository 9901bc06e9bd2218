"""Training in a subprocess of its own on this machine: native, GPU or CPU.

The subprocess dies with its parent, holds a lock on its order, and goes on from its last checkpoint when the same
order is run again. It speaks through events.jsonl alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from academy.artifacts import STAGING, canonical, only_one, said_plainly, write_file
from academy.errors import AdapterError
from academy.habitat.adapter import read_adapter
from academy.habitat.backend import TrainingEvent, TrainingOrder

EVENTS, ORDER, LOG, LOCK = "events.jsonl", "order.json", "trainer.log", "lock"
POLL_SECONDS = 0.1
SILENCE_SECONDS = 900.0
"""A trainer that reports nothing for so long is ended."""


class ProcessBackend:
    """Runs `python -m academy.habitat.trainer` (a TrainingBackend)."""

    def __init__(self, silence: float = SILENCE_SECONDS, gpu: str | None = None) -> None:
        """`gpu` is the uuid of the only GPU that the trainer sees; empty: none; None: whatever this process sees."""
        self.silence = silence
        self._sees = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Events of the order as they come; those of earlier attempts first."""
        folder = order.folder
        with only_one(folder / LOCK, "This very training is running already."):
            if done := _done_before(order):
                yield from (one for one in read_events(folder / EVENTS) if one.phase not in ("done", "failed"))
                yield done
                return
            write_file(folder / ORDER, canonical(order))
            count = 0
            for event in read_events(folder / EVENTS):
                count = event.n
                if event.phase not in ("done", "failed"):
                    yield event
            yield from self._follow(order, count)

    def cancel(self, order: TrainingOrder) -> bool:
        """End the order's subprocess if this object started it."""
        process = self._running.get(order.digest)
        if process is None or process.poll() is not None:
            return False
        process.terminate()
        return True

    def _follow(self, order: TrainingOrder, count: int) -> Iterator[TrainingEvent]:
        folder = order.folder
        with said_plainly(folder), (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "academy.habitat.trainer", str(folder / ORDER), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **_ENVIRONMENT, **self._sees},
            )
        self._running[order.digest] = process
        heard = time.monotonic()
        place = 0  # where the events end that were read; a new attempt cuts off a torn line before it writes
        try:
            while True:
                running = process.poll() is None
                found, place = read_events_from(folder / EVENTS, place)
                fresh = [event for event in found if event.n > count]
                for event in fresh:
                    count, heard = event.n, time.monotonic()
                    yield event
                    if event.phase in ("done", "failed"):
                        return
                if not running and not fresh:
                    yield _silent_end(count, f"The trainer ended with code {process.returncode}", folder)
                    return
                if time.monotonic() - heard > self.silence:
                    yield _silent_end(count, f"The trainer said nothing for {self.silence:.0f} s and was ended", folder)
                    return
                time.sleep(POLL_SECONDS)
        finally:
            self._running.pop(order.digest, None)
            _end(process)


_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def read_events(path: Path) -> Iterator[TrainingEvent]:
    """The whole lines of an events file; a line that is still being written is left for the next reading."""
    yield from read_events_from(path, 0)[0]


def read_events_from(path: Path, place: int) -> tuple[list[TrainingEvent], int]:
    """The whole lines behind a place in the file (in bytes), and the place behind them."""
    if not path.is_file():
        return [], place
    with path.open("rb") as stream:
        stream.seek(place)
        whole, newline, _ = stream.read().rpartition(b"\n")
    return [TrainingEvent.model_validate_json(line) for line in whole.splitlines()], place + len(whole) + len(newline)


def _done_before(order: TrainingOrder) -> TrainingEvent | None:
    """The "done" of an earlier attempt, if its adapter is still whole."""
    for event in read_events(order.folder / EVENTS):
        if event.phase == "done":
            place = order.adapters / event.adapter[:16]
            try:
                read_adapter(place, base_digest=order.base.digest, digest=event.adapter)
            except AdapterError:
                # damaged or removed since: train again, the bytes will be the same; what is there would stand in
                # their way, and is swept away later
                with suppress(FileNotFoundError):
                    place.rename(place.with_name(f"{STAGING}{place.name}-{time.time_ns()}"))
                return None
            return event
    return None


def _silent_end(count: int, what: str, folder: Path) -> TrainingEvent:
    log = folder / LOG
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if log.is_file() else []
    return TrainingEvent(
        n=count + 1,
        at=time.time(),
        phase="failed",
        cause="killed",
        message=f"{what}{': ' + tail[0][:300] if tail else ''}. Its output is in {log}.",
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
