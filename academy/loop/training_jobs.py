"""Training jobs that run in the background of a Python program and are found by name.

A job's name is its order's digest, and its state is read from its events in the home, so a job is found after any
restart. The home's settings choose a process or a container. Memory is not predicted, and a job has no fallback steps:
it trains as ordered, or fails with a message.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from academy.adapters.adapter import FILES, MANIFEST, Manifest
from academy.errors import AcademyError, HomeError, InputError, TrainingError
from academy.habitat.backends.base import TrainingBackend, TrainingEvent, TrainingOrder
from academy.habitat.backends.choice import configured_plan, create_backend, find_route, select_backend
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.progress import Status, log_line, progress, status_of
from academy.habitat.routing import Need
from academy.habitat.run_folder import LOCK, read_run_events
from academy.habitat.runs import PREFIX, is_followed, run_log
from academy.models.base_model import resolve
from academy.professor.decision import SMALLEST_DATASET
from academy.professor.recipe import validate_recipe
from academy.settings import load_settings
from academy.store.files import digest_of_file, publish_folder, write_file
from academy.store.locks import exclusive_lock
from academy.system.gpu_lock import REMEDY
from academy.system.hardware import take_inventory

log = logging.getLogger(__name__)
ADAPTER = "adapter"
LOG_LINES = 50
"""Lines of a job's log in its status."""
END_SECONDS = 60.0
UNKNOWN = Need(cuda=None, cpu=None, reason="jobs from Python are not predicted")
"""A prediction needs the dataset's longest example and the earlier trainings in MLflow."""


class TrainingJobs:
    """Starts trainings and reports their state. They run on a GPU if one may be used, or else on the CPU."""

    def __init__(self, enable_gpu: bool = True, home: Path | None = None) -> None:
        self.settings = load_settings(home).model_copy(update={"enable_gpu": enable_gpu})
        self._jobs: dict[str, _Job] = {}

    def start(
        self,
        dataset_path: str | Path,
        base_model: str,
        output_dir: str | Path,
        lora_rank: int = 16,
        learning_rate: float = 2e-4,
        num_epochs: int = 3,
        batch_size: int = 4,
        max_seq_length: int = 2048,
    ) -> dict[str, Any]:
        """Start a training and return when it runs. Its adapter is written to `output_dir`/adapter.

        The dataset is a JSONL file in Alpaca, ShareGPT, ChatML or OpenAI format; fewer than 50 examples are trained
        with a warning. Raises InputError, BaseModelError, and TrainingError if the training cannot start.
        """
        self.settings.require_enabled()
        recipe = validate_recipe({
            "rank": lora_rank, "alpha": 2 * lora_rank, "learning_rate": learning_rate, "epochs": num_epochs,
            "batch_size": batch_size, "max_length": max_seq_length,
        })  # fmt: skip
        train_file = self._in_the_home(Path(dataset_path))
        digest = digest_of_file(train_file)
        order = TrainingOrder(
            base=resolve(base_model), dataset=digest, train_file=train_file, train_digest=digest, recipe=recipe,
            runs=self.settings.folder("runs"), adapters=self.settings.folder("adapters"),
        )  # fmt: skip
        name = f"{PREFIX}{order.digest[:16]}"
        if (job := self._jobs.get(name)) and job.thread.is_alive():
            raise InputError(f"The job {name} is already running.", "Wait until it ends.")
        output = Path(output_dir).resolve() / ADAPTER
        _refuse_other_adapter(output, order)
        _warn_if_small(Path(dataset_path))
        # chosen now: another training may hold the GPU that was free before
        route = find_route(self.settings, select_backend(self.settings), UNKNOWN)
        if not route.place and not route.refusal:
            raise TrainingError(f"This training has to wait: {route.sentence}.", REMEDY, cause="gpu")
        final_order = order.model_copy(update={"plan": configured_plan(self.settings, route.place or "cpu")})
        job = self._jobs[name] = _Job(create_backend(self.settings, route), final_order, output)
        job.begin()
        return {
            "job_name": name,
            "container_id": self._container(job),
            "backend": route.backend,
            "status": job.status,
            "output_dir": str(output_dir),
        }

    def status(self, job_name: str) -> dict[str, Any]:
        """The state of a job: status, logs, progress, and its adapter or error. Raises InputError."""
        folder = self._folder(job_name)
        job = self._jobs.get(job_name)
        running = job.thread.is_alive() if job else is_followed(folder)
        events = read_run_events(folder)
        state = progress(events, followed=running, price=self.settings.price_per_hour)
        status = job.status if job else state.status
        adapter = None
        if status == "finished":
            adapter = str(job.output if job else self.settings.folder("adapters") / state.adapter[:16])
        return {
            "job_name": job_name,
            "status": status,
            "container_id": self._container(job),
            "logs": "\n".join(log_line(event).text for event in events[-LOG_LINES:]),
            "step": state.step,
            "steps": state.steps,
            "loss": state.loss,
            "adapter_path": adapter,
            "error": str(job.problem) if job and job.problem else state.error,
            "progress": state.model_dump(mode="json"),
        }

    def gpus(self) -> list[dict[str, Any]]:
        """The GPUs of this machine, with memory in bytes."""
        return [gpu.model_dump() for gpu in take_inventory(engine=False).gpus]

    def follow_log(self, job_name: str) -> Iterator[dict[str, Any]]:
        """Yield the log of a job until it ends: line, time (ISO 8601), text. Raises InputError for an unknown job."""
        for entry in run_log(self._folder(job_name), follow=True):
            yield entry.model_dump()
        if job := self._jobs.get(job_name):
            job.thread.join()  # the adapter is copied after the last event

    def clean_up(self, job_name: str) -> None:
        """Stop a job of this object if it runs, and remove its checkpoints. Events, log and adapter stay.

        Raises InputError if another process runs the job.
        """
        folder = self._folder(job_name)
        if job := self._jobs.get(job_name):
            job.end()
        try:
            with exclusive_lock(folder / LOCK, "The job is running."):
                for name in ("checkpoints", "draft"):
                    shutil.rmtree(folder / name, ignore_errors=True)
        except HomeError as problem:
            raise InputError(f"Another process runs the job {job_name}.", "Stop it there.") from problem

    def _folder(self, job_name: str) -> Path:
        digest = job_name.removeprefix(PREFIX)
        folder = self.settings.folder("runs") / digest
        if digest == job_name or not digest.isalnum() or not folder.is_dir():
            raise InputError(f"Unknown job {job_name}.", "Starting a job returns its name.")
        return folder

    def _container(self, job: _Job | None) -> str | None:
        running = job.backend.container_id(job.order) if job and isinstance(job.backend, ContainerBackend) else ""
        return running or None

    def _in_the_home(self, dataset: Path) -> Path:
        """The dataset if it lies in the home, or a copy there: a container sees the home alone.

        A dataset in the home is not copied, so that its lessons can be forgotten there.
        """
        if not dataset.is_file():
            raise InputError(f"The dataset {dataset} does not exist.", "Check the path. A dataset is a JSONL file.")
        if dataset.resolve().is_relative_to(self.settings.home.resolve()):
            return dataset.resolve()
        copy = self.settings.folder("jobs") / f"{digest_of_file(dataset)[:16]}.jsonl"
        return copy if copy.is_file() else write_file(copy, dataset.read_bytes())


