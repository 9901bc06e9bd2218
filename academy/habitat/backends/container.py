"""Training in a Docker container, isolated as isolation.py defines.

The same trainer program gets the same order with the container's paths. The order therefore keeps its digest, and on
CPUs the adapter has the same bytes as from a process. The base model's files, the dataset and an adapter to start from
are mounted read-only; the run's folder is the only writable mount. The container cannot publish anything: its adapter
is checked and copied after it ended.

Every container is removed in the end. If the process that started one is killed, the container's stdin closes and the
trainer ends itself. The next training of this home finds such containers by their label and by the free lock of their
order.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from academy.adapters.adapter import FILES, MANIFEST, read_adapter
from academy.errors import AcademyError, EngineError, HomeError, TrainingError
from academy.habitat.backends import isolation
from academy.habitat.backends.base import BackendChoice, TrainingEvent, TrainingOrder
from academy.habitat.backends.following import CANCELLED, SILENCE_SECONDS, StartedTrainer, TrainerEnd, run_order
from academy.habitat.backends.image import IMAGE, IMAGE_REMEDY, TRIAL_SECONDS, ImageTrial, try_image
from academy.habitat.backends.isolation import NOBODY, Limits
from academy.habitat.job_names import job_name
from academy.habitat.routing import gpus_by_preference
from academy.habitat.run_folder import LOCK, LOG, ORDER
from academy.records import canonical, digest_of
from academy.settings import Settings
from academy.store.files import publish_folder, write_file
from academy.store.locks import exclusive_lock
from academy.system import docker as engine
from academy.system.docker import problems
from academy.system.hardware import Inventory
from academy.system.images import Image, find_image

log = logging.getLogger("academy")
NAME = "container"
CHECK_SECONDS = 0.3
"""Between two checks of a container's state."""
ENGINE_PATIENCE = 60.0
"""If the engine does not answer for this long, the training counts as lost."""
KILLED, TAKEN = 137, 409
CONTAINER = "venom-training-"
"""A training's container has this prefix and its job's name, as in the seed documents."""


class ContainerChoice(BackendChoice):
    """Trainings run in containers of this image, which was tried."""

    image: Image
    trial: ImageTrial

    @property
    def trial_device(self) -> str:
        """What the image was tried on, for people: the GPU, or the CPU and why not a GPU."""
        if self.trial.gpu:
            return self.trial.gpu
        busy = "trainings use the GPUs" if any(gpu.held for gpu in self.machine.gpus) else ""
        reason = busy or self.machine.gpu_note
        return f"the CPU{f' ({reason})' if reason else ''}"


