"""Training in a subprocess of its own on this machine: native, GPU or CPU; and how a started trainer is followed.

Who follows a trainer holds a lock on its order. A trainer goes on from its last checkpoint when the same order is run
again, and speaks through events.jsonl; further processes of one training leave a note there. The subprocess dies with
its parent. Where the trainer could not say how it ended, who followed it leaves that beside its events; a file `cancel`
in the run's folder ends it, whoever made that file.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from academy.adapters.adapter import read_adapter
from academy.errors import AdapterError, HomeError, TrainingError
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.orders import refuse_outside
from academy.records import Record, canonical
from academy.store.files import STAGING, explain_disk_errors, is_full, write_file
from academy.store.locks import exclusive_lock
from academy.system.gpu_lock import hold_gpu
from academy.system.processes import oom_kills

EVENTS, ORDER, LOG, LOCK = "events.jsonl", "order.json", "trainer.log", "lock"
ENDED, CANCEL = "ended.jsonl", "cancel"
POLL_SECONDS = 0.1
POLITE_SECONDS = 5.0
"""A trainer that was told to end is killed after so long."""
SILENCE_SECONDS = 900.0
"""A trainer that shows no life for so long is ended: no event, and none of the touches of their file between them."""
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Unless a person says otherwise. Threads that spin at barriers make a training many times slower beside other work."""
FULL = "The disk is full. Free some space; the training goes on from its last checkpoint."


class TrainerEnd(Record):
    """How a trainer ended that did not say so itself."""

    message: str
    cause: str = "killed"


CANCELLED = TrainerEnd(message="The training was cancelled, and goes on from its last checkpoint", cause="cancelled")


class StartedTrainer(Protocol):
    """A trainer that was started, wherever it runs."""

    def ending(self) -> TrainerEnd | None:
        """How it ended; None while it runs."""
        ...

    def cancel(self) -> bool:
        """End it as a person wishes; from any thread, again and again. False where it has ended."""
        ...

    def stop(self) -> None:
        """End it and leave nothing of it behind but its files; may be called again."""
        ...


class ProcessBackend:
    """Runs `python -m academy.habitat.trainer` (a TrainingBackend); with an empty `gpu` it sees none."""

    def __init__(self, silence: float = SILENCE_SECONDS, gpu: str | None = None, home: Path | None = None) -> None:
        """`gpu` is the uuid of the only GPU that the trainer sees; empty: none; None: whatever this process sees.

        Several are parted by commas. `silence` is in seconds. GPUs that are named are held while the trainer runs.
        Where a `home` is given, orders may name paths of it only.
        """
        self.silence = silence
        self.home = home
        self.gpu = gpu or ""
        self._sees = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._running: dict[str, _Subprocess] = {}

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Events of the order as they come; those of earlier attempts first."""
        try:
            yield from run_order(order, lambda: self._start(order), self.silence, gpu=self.gpu, home=self.home)
        finally:
            self._running.pop(order.digest, None)

    def cancel(self, order: TrainingOrder) -> bool:
        """End the order's subprocess if this object started it."""
        started = self._running.get(order.digest)
        return started is not None and started.cancel()

    def _start(self, order: TrainingOrder) -> StartedTrainer:
        folder = order.folder
        write_file(folder / ORDER, canonical(order))
        with explain_disk_errors(folder), (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", _program(order), str(folder / ORDER), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**WAITING, **os.environ, **ENVIRONMENT, **self._sees},
            )
        started = self._running[order.digest] = _Subprocess(process)
        return started


def _program(order: TrainingOrder) -> str:
    several = order.plan is not None and order.plan.processes > 1
    return "academy.habitat.trainer.launch" if several else "academy.habitat.trainer"