class _Job:
    """An order that a thread follows until the trainer ends."""

    def __init__(self, backend: TrainingBackend, order: TrainingOrder, output: Path) -> None:
        self.backend = backend
        self.order = order
        self.output = output
        self.last: TrainingEvent | None = None
        self.problem: AcademyError | None = None
        self.started = threading.Event()
        self.thread = threading.Thread(target=self._follow, name=order.digest[:16])

    def begin(self) -> None:
        """Start the training and wait for its first event. Raises the error that prevented it."""
        self.thread.start()
        self.started.wait()
        if self.problem:
            raise self.problem
        if self.last and self.last.phase == "failed":
            raise TrainingError(self.last.message, cause=self.last.cause)

    def end(self) -> None:
        """Cancel the training if it runs, and wait for its end. Raises TrainingError if it does not end."""
        until = time.monotonic() + END_SECONDS
        while self.thread.is_alive() and time.monotonic() < until:
            self.backend.cancel(self.order)  # repeated, because the trainer may have been about to start
            self.thread.join(timeout=1)
        if self.thread.is_alive():
            raise TrainingError("The training does not stop.", "End this program.")

    @property
    def status(self) -> Status:
        if self.problem:
            return "failed"
        if self.thread.is_alive():  # the adapter is copied after the last event
            return "running" if self.last else "preparing"
        return status_of(self.last, followed=False)

    def _follow(self) -> None:
        try:
            for event in self.backend.train(self.order):
                self.last = event
                self.started.set()
            if self.last and self.last.phase == "done":
                with _explain_write_errors(self.output):
                    _copy(self.order.adapters / self.last.adapter[:16], self.output)
        except AcademyError as problem:
            self.problem = problem
        finally:
            self.started.set()


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    """Raise InputError for a folder that cannot be written."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"{folder} cannot be written ({problem.strerror}).", "Choose another output_dir.") from problem


def _warn_if_small(train_file: Path) -> None:
    with train_file.open("rb") as lines:
        examples = sum(1 for line in lines if line.strip())
    if examples < SMALLEST_DATASET:
        log.warning("%s has %d examples (recommended minimum %d)", train_file, examples, SMALLEST_DATASET)


def _refuse_other_adapter(place: Path, order: TrainingOrder) -> None:
    """Raise InputError before the training if its adapter cannot be written, or would replace another order's."""
    if not place.exists():
        parent = next(folder for folder in place.parents if os.path.lexists(folder))
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{place.parent} cannot be created.", "Choose another output_dir.")
        return
    with suppress(OSError, ValidationError):
        if Manifest.model_validate_json((place / MANIFEST).read_bytes()).order == order.digest:
            return
    raise InputError(f"{place} already contains something else.", "Choose another output_dir.")


def _copy(adapter: Path, place: Path) -> None:
    with publish_folder(place) as folder:
        for name in (*FILES, MANIFEST):
            shutil.copyfile(adapter / name, folder / name)