class ContainerBackend:
    """Runs `python -m academy.habitat.trainer` in a container (a TrainingBackend)."""

    def __init__(
        self,
        home: Path,
        image: str = "",
        *,
        gpu: str = "",
        limits: Limits | None = None,
        silence: float = SILENCE_SECONDS,
        library: str = "",
    ) -> None:
        """Set up a backend.

        `image`: a name or digest; empty: the image made of this Python. Images are not pulled. `gpu`: UUID of the GPU
        that the container gets and locks while it runs; empty: none. `silence`: seconds without activity after which
        the trainer is stopped. `library`: the one that will train, as in a plan.
        """
        self.home = home.resolve()
        self.library = library
        self.image = image or IMAGE
        self.gpu = gpu
        self.limits = limits or isolation.limits_here()
        self.silence = silence
        self._running: dict[str, _Container] = {}

    @classmethod
    def inspect(cls, settings: Settings, machine: Inventory) -> ContainerChoice:
        """Find and try the image. An image has its own libraries, and a container has a part of the memory."""
        if settings.training_processes > 1:
            raise TrainingError(
                "Several processes cannot share a training in a container.",
                "Set ACADEMY_TRAINING_PROCESSES=1 or ACADEMY_TRAINING_BACKEND=process.",
                cause="gpu",
            )
        if not machine.docker.version:
            raise EngineError(f"{machine.docker.note}.", machine.docker.remedy)
        gpu_problem = "" if machine.docker.gpus else "Docker cannot give GPUs to containers"
        gpu = next(iter(gpus_by_preference(machine.gpus)), None) if settings.enable_gpu and not gpu_problem else None
        # the memory of a GPU in use may be full, so the image is not tried on one
        backend = cls.create(settings, [gpu.uuid] if gpu and not gpu.held else [])
        try:
            image, trial = backend.try_image()
        except TrainingError as problem:
            if not backend.gpu or problem.cause != "gpu":
                raise
            # the same as a machine without a GPU: training runs on the CPUs, and the route says why
            machine = machine.model_copy(update={"gpus": (), "gpu_note": problem.message.rstrip(".")})
            image, trial = cls.create(settings, []).try_image()
        inside = {
            "unsloth": "unsloth" in trial.versions, "bitsandbytes": "bitsandbytes" in trial.versions,
            "memory_free": min(machine.memory_free, backend.limits.memory_bytes),
        }  # fmt: skip
        return ContainerChoice(
            backend=NAME,
            location=f"in containers of {image.name}",
            machine=machine.model_copy(update=inside),
            gpu_problem=gpu_problem,
            image=image,
            trial=trial,
        )

    @classmethod
    def create(cls, settings: Settings, gpus: Sequence[str]) -> Self:
        """A backend with the image, limits, silence and home of the settings; a container gets one GPU at most."""
        return cls(
            settings.home,
            settings.training_image,
            gpu=gpus[0] if gpus else "",
            limits=isolation.limits_here(settings.training_memory_gib, settings.training_cpus),
            silence=60 * settings.training_silence_minutes,
            library=settings.training_library,
        )

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Run the order and yield its events as they arrive; those of earlier attempts come first."""
        try:
            yield from run_order(
                order, lambda: self._start(order), self.silence, _collect, gpu=self.gpu, home=self.home
            )
        finally:
            self._running.pop(order.digest, None)

    def cancel(self, order: TrainingOrder) -> bool:
        """End the order's container if this object started it."""
        container = self._running.get(order.digest)
        return container is not None and container.cancel()

    def container_id(self, order: TrainingOrder) -> str:
        """The engine's id of the order's container; empty if none runs."""
        container = self._running.get(order.digest)
        return container.id if container else ""

    def try_image(self) -> tuple[Image, ImageTrial]:
        """Find the image and try it. Raises EngineError; TrainingError if it cannot train."""
        client = engine.connect()
        try:
            image = find_image(client, self.image, IMAGE_REMEDY)
            return image, try_image(client, image, self.home, self.limits, gpu=self.gpu, library=self.library)
        finally:
            client.close()

    def _start(self, order: TrainingOrder) -> StartedTrainer:
        """Find the image, try it, and start the order's container. Raises TrainingError."""
        mounts = isolation.order_mounts(order)
        try:
            client = engine.connect()
        except EngineError as problem:
            raise TrainingError(problem.message, problem.remedy, cause="engine") from problem
        try:
            if count := sweep(client, self.home, order):
                log.info("Removed %d containers of killed runs.", count)
            image = find_image(client, self.image, IMAGE_REMEDY)
            try_image(client, image, self.home, self.limits, gpu=self.gpu, library=self.library)
            isolation.open_to_container(write_file(order.folder / ORDER, canonical(isolation.order_inside(order))))
            _hand_over(order.folder)
            container = self._create(client, image, order, mounts)
        except EngineError as problem:
            client.close()
            raise TrainingError(problem.message, problem.remedy, cause="image") from problem
        except problems() as problem:
            client.close()
            message, remedy, cause = isolation.explain(problem)
            raise TrainingError(message, remedy, cause=cause) from problem
        except AcademyError:
            client.close()
            raise
        self._running[order.digest] = container
        return container

    def _create(
        self, client: Any, image: Image, order: TrainingOrder, mounts: list[tuple[Path, str, bool]]
    ) -> _Container:
        run = order.folder.resolve()
        file = f"/runs/{order.folder.name}/{ORDER}"
        options = isolation.container_options(
            client,
            ["-m", "academy.habitat.trainer", file, "0"],
            self.limits,
            isolation.labels(self.home, order),
            gpu=self.gpu,
            mounts=mounts,
        )
        # names belong to the whole engine: another home may have a job of this second, or run the same order
        name = f"{CONTAINER}{job_name(order.runs, run.name) or run.name}"
        try:
            created = client.api.create_container(image.digest, name=name, stdin_open=True, **options)
        except problems() as problem:
            if getattr(problem, "status_code", None) != TAKEN:
                raise
            name = f"{name}-{digest_of(str(run))[:8]}"
            created = client.api.create_container(image.digest, name=name, stdin_open=True, **options)
        container_id = created["Id"]
        container = _Container(client, container_id, order.folder, self.limits)
        try:
            container.attach_stdin()
            client.api.start(container_id)
        except BaseException:  # Ctrl-C too
            container.remove()
            raise
        return container


