"""Training in a subprocess on this machine, on GPU or CPU. The subprocess ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from academy.border.current_folder import public_environment
from academy.habitat.backends.base import BackendChoice, TrainingEvent, TrainingOrder
from academy.habitat.backends.following import CANCELLED, SILENCE_SECONDS, StartedTrainer, TrainerEnd, run_order
from academy.habitat.run_folder import LOG, ORDER
from academy.records import canonical
from academy.store.files import explain_disk_errors, write_file
from academy.system.hardware import Inventory
from academy.system.processes import oom_kills

if TYPE_CHECKING:
    from academy.settings import Settings  # the trainer imports this module where pydantic-settings is not installed

NAME = "process"
TERMINATE_SECONDS = 5.0
"""A trainer that was asked to end is killed after this time."""
ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONHASHSEED": "0",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Default that the user's environment can override. Threads that spin at barriers make a training many times slower
beside other work."""


class ProcessBackend:
    """Runs `python -m academy.habitat.trainer` in a subprocess (a TrainingBackend)."""

    def __init__(self, silence: float = SILENCE_SECONDS, gpu: str | None = None, home: Path | None = None) -> None:
        """Set up a backend.

        `silence`: seconds without activity after which the trainer is stopped. `gpu`: comma-separated UUIDs of the
        GPUs that the trainer sees and locks; empty: it sees none; None: it sees the same GPUs as this process and
        locks none. With a `home`, orders must not name paths outside it.
        """
        self.silence = silence
        self.home = home
        self.gpu = gpu or ""
        self._visible_gpus = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
        self._running: dict[str, _Subprocess] = {}

    @classmethod
    def inspect(cls, settings: Settings, machine: Inventory) -> BackendChoice:  # noqa: ARG003
        """Subprocesses can always start. They use GPUs if torch is built for CUDA."""
        problem = "" if machine.cuda else "torch is built for CPUs"
        return BackendChoice(
            backend=NAME, location="in processes of this machine", machine=machine, gpu_problem=problem
        )

    @classmethod
    def create(cls, settings: Settings, gpus: Sequence[str]) -> Self:
        """A backend with the settings' silence and home."""
        return cls(silence=60 * settings.training_silence_minutes, gpu=",".join(gpus), home=settings.home)

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Run the order and yield its events as they arrive; those of earlier attempts come first."""
        try:
            yield from run_order(order, lambda: self._start(order), self.silence, gpu=self.gpu, home=self.home)
        finally:
            self._running.pop(order.digest, None)

    def cancel(self, order: TrainingOrder) -> bool:
        """End the order's subprocess if this object started it."""
        trainer = self._running.get(order.digest)
        return trainer is not None and trainer.cancel()

    def _start(self, order: TrainingOrder) -> StartedTrainer:
        folder = order.folder
        write_file(folder / ORDER, canonical(order))
        with explain_disk_errors(folder), (folder / LOG).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", _program(order), str((folder / ORDER).absolute()), str(os.getpid())],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**WAITING, **public_environment(), **ENVIRONMENT, **self._visible_gpus},
            )
        trainer = self._running[order.digest] = _Subprocess(process)
        return trainer


def _program(order: TrainingOrder) -> str:
    several = order.plan is not None and order.plan.processes > 1
    return "academy.habitat.trainer.launch" if several else "academy.habitat.trainer"


class _Subprocess:
    """A started trainer as a child process. `kills` counts the processes that the kernel killed to free memory."""

    def __init__(self, process: subprocess.Popen[bytes], kills: Callable[[], int | None] = oom_kills) -> None:
        self.process = process
        self._kills = kills
        self._kills_before = kills()
        self._cancel_time: float | None = None

    def ending(self) -> TrainerEnd | None:
        code = self.process.poll()
        if code is None:
            return None
        return CANCELLED if self._cancel_time is not None else ending_of(code, self._kills_before, self._kills())

    def cancel(self) -> bool:
        if self.process.poll() is not None:
            return False
        if self._cancel_time is None:
            self._cancel_time = time.monotonic()
            self.process.terminate()
        elif time.monotonic() - self._cancel_time > TERMINATE_SECONDS:
            self.process.kill()
        return True

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=TERMINATE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def ending_of(code: int, before: int | None, now: int | None) -> TrainerEnd:
    """How a process ended that this program did not kill, by its exit code and the kernel's count of memory kills.

    The count is for the whole machine, so a kill of another process in the same minutes may be taken for this one.
    The training then continues with less memory than it needs, which costs less than stopping without a reason.
    """
    if code == -signal.SIGKILL and before is not None and now is not None and now > before:
        return TrainerEnd(message="The machine ran out of memory, and the system killed the trainer", cause="memory")
    return TrainerEnd(message=f"The trainer ended with code {code}")