class _Subprocess:
    """A started trainer as a child of this process. `kills` counts whom the kernel killed for want of memory."""

    def __init__(self, process: subprocess.Popen[bytes], kills: Callable[[], int | None] = oom_kills) -> None:
        self.process = process
        self._kills = kills
        self._killed_before = kills()
        self._cancelled: float | None = None

    def ending(self) -> TrainerEnd | None:
        code = self.process.poll()
        if code is None:
            return None
        return CANCELLED if self._cancelled is not None else ending_of(code, self._killed_before, self._kills())

    def cancel(self) -> bool:
        if self.process.poll() is not None:
            return False
        if self._cancelled is None:
            self._cancelled = time.monotonic()
            self.process.terminate()
        elif time.monotonic() - self._cancelled > POLITE_SECONDS:
            self.process.kill()
        return True

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=POLITE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def ending_of(code: int, before: int | None, now: int | None) -> TrainerEnd:
    """How a process ended that nobody here killed: its exit code, and the kernel's count of kills for want of memory.

    The count is the whole machine's. Another's kill in the same minutes may be taken for this one; the training then
    goes on with less memory than it needs, which is cheaper than to stop where it could have gone on.
    """
    if code == -signal.SIGKILL and before is not None and now is not None and now > before:
        return TrainerEnd(message="The machine ran out of memory, and the system killed the trainer", cause="memory")
    return TrainerEnd(message=f"The trainer ended with code {code}")


def run_order(
    order: TrainingOrder,
    start: Callable[[], StartedTrainer],
    silence: float,
    collect: Callable[[TrainingOrder, str], None] = lambda order, adapter: None,  # noqa: ARG005
    *,
    gpu: str = "",
    home: Path | None = None,
) -> Iterator[TrainingEvent]:
    """Start an order's trainer where no earlier attempt did it all, and follow it, as TrainingBackend promises.

    `start` may refuse by a TrainingError, which becomes a "failed" event. `collect` gets the digest of an adapter that
    the trainer called done and publishes it, where the trainer could not; it may raise AdapterError. `gpu` are
    uuids of the GPUs that it trains on: one that another training holds refuses this one. Where a `home` is given, so
    does a path outside it, before anything is written.
    """
    if home:
        try:
            refuse_outside(order, home)
        except TrainingError as problem:
            yield failed(1, str(problem), problem.cause)
            return
    folder = order.folder
    with exclusive_lock(folder / LOCK, "This very training is running already."):
        for left in (ENDED, CANCEL):  # of the attempt before
            _remove(folder / left)
        if done := _done_before(order, collect):
            yield from (one for one in read_events(folder / EVENTS) if one.phase not in ("done", "failed"))
            yield done
            return
        count = 0
        for event in read_events(folder / EVENTS):
            count = event.n
            if event.phase not in ("done", "failed"):
                yield event
        with ExitStack() as held:
            try:
                for uuid in sorted(filter(None, gpu.split(","))):
                    held.enter_context(hold_gpu(uuid))
                started = start()
            except TrainingError as problem:
                yield _last_word(folder, failed(count + 1, str(problem), problem.cause))
                return
            held.callback(started.stop)  # before the GPU is another's
            held.enter_context(_cancelled_by_file(folder / CANCEL, started))
            yield from _follow(order, started, silence, collect, count)


