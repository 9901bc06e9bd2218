"""Training jobs that run in the background of a Python program and are found by name.

A job has a name, `training_<time>`, and its order's digest as its key: the same order continues under the same name.
Its state is read from its events in the home, so a job is found after any restart. It leaves a run in MLflow, and the
home signs its adapter. The home's settings choose a process or a container. Memory is not predicted, and a job has no
fallback steps: it trains as ordered, or fails with a message.
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

from academy.adapters.adapter import FILES, MANIFEST, Manifest, sign_adapter
from academy.errors import AcademyError, HomeError, InputError, TrainingError
from academy.genealogy.tracking import BASE_TAG, JOB_TAG, TrackedRun, training_metrics
from academy.habitat.backends.base import TrainingBackend, TrainingEvent, TrainingOrder
from academy.habitat.backends.choice import configured_plan, create_backend, find_route, select_backend
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.job_names import name_job, run_of_job
from academy.habitat.progress import Status, log_line, progress, status_of
from academy.habitat.routing import Need, Route
from academy.habitat.run_folder import EVENTS, LOCK, read_events, read_run_events
from academy.habitat.runs import is_followed, run_log
from academy.loop.home import Home
from academy.loop.job_datasets import JobDataset, read_job_dataset
from academy.professor.recipe import Recipe, validate_recipe
from academy.settings import load_settings
from academy.store.files import publish_folder, write_file
from academy.store.locks import exclusive_lock
from academy.system.gpu_lock import REMEDY
from academy.system.hardware import take_inventory
from academy.system.installation import install_remedy

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
        settings = load_settings(home)
        self.settings = settings.model_copy(update={"enable_gpu": enable_gpu and settings.enable_gpu})
        self._jobs: dict[str, _Job] = {}

    def start(
        self,
        dataset_path: str | Path,
        base_model: str,
        output_dir: str | Path | None = None,
        lora_rank: int = 16,
        learning_rate: float = 2e-4,
        num_epochs: int = 3,
        batch_size: int = 4,
        max_seq_length: int = 2048,
        load_in_4bit: bool | None = None,
    ) -> dict[str, Any]:
        """Start a training and return when it runs. Its adapter is written to `output_dir`/adapter.

        `load_in_4bit`: None for 4-bit weights on a GPU with bitsandbytes, and whole weights elsewhere. Raises
        InputError, BaseModelError, and TrainingError if the training cannot start.
        """
        self.settings.require_enabled()
        fields = {
            "rank": lora_rank, "learning_rate": learning_rate, "epochs": num_epochs, "batch_size": batch_size,
            "max_length": max_seq_length,
        }  # fmt: skip
        recipe = validate_recipe(fields)
        recipe = recipe.model_copy(update={"alpha": 2 * recipe.rank})
        home = Home(self.settings, str(base_model) if base_model else None)
        return self.start_recipe(home, Path(dataset_path).expanduser(), recipe, output_dir, load_in_4bit)

    def start_recipe(
        self,
        home: Home,
        dataset_path: Path,
        recipe: Recipe,
        output_dir: str | Path | None = None,
        load_in_4bit: bool | None = False,
    ) -> dict[str, Any]:
        """As `start`, with a recipe. Without `output_dir` the adapter is in models/<job>/adapter of the home."""
        dataset = read_job_dataset(self.settings, dataset_path)
        order = TrainingOrder(
            base=home.base, dataset=dataset.dataset.digest, train_file=dataset.file, train_digest=dataset.digest,
            recipe=recipe.model_copy(update={"max_length": min(recipe.max_length, home.base.context)}),
            runs=self.settings.folder("runs"), adapters=self.settings.folder("adapters"),
        )  # fmt: skip
        in_4bit = _with_recipe(order, four_bit=True)
        if output_dir is not None:
            _refuse_other_adapter(_adapter_folder(output_dir), order, in_4bit)
        if running := next((job for job in self._jobs.values() if job.runs_one_of(order, in_4bit)), None):
            raise InputError(f"The job {running.name} is already running.", "Wait until it ends.")
        # chosen now: another training may hold the GPU that was free before
        choice = select_backend(self.settings)
        route = find_route(self.settings, choice, UNKNOWN)
        if not route.place and not route.refusal:
            raise TrainingError(f"This training has to wait: {route.sentence}.", REMEDY, cause="gpu")
        if _four_bit(load_in_4bit, route, installed=choice.machine.bitsandbytes):
            order = in_4bit
        final_order = order.model_copy(update={"plan": configured_plan(self.settings, route.place or "cpu")})
        backend = create_backend(self.settings, route)
        name = name_job(order.runs, order.folder.name)
        place = output_dir if output_dir is not None else self.settings.folder("models") / name
        job = self._jobs[name] = _Job(name, home, backend, final_order, dataset, _adapter_folder(place))
        job.begin()
        return {
            "job_name": name,
            "container_id": self._container(job),
            "backend": route.backend,
            "device": "gpu" if route.place == "cuda" else "cpu",
            "load_in_4bit": order.recipe.four_bit,
            "status": job.status,
            "output_dir": str(place),
        }

    def status(self, job_name: str) -> dict[str, Any]:
        """The state of a job: status, logs, progress, and its adapter or error. Raises InputError."""
        folder = self._folder(job_name)
        job = self._jobs.get(job_name)
        running = job.thread.is_alive() if job else is_followed(folder)
        events = read_run_events(folder)
        state = progress(events, followed=running, price=self.settings.price_per_hour)
        # the adapter is signed and copied after the last event
        status: Status = job.status if job else "running" if running and state.status == "finished" else state.status
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
        runs = self.settings.folder("runs")
        run = run_of_job(runs, str(job_name))
        if not run or not (runs / run).is_dir():
            raise InputError(f"Unknown job {job_name}.", "Starting a job returns its name.")
        return runs / run

    def _container(self, job: _Job | None) -> str | None:
        running = job.backend.container_id(job.order) if job and isinstance(job.backend, ContainerBackend) else ""
        return running or None


class _Job:
    """An order that a thread follows until the trainer ends."""

    def __init__(
        self, name: str, home: Home, backend: TrainingBackend, order: TrainingOrder, dataset: JobDataset, output: Path
    ) -> None:
        self.name = name
        self.home = home
        self.backend = backend
        self.order = order
        self.dataset = dataset
        self.output = output
        self.last: TrainingEvent | None = None
        self.problem: AcademyError | None = None
        self.started = threading.Event()
        self.thread = threading.Thread(target=self._follow, name=name)

    def runs_one_of(self, *orders: TrainingOrder) -> bool:
        """Whether it runs one of these orders now."""
        return self.thread.is_alive() and self.order.digest in {order.digest for order in orders}

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
            self._train()
        except AcademyError as problem:
            self.problem = problem
        finally:
            self.started.set()

    def _train(self) -> None:
        """Follow the training to its end, in its MLflow run as well."""
        before = max((event.n for event in read_events(self.order.folder / EVENTS)), default=0)
        history: list[TrainingEvent] = []
        run: TrackedRun | None = None
        for event in self.backend.train(self.order):
            self.last = event
            self.started.set()
            if run is None:  # after the start, because MLflow takes seconds to open
                tags = {BASE_TAG: self.order.base.digest, JOB_TAG: self.name}
                run = TrackedRun(self.home.mlflow, self.order, self.dataset.dataset, tags, before=before)
            run.log_event(event)
            history.append(event)
            if event.phase == "done":  # while the order is locked, so that no other process uses it too early
                self._publish(event.adapter)
        if run is not None:
            price = self.home.settings.price_per_hour
            run.log_metrics(training_metrics(progress(history, followed=False, price=price)))

    def _publish(self, digest: str) -> None:
        """Sign the adapter with the home's key, and copy it where the caller wants it."""
        # signed here and not by the trainer, which may run in a container and has no key
        folder = self.order.adapters / digest[:16]
        sign_adapter(folder, self.home.keys, base_digest=self.order.base.digest, digest=digest)
        with _explain_write_errors(self.output):
            _copy(folder, self.output)


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    """Raise InputError for a folder that cannot be written."""
    try:
        yield
    except OSError as problem:
        raise InputError(f"{folder} cannot be written ({problem.strerror}).", "Choose another output_dir.") from problem


