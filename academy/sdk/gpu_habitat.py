"""Training jobs from Python, under the names of the seed documents: started in the background, asked about by name.

A job is its order: its name is the order's digest, and its events in the home are all that is known of it, so a job is
known after any restart. Whether it runs in a process or in a container is the home's setting. Its memory is not
predicted, and there is no ladder below it: it is trained as it was ordered, or ends with a sentence.
"""

from __future__ import annotations

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
from academy.professor.recipe import validate_recipe
from academy.settings import load_settings
from academy.store.files import digest_of_file, publish_folder, write_file
from academy.store.locks import exclusive_lock
from academy.system.gpu_lock import REMEDY
from academy.system.hardware import take_inventory

ADAPTER = "adapter"
TOLD = 50
"""Lines of a job's log in its status."""
END_SECONDS = 60.0
UNKNOWN = Need(cuda=None, cpu=None, reason="jobs from Python are not predicted")
"""That would take the dataset's longest example and what MLflow knows of earlier trainings."""


class GPUHabitat:
    """Starts trainings and tells of them; on a GPU where that is allowed and there is one, else on processors."""

    def __init__(self, enable_gpu: bool = True, home: Path | None = None) -> None:
        self.settings = load_settings(home).model_copy(update={"enable_gpu": enable_gpu})
        self._jobs: dict[str, _Job] = {}

    def run_training_job(
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
        """Start a training; its adapter will be in `output_dir`/adapter. Returns once it runs.

        The dataset is a JSONL file in Alpaca, ShareGPT, ChatML or OpenAI form. Raises InputError, BaseModelError,
        and TrainingError where it cannot start.
        """
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
            raise InputError(f"The job {name} runs already.", "Wait until it has ended.")
        output = Path(output_dir).resolve() / ADAPTER
        _refuse_another(output, order)
        # found now: another training may hold the GPU that was free before
        way = find_route(self.settings, select_backend(self.settings), UNKNOWN)
        if not way.place and not way.refusal:
            raise TrainingError(f"This training has to wait: {way.sentence}.", REMEDY, cause="gpu")
        planned = order.model_copy(update={"plan": configured_plan(self.settings, way.place or "cpu")})
        job = self._jobs[name] = _Job(create_backend(self.settings, way), planned, output)
        job.begin()
        return {
            "job_name": name,
            "container_id": self._container(job),
            "backend": way.backend,
            "status": job.status,
            "output_dir": str(output_dir),
        }

    def get_training_status(self, job_name: str) -> dict[str, Any]:
        """How a job stands: status, logs, progress, and its adapter or what went wrong. Raises InputError."""
        folder = self._folder(job_name)
        job = self._jobs.get(job_name)
        followed = job.thread.is_alive() if job else is_followed(folder)
        events = read_run_events(folder)
        stands = progress(events, followed=followed, price=self.settings.price_per_hour)
        status = job.status if job else stands.status
        adapter = None
        if status == "finished":
            adapter = str(job.output if job else self.settings.folder("adapters") / stands.adapter[:16])
        return {
            "job_name": job_name,
            "status": status,
            "container_id": self._container(job),
            "logs": "\n".join(log_line(event).text for event in events[-TOLD:]),
            "step": stands.step,
            "steps": stands.steps,
            "loss": stands.loss,
            "adapter_path": adapter,
            "error": str(job.problem) if job and job.problem else stands.error,
            "progress": stands.model_dump(mode="json"),
        }

    def get_gpu_info(self) -> list[dict[str, Any]]:
        """The GPUs of this machine, memory in bytes; an empty list where there are none."""
        return [gpu.model_dump() for gpu in take_inventory(engine=False).gpus]

    def stream_job_logs(self, job_name: str) -> Iterator[dict[str, Any]]:
        """A job's log from its beginning to its end, as it comes: line, time (ISO 8601), text. Raises InputError."""
        for one in run_log(self._folder(job_name), follow=True):
            yield one.model_dump()
        if job := self._jobs.get(job_name):
            job.thread.join()  # the adapter is copied after the last event

    def cleanup_job(self, job_name: str) -> None:
        """End a job of this object if it runs, and remove its checkpoints; events, log and adapter stay.

        Raises InputError where another process runs it.
        """
        folder = self._folder(job_name)
        if job := self._jobs.get(job_name):
            job.end()
        try:
            with exclusive_lock(folder / LOCK, "It runs."):
                for left in ("checkpoints", "draft"):
                    shutil.rmtree(folder / left, ignore_errors=True)
        except HomeError as problem:
            raise InputError(f"The job {job_name} is run by another process.", "End it there.") from problem

    def _folder(self, job_name: str) -> Path:
        digest = job_name.removeprefix(PREFIX)
        folder = self.settings.folder("runs") / digest
        if digest == job_name or not digest.isalnum() or not folder.is_dir():
            raise InputError(f"There is no job {job_name}.", "run_training_job tells a job's name.")
        return folder

    def _container(self, job: _Job | None) -> str | None:
        running = job.backend.container_id(job.order) if job and isinstance(job.backend, ContainerBackend) else ""
        return running or None

    def _in_the_home(self, given: Path) -> Path:
        """The dataset, or a copy of it where it lies elsewhere: a container sees the home alone.

        What lies in the home stays the only copy, so that a lesson can be forgotten there.
        """
        if not given.is_file():
            raise InputError(f"There is no dataset {given}.", "Check the path; it is a JSONL file.")
        if given.resolve().is_relative_to(self.settings.home.resolve()):
            return given.resolve()
        copy = self.settings.folder("jobs") / f"{digest_of_file(given)[:16]}.jsonl"
        return copy if copy.is_file() else write_file(copy, given.read_bytes())


class _Job:
    """An order that is run by a thread of its own, which lives as long as the trainer."""

    def __init__(self, backend: TrainingBackend, order: TrainingOrder, output: Path) -> None:
        self.backend = backend
        self.order = order
        self.output = output
        self.last: TrainingEvent | None = None
        self.problem: AcademyError | None = None
        self.told = threading.Event()
        self.thread = threading.Thread(target=self._follow, name=order.digest[:16])

    def begin(self) -> None:
        """Start, and wait for the first word. Raises what refused it."""
        self.thread.start()
        self.told.wait()
        if self.problem:
            raise self.problem
        if self.last and self.last.phase == "failed":
            raise TrainingError(self.last.message, cause=self.last.cause)

    def end(self) -> None:
        """Cancel it if it runs, and wait. Raises TrainingError where it does not end."""
        until = time.monotonic() + END_SECONDS
        while self.thread.is_alive() and time.monotonic() < until:
            self.backend.cancel(self.order)  # again, for it may have been about to start
            self.thread.join(timeout=1)
        if self.thread.is_alive():
            raise TrainingError("The training does not end.", "End this program.")

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
                self.told.set()
            if self.last and self.last.phase == "done":
                with _said_of(self.output):
                    _copy(self.order.adapters / self.last.adapter[:16], self.output)
        except AcademyError as problem:
            self.problem = problem
        finally:
            self.told.set()


@contextmanager
def _said_of(place: Path | str) -> Iterator[None]:
    """One sentence for a folder that cannot be written."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"{place} cannot be written ({problem.strerror}).", "Choose another output_dir.") from problem


def _refuse_another(place: Path, order: TrainingOrder) -> None:
    """An adapter that lies where this one is to lie must be of the same order; hours later is too late to tell."""
    if not place.exists():
        there = next(folder for folder in place.parents if os.path.lexists(folder))
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise InputError(f"{place.parent} cannot be made.", "Choose another output_dir.")
        return
    with suppress(OSError, ValidationError):
        if Manifest.model_validate_json((place / MANIFEST).read_bytes()).order == order.digest:
            return
    raise InputError(f"{place} holds something else already.", "Choose another output_dir.")


def _copy(adapter: Path, place: Path) -> None:
    with publish_folder(place) as folder:
        for name in (*FILES, MANIFEST):
            shutil.copyfile(adapter / name, folder / name)
