"""Following a started trainer to its end, wherever it runs: what process and container backends share.

The process that follows a trainer holds a lock on its order. A trainer reports through events.jsonl. If the same order
runs again, it continues from its last checkpoint. If a trainer ends without a last event, the follower writes one into
a file beside the trainer's. A file `cancel` in the run's folder ends the training, whichever process created it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from academy.adapters.adapter import read_adapter
from academy.errors import AdapterError, HomeError, TrainingError
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.order_paths import refuse_outside
from academy.habitat.run_folder import CANCEL, ENDED, EVENTS, LOCK, LOG, POLL_SECONDS, read_events, read_events_from
from academy.records import Record, canonical
from academy.store.files import STAGING, is_full, write_file
from academy.store.locks import exclusive_lock
from academy.system.gpu_lock import hold_gpu

SILENCE_SECONDS = 900.0
"""A trainer that shows no activity for this long is ended: no event, and no new time on its events file."""
FULL = "The disk is full. Free some space; the training continues from its last checkpoint."
Collect = Callable[[TrainingOrder, str], None]
"""Publishes the adapter with this digest where the trainer could not. Raises AdapterError if the adapter is invalid."""


class TrainerEnd(Record):
    """How a trainer ended that wrote no last event itself."""

    message: str
    cause: str = "killed"


CANCELLED = TrainerEnd(
    message="The training was cancelled. If it is started again, it continues from its last checkpoint",
    cause="cancelled",
)


class StartedTrainer(Protocol):
    """A trainer that was started, wherever it runs."""

    def ending(self) -> TrainerEnd | None:
        """How it ended; None while it runs."""
        ...

    def cancel(self) -> bool:
        """End it for a user; from any thread, any number of times. Returns False if it has ended."""
        ...

    def stop(self) -> None:
        """End it and remove everything but its files; may be called several times."""
        ...


def nothing_to_collect(order: TrainingOrder, adapter: str) -> None:
    """For trainers that publish their adapter themselves."""


def run_order(
    order: TrainingOrder,
    start: Callable[[], StartedTrainer],
    silence: float,
    collect: Collect = nothing_to_collect,
    *,
    gpu: str = "",
    home: Path | None = None,
) -> Iterator[TrainingEvent]:
    """Start an order's trainer, unless an earlier attempt finished it, and follow it as TrainingBackend promises.

    `start` may raise TrainingError, which becomes a "failed" event. `silence` is in seconds. `gpu`: comma-separated
    UUIDs of the GPUs that it trains on; if another training uses one of them, this one fails. With a `home`, an order
    that names a path outside it fails before anything is written.
    """
    if home:
        try:
            refuse_outside(order, home)
        except TrainingError as problem:
            yield failed_event(1, str(problem), problem.cause)
            return
    folder = order.folder
    with exclusive_lock(folder / LOCK, "Another process is running this training."):
        for name in (ENDED, CANCEL):  # of the previous attempt
            _remove(folder / name)
        if done := _earlier_result(order, collect):
            yield from (event for event in read_events(folder / EVENTS) if event.phase not in ("done", "failed"))
            yield done
            return
        count = 0
        for event in read_events(folder / EVENTS):
            count = event.n
            if event.phase not in ("done", "failed"):
                yield event
        with ExitStack() as cleanup:
            try:
                for uuid in sorted(filter(None, gpu.split(","))):
                    cleanup.enter_context(hold_gpu(uuid))
                trainer = start()
            except TrainingError as problem:
                yield _write_last_event(folder, failed_event(count + 1, str(problem), problem.cause))
                return
            cleanup.callback(trainer.stop)  # before another training can lock the GPU
            cleanup.enter_context(_cancelled_by_file(folder / CANCEL, trainer))
            yield from _follow(order, trainer, silence, collect, count)


@contextmanager
def _cancelled_by_file(file: Path, trainer: StartedTrainer) -> Iterator[None]:
    """Cancel the trainer once the file exists. In a thread, because the reader of the events may be busy."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POLL_SECONDS):
            if file.exists():
                trainer.cancel()
                over.wait(1)  # give it time to end

    thread = threading.Thread(target=watch, name="cancel", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _follow(
    order: TrainingOrder, trainer: StartedTrainer, silence: float, collect: Collect, count: int
) -> Iterator[TrainingEvent]:
    folder = order.folder
    last_activity, touch_time = time.monotonic(), 0
    offset = 0  # in the events file; a new attempt cuts off a torn line before it writes
    while True:
        ending = trainer.ending()
        try:
            events, offset = read_events_from(folder / EVENTS, offset)
        except TrainingError as problem:
            yield _write_last_event(folder, failed_event(count + 1, str(problem), problem.cause))
            return
        new_events = [event for event in events if event.n > count]
        for event in new_events:
            count, last_activity = event.n, time.monotonic()
            if event.phase == "done":
                trainer.stop()  # so that nothing changes what is collected
                try:
                    collect(order, event.adapter)
                except AdapterError as problem:
                    message = f"The trainer's adapter was rejected: {problem}"
                    yield _write_last_event(folder, failed_event(count, message))
                    return
            yield event
            if event.phase in ("done", "failed"):
                return
        if (now := _touch_time(folder / EVENTS)) != touch_time:
            last_activity, touch_time = time.monotonic(), now
        if ending is None and time.monotonic() - last_activity > silence:
            ending = TrainerEnd(message=f"The trainer showed no activity for {silence:.0f} s and was stopped")
        elif ending is None or new_events:
            time.sleep(POLL_SECONDS)
            continue
        trainer.stop()
        yield _write_last_event(folder, _event_of_end(count, ending, folder))
        return


def _touch_time(path: Path) -> int:
    """When the file was last changed or touched. Only a difference means something."""
    try:
        return path.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def _write_last_event(folder: Path, event: TrainingEvent) -> TrainingEvent:
    """Keep the event for other processes; not in the trainer's own file, which a container may still write."""
    with suppress(HomeError):  # the disk is full; the caller still gets the event
        write_file(folder / ENDED, canonical(event) + b"\n")
    return event


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # a container can create anything in here
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def failed_event(n: int, message: str, cause: str = "unknown") -> TrainingEvent:
    """The last event of an attempt, as the backend writes it."""
    return TrainingEvent(n=n, at=time.time(), phase="failed", message=message, cause=cause)


def _earlier_result(order: TrainingOrder, collect: Collect) -> TrainingEvent | None:
    """The "done" event of an earlier attempt, if its adapter is still intact."""
    for event in read_events(order.folder / EVENTS):
        if event.phase == "done":
            folder = order.adapters / event.adapter[:16]
            try:
                collect(order, event.adapter)
                read_adapter(folder, base_digest=order.base.digest, digest=event.adapter)
            except AdapterError:
                # damaged or removed since then. Training again gives the same bytes; the damaged folder is moved out
                # of the way and swept later
                with suppress(FileNotFoundError):
                    folder.rename(folder.with_name(f"{STAGING}{folder.name}-{time.time_ns()}"))
                return None
            return event
    return None


def _event_of_end(count: int, ending: TrainerEnd, folder: Path) -> TrainingEvent:
    if ending.cause == "killed" and is_full(folder, OSError()):
        return failed_event(count + 1, FULL, "disk")
    log = folder / LOG
    tail = (
        log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        if log.is_file() and not log.is_symlink()
        else []
    )
    message = f"{ending.message}{': ' + tail[0][:300] if tail else ''}. Its output is in {log}."
    return failed_event(count + 1, message, ending.cause)