def _adapter_folder(output_dir: str | Path) -> Path:
    return Path(output_dir).expanduser().resolve() / ADAPTER


def _with_recipe(order: TrainingOrder, **changes: Any) -> TrainingOrder:
    return order.model_copy(update={"recipe": order.recipe.model_copy(update=changes)})


def _four_bit(wanted: bool | None, route: Route, *, installed: bool) -> bool:
    """Whether to train on 4-bit weights. Raises InputError if they are wanted on a GPU and cannot be had."""
    on_gpu = route.place == "cuda"
    if wanted is None:
        return on_gpu and installed
    if wanted and not installed:
        if on_gpu:
            raise InputError(
                "load_in_4bit needs bitsandbytes, which is not installed.",
                f"{install_remedy('four-bit')} Or pass load_in_4bit=False.",
            )
        log.warning("The training runs on the CPU, without bitsandbytes: it uses whole weights instead of 4-bit ones.")
        return False
    return wanted


def _refuse_other_adapter(place: Path, *orders: TrainingOrder) -> None:
    """Raise InputError before the training if its adapter cannot be written, or would replace another order's."""
    if not place.exists():
        parent = next(folder for folder in place.parents if os.path.lexists(folder))
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{place.parent} cannot be created.", "Choose another output_dir.")
        return
    with suppress(OSError, ValidationError):
        manifest = Manifest.model_validate_json((place / MANIFEST).read_bytes())
        if manifest.order in {order.digest for order in orders}:
            return
    raise InputError(f"{place} already contains something else.", "Choose another output_dir.")


def _copy(adapter: Path, place: Path) -> None:
    with publish_folder(place) as folder:
        for name in (*FILES, MANIFEST):
            shutil.copyfile(adapter / name, folder / name)
    manifest = (adapter / MANIFEST).read_bytes()
    if (place / MANIFEST).read_bytes() != manifest:  # copied before it was signed
        write_file(place / MANIFEST, manifest)