class _Container:
    """A started trainer in its container."""

    def __init__(self, client: Any, container_id: str, folder: Path, limits: Limits) -> None:
        self.client = client
        self.id = container_id
        self.folder = folder
        self.limits = limits
        self._cancelled = threading.Event()
        self._stopped = False
        self._stdin: Any = None
        self._last_check = self._last_answer = time.monotonic()

    def attach_stdin(self) -> None:
        """Keep its stdin open as long as this process lives. Called before it starts."""
        self._stdin = self.client.api.attach_socket(self.id, params={"stdin": 1, "stream": 1})

    def ending(self) -> TrainerEnd | None:
        now = time.monotonic()
        if now - self._last_check < CHECK_SECONDS:
            return None
        self._last_check = now
        try:
            state = self._state()
        except problems() as problem:
            if getattr(problem, "status_code", None) == 404:
                return TrainerEnd(message="The training's container was removed by another program")
            if now - self._last_answer > ENGINE_PATIENCE:
                return TrainerEnd(
                    message="The Docker engine stopped answering. If the training is started again, it continues from "
                    "its last checkpoint",
                    cause="engine",
                )
            return None
        self._last_answer = time.monotonic()
        return None if state["Running"] else self._end_of(state)

    def cancel(self) -> bool:
        if self._stopped:
            return False
        self._cancelled.set()
        with suppress(*problems(), EngineError):
            client = engine.connect()  # a separate connection: another thread is using the first one
            try:
                client.api.kill(self.id)
            finally:
                client.close()
        return True

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        with suppress(*problems()):
            self.client.api.kill(self.id)
        with suppress(*problems()):
            _append_log(self.folder, self.client.api.logs(self.id, tail=10_000), self.limits.log_bytes)
        self.remove()
        self.client.close()

    def remove(self) -> None:
        """Remove it with everything that runs in it. If that fails, a later sweep finds it by its label."""
        if self._stdin is not None:
            self._stdin._response.close()  # owns the connection, which would stay if only the stream were closed
        with suppress(*problems()):
            self.client.api.remove_container(self.id, force=True, v=True)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.client.api.inspect_container(self.id)["State"]
        return state

    def _end_of(self, state: dict[str, Any]) -> TrainerEnd:
        if self._cancelled.is_set():
            return CANCELLED
        if state["ExitCode"] == KILLED and not state["OOMKilled"]:
            time.sleep(CHECK_SECONDS)  # the engine may learn the reason a moment later
            with suppress(*problems()):
                state = self._state()
        if state["OOMKilled"]:
            limit = self.limits.memory_bytes / 2**30
            return TrainerEnd(message=f"The training needed more than its {limit:.1f} GiB of memory", cause="memory")
        return TrainerEnd(message=f"The training's container ended with code {state['ExitCode']}")


def sweep(client: Any, home: Path, order: TrainingOrder) -> int:
    """Remove this home's containers that no process follows; returns how many. The caller holds its order's lock."""
    count = 0
    for container in client.api.containers(all=True, filters={"label": f"{isolation.HOME}={home}"}):
        labels = container.get("Labels") or {}
        run = Path(labels.get(isolation.RUN, ""))
        with suppress(HomeError, *problems()):  # a process follows it, or it is being removed already
            if isolation.JOB not in labels:  # an image's trial
                if time.time() - container["Created"] < TRIAL_SECONDS:
                    continue
                client.api.remove_container(container["Id"], force=True, v=True)
            elif run == order.folder.resolve() or not (run / LOCK).is_file():
                client.api.remove_container(container["Id"], force=True, v=True)
            else:
                with exclusive_lock(run / LOCK, "Another process follows this container."):
                    client.api.remove_container(container["Id"], force=True, v=True)
            count += 1
    return count


def _hand_over(folder: Path) -> None:
    """Give the run's files to the container's user if that is another user: an earlier attempt may be ours."""
    if isolation.container_user() == os.getuid():
        return
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            if name not in (LOCK, ORDER, LOG):
                os.chown(Path(place) / name, NOBODY, NOBODY, follow_symlinks=False)


def _collect(order: TrainingOrder, adapter: str) -> None:
    """Check and publish the adapter that a container wrote into the run's folder. Raises AdapterError."""
    draft = order.folder / isolation.ADAPTERS / adapter[:16]
    if not draft.is_dir() or draft.is_symlink():
        return  # collected before; if not, reading the published adapter fails
    read_adapter(draft, base_digest=order.base.digest, digest=adapter)
    with publish_folder(order.adapters / adapter[:16]) as folder:
        for name in (*FILES, MANIFEST):
            shutil.copyfile(draft / name, folder / name, follow_symlinks=False)
    shutil.rmtree(order.folder / isolation.ADAPTERS, ignore_errors=True)


def _append_log(folder: Path, output: bytes, size: int) -> None:
    """Append a container's output to the run's log and keep the last `size` bytes. Does not follow a link."""
    file = folder / LOG
    earlier = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
    with suppress(HomeError):  # the disk is full, which the events report
        write_file(file, (earlier + output)[-size:])