@contextmanager
def _cancelled_by_file(file: Path, started: StartedTrainer) -> Iterator[None]:
    """Cancel the trainer once the file is there. By a thread: who reads the events may be busy with something else."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(POLL_SECONDS):
            if file.exists():
                started.cancel()
                ended.wait(1)  # it is on its way

    thread = threading.Thread(target=look, name="cancel", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(
    order: TrainingOrder,
    started: StartedTrainer,
    silence: float,
    collect: Callable[[TrainingOrder, str], None],
    count: int,
) -> Iterator[TrainingEvent]:
    folder = order.folder
    heard, touched = time.monotonic(), 0
    place = 0  # where the events end that were read; a new attempt cuts off a torn line before it writes
    while True:
        ending = started.ending()
        try:
            found, place = read_events_from(folder / EVENTS, place)
        except TrainingError as problem:
            yield _last_word(folder, failed(count + 1, str(problem), problem.cause))
            return
        fresh = [event for event in found if event.n > count]
        for event in fresh:
            count, heard = event.n, time.monotonic()
            if event.phase == "done":
                started.stop()  # so that nothing changes what is collected
                try:
                    collect(order, event.adapter)
                except AdapterError as problem:
                    yield _last_word(folder, failed(count, f"The trainer's adapter is refused: {problem}"))
                    return
            yield event
            if event.phase in ("done", "failed"):
                return
        if (now := _touched(folder / EVENTS)) != touched:
            heard, touched = time.monotonic(), now
        if ending is None and time.monotonic() - heard > silence:
            ending = TrainerEnd(message=f"The trainer showed no sign of life for {silence:.0f} s and was ended")
        elif ending is None or fresh:
            time.sleep(POLL_SECONDS)
            continue
        started.stop()
        yield _last_word(folder, _silent_end(count, ending, folder))
        return


def _touched(path: Path) -> int:
    """When the file was last changed, or its trainer showed life by it; only that it differs says something."""
    try:
        return path.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return 0


def read_events(path: Path) -> Iterator[TrainingEvent]:
    """The whole lines of an events file; a line that is still being written is left for the next reading."""
    yield from read_events_from(path, 0)[0]


def read_events_from(path: Path, place: int) -> tuple[list[TrainingEvent], int]:
    """The whole lines behind a place in the file (in bytes), and the place behind them.

    Raises TrainingError for what no trainer of ours writes: a link would lead a reader out of a container.
    """
    remedy = f"Remove {path.parent} and run it again."
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return [], place
    except OSError as problem:
        if problem.errno != errno.ELOOP:
            raise
        raise TrainingError("The trainer's events are a link.", remedy) from problem
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise TrainingError("The trainer's events are no file.", remedy)
    with os.fdopen(handle, "rb") as stream:
        stream.seek(place)
        whole, newline, _ = stream.read().rpartition(b"\n")
    try:
        events = [TrainingEvent.model_validate_json(line) for line in whole.splitlines()]
    except ValidationError as problem:
        raise TrainingError("The trainer's events cannot be read.", remedy) from problem
    return events, place + len(whole) + len(newline)


def read_run_events(folder: Path) -> list[TrainingEvent]:
    """All that is known of a run: its trainer's events and, behind them, how it ended where the trainer did not say.

    Raises TrainingError.
    """
    events, last = list(read_events(folder / EVENTS)), list(read_events(folder / ENDED))
    return [*(event for event in events if not last or event.n < last[0].n), *last]


def _last_word(folder: Path, event: TrainingEvent) -> TrainingEvent:
    """Leave the event for whoever asks later. Not among the trainer's own, whose file a container may hold."""
    with suppress(HomeError):  # a full disk; this process still tells it
        write_file(folder / ENDED, canonical(event) + b"\n")
    return event


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # made by a container, which may write here what it likes
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def failed(n: int, message: str, cause: str = "unknown") -> TrainingEvent:
    """The last event of an attempt, told by the backend."""
    return TrainingEvent(n=n, at=time.time(), phase="failed", message=message, cause=cause)


def _done_before(order: TrainingOrder, collect: Callable[[TrainingOrder, str], None]) -> TrainingEvent | None:
    """The "done" of an earlier attempt, if its adapter is still whole."""
    for event in read_events(order.folder / EVENTS):
        if event.phase == "done":
            place = order.adapters / event.adapter[:16]
            try:
                collect(order, event.adapter)
                read_adapter(place, base_digest=order.base.digest, digest=event.adapter)
            except AdapterError:
                # damaged or removed since: train again, the bytes will be the same; what is there would stand in
                # their way, and is swept away later
                with suppress(FileNotFoundError):
                    place.rename(place.with_name(f"{STAGING}{place.name}-{time.time_ns()}"))
                return None
            return event
    return None


def _silent_end(count: int, ending: TrainerEnd, folder: Path) -> TrainingEvent:
    if ending.cause == "killed" and is_full(folder, OSError()):
        return failed(count + 1, FULL, "disk")
    log = folder / LOG
    tail = (
        log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        if log.is_file() and not log.is_symlink()
        else []
    )
    said = f"{ending.message}{': ' + tail[0][:300] if tail else ''}. Its output is in {log}."
    return failed(count + 1, said, ending.cause)
