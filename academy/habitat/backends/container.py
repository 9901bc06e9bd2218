"""Training in a container of a Docker engine, as contained as isolation.py says.

The same trainer program gets the same order, with the paths of the container, so the order has the same digest and, on
processors, the adapter the same bytes. The base model's files, the dataset and an adapter to begin with are mounted
read-only; the run's folder is its output. The container can publish nothing: what it made is checked and copied when
it has ended.

A container is removed whatever happened. One whose starter was killed ends by itself, for its stdin does; the next
training of this home finds what is left by its label, and that nobody holds the lock of its order.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from academy.adapters.adapter import FILES, MANIFEST, read_adapter
from academy.errors import AcademyError, BaseModelError, EngineError, HomeError, TrainingError
from academy.habitat.backends import isolation
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.image import HOW, IMAGE, TRIAL_SECONDS, Proof, prove
from academy.habitat.backends.isolation import NOBODY, Limits
from academy.habitat.backends.process import (
    CANCELLED,
    LOCK,
    LOG,
    ORDER,
    SILENCE_SECONDS,
    StartedTrainer,
    TrainerEnd,
    run_order,
)
from academy.models.base_model import WANTED, BaseModel, check
from academy.records import canonical, digest_of
from academy.store.files import publish_folder, write_file
from academy.store.locks import exclusive_lock
from academy.system import docker as engine
from academy.system.docker import problems
from academy.system.images import Image, find_image

log = logging.getLogger("academy")
ADAPTERS = "adapters"
"""In the run's folder: where the container leaves its adapter."""
FIRST = "/first"
"""Where a container has the adapter that its training begins with."""
LOOK_SECONDS = 0.3
"""Between two looks at a container."""
ENGINE_PATIENCE = 60.0
"""An engine that does not answer for so long is gone, and the training with it."""
KILLED = 137


class ContainerBackend:
    """Runs `python -m academy.habitat.trainer` in a container (a TrainingBackend).

    `image` is a name or a digest; empty: the one made of this Python. Nothing is pulled. `gpu` is the uuid of the GPU
    that the container gets, and that is held while it runs; empty: none. `silence` is in seconds, and `library` the one
    that is to train, as in a plan.
    """

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
        self.home = home.resolve()
        self.library = library
        self.image = image or IMAGE
        self.gpu = gpu
        self.limits = limits or isolation.limits_here()
        self.silence = silence
        self._running: dict[str, _Container] = {}

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Events of the order as they come; those of earlier attempts first."""
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
        """The engine's name of the order's container; empty where none runs."""
        container = self._running.get(order.digest)
        return container.id if container else ""

    def look(self) -> tuple[Image, Proof]:
        """The image, and what it shows when it is tried. Raises EngineError; TrainingError where it cannot train."""
        client = engine.connect()
        try:
            image = find_image(client, self.image, HOW)
            return image, prove(client, image, self.home, self.limits, gpu=self.gpu, library=self.library)
        finally:
            client.close()

    def _start(self, order: TrainingOrder) -> StartedTrainer:
        """Find the image, try it, and start the order's container. Raises TrainingError."""
        mounts = _mounts(order)
        try:
            client = engine.connect()
        except EngineError as problem:
            raise TrainingError(problem.message, problem.remedy, cause="engine") from problem
        try:
            if removed := sweep(client, self.home, order):
                log.info("%d containers of killed runs removed", removed)
            image = find_image(client, self.image, HOW)
            prove(client, image, self.home, self.limits, gpu=self.gpu, library=self.library)
            write_file(order.folder / ORDER, canonical(_inside(order)))
            _hand_over(order.folder)
            container = self._create(client, image, order, mounts)
        except EngineError as problem:
            client.close()
            raise TrainingError(problem.message, problem.remedy, cause="image") from problem
        except problems() as problem:
            client.close()
            message, remedy, cause = isolation.in_words(problem)
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
        how = isolation.settings(
            client,
            ["-m", "academy.habitat.trainer", file, "0"],
            self.limits,
            isolation.labels(self.home, order),
            gpu=self.gpu,
            mounts=mounts,
        )
        name = f"academy-{run.name}-{digest_of(str(run))[:8]}"
        made = client.api.create_container(image.digest, name=name, stdin_open=True, **how)["Id"]
        container = _Container(client, made, order.folder, self.limits)
        try:
            container.hold()
            client.api.start(made)
        except BaseException:  # Ctrl-C too
            container.remove()
            raise
        return container


class _Container:
    """A started trainer in its container."""

    def __init__(self, client: Any, name: str, folder: Path, limits: Limits) -> None:
        self.client = client
        self.id = name
        self.folder = folder
        self.limits = limits
        self._cancelled = threading.Event()
        self._stopped = False
        self._line: Any = None
        self._looked = self._answered = time.monotonic()

    def hold(self) -> None:
        """Hold its stdin as long as this process lives. Called before it starts."""
        self._line = self.client.api.attach_socket(self.id, params={"stdin": 1, "stream": 1})

    def ending(self) -> TrainerEnd | None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        try:
            state = self._state()
        except problems() as problem:
            if getattr(problem, "status_code", None) == 404:
                return TrainerEnd(message="The training's container was removed by somebody")
            if now - self._answered > ENGINE_PATIENCE:
                return TrainerEnd(
                    message="The Docker engine is gone; run again, the training goes on from its last checkpoint",
                    cause="engine",
                )
            return None
        self._answered = time.monotonic()
        return None if state["Running"] else self._ended(state)

    def cancel(self) -> bool:
        if self._stopped:
            return False
        self._cancelled.set()
        with suppress(*problems(), EngineError):
            mine = engine.connect()  # a connection of one's own: the other thread is using its client
            try:
                mine.api.kill(self.id)
            finally:
                mine.close()
        return True

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        with suppress(*problems()):
            self.client.api.kill(self.id)
        with suppress(*problems()):
            _keep_log(self.folder, self.client.api.logs(self.id, tail=10_000), self.limits.log_bytes)
        self.remove()
        self.client.close()

    def remove(self) -> None:
        """Remove it with what runs in it; one that stays is found by its label."""
        if self._line is not None:
            self._line._response.close()  # the connection's owner: closing the stream alone would leave the connection
        with suppress(*problems()):
            self.client.api.remove_container(self.id, force=True, v=True)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.client.api.inspect_container(self.id)["State"]
        return state

    def _ended(self, state: dict[str, Any]) -> TrainerEnd:
        if self._cancelled.is_set():
            return CANCELLED
        if state["ExitCode"] == KILLED and not state["OOMKilled"]:
            time.sleep(LOOK_SECONDS)  # the engine may hear a moment later why
            with suppress(*problems()):
                state = self._state()
        if state["OOMKilled"]:
            limit = self.limits.memory_bytes / 2**30
            return TrainerEnd(message=f"The training needed more than its {limit:.1f} GiB of memory", cause="memory")
        return TrainerEnd(message=f"The training's container ended with code {state['ExitCode']}")


def sweep(client: Any, home: Path, order: TrainingOrder) -> int:
    """Remove this home's containers that nobody follows any more; says how many. The caller holds its order's lock."""
    removed = 0
    for found in client.api.containers(all=True, filters={"label": f"{isolation.HOME}={home}"}):
        labels = found.get("Labels") or {}
        run = Path(labels.get(isolation.RUN, ""))
        with suppress(HomeError, *problems()):  # somebody follows it; or it is going already
            if isolation.JOB not in labels:  # an image's trial
                if time.time() - found["Created"] < TRIAL_SECONDS:
                    continue
                client.api.remove_container(found["Id"], force=True, v=True)
            elif run == order.folder.resolve() or not (run / LOCK).is_file():
                client.api.remove_container(found["Id"], force=True, v=True)
            else:
                with exclusive_lock(run / LOCK, "It is followed."):
                    client.api.remove_container(found["Id"], force=True, v=True)
            removed += 1
    return removed


def _mounts(order: TrainingOrder) -> list[tuple[Path, str, bool]]:
    """What the container sees of this machine: source, place there, whether it may be written. Raises TrainingError.

    Of the base model only what its digest covers is shown: no code of its own, and no link out of its folder.
    """
    files = sorted({path for pattern in WANTED for path in order.base.path.glob(pattern) if path.is_file()})
    shown = [(path.resolve(), f"/base/{path.name}", False) for path in files]
    shown.append((order.train_file.resolve(), "/dataset/train.jsonl", False))
    if order.init_adapter is not None:
        shown += [((order.init_adapter / name).resolve(), f"{FIRST}/{name}", False) for name in (*FILES, MANIFEST)]
    for path, _, _ in shown:
        if not path.is_file():
            raise TrainingError(f"There is no file {path}.", "Run `academy curate` again.", cause="data")
        if isolation.user() != os.getuid() and not path.stat().st_mode & 0o004:
            raise TrainingError(f"The container's user cannot read {path}.", f"chmod a+r {path}", cause="order")
    try:
        check(order.base.name, order.base.path)
    except BaseModelError as problem:  # it wants to run code of its own
        raise TrainingError(problem.message, problem.remedy, cause="base model") from problem
    return [*shown, (order.folder.resolve(), f"/runs/{order.folder.name}", True)]


def _inside(order: TrainingOrder) -> TrainingOrder:
    """The order with the container's paths; its digest is the same."""
    runs = Path("/runs")
    return order.model_copy(
        update={
            "base": BaseModel(name=order.base.name, path=Path("/base"), digest=order.base.digest),
            "train_file": Path("/dataset/train.jsonl"),
            "runs": runs,
            "adapters": runs / order.folder.name / ADAPTERS,
            "init_adapter": order.init_adapter and Path(FIRST),
        }
    )


def _hand_over(folder: Path) -> None:
    """Give the run's files to the container's user, where that one is another: an earlier attempt may be ours."""
    if isolation.user() == os.getuid():
        return
    for place, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            if name not in (LOCK, ORDER, LOG):
                os.chown(Path(place) / name, NOBODY, NOBODY, follow_symlinks=False)


def _collect(order: TrainingOrder, adapter: str) -> None:
    """Publish the adapter that a container left in the run's folder, once it is checked. Raises AdapterError."""
    left = order.folder / ADAPTERS / adapter[:16]
    if not left.is_dir() or left.is_symlink():
        return  # collected before; whoever reads it next finds out
    read_adapter(left, base_digest=order.base.digest, digest=adapter)
    with publish_folder(order.adapters / adapter[:16]) as place:
        for name in (*FILES, MANIFEST):
            shutil.copyfile(left / name, place / name, follow_symlinks=False)
    shutil.rmtree(order.folder / ADAPTERS, ignore_errors=True)


def _keep_log(folder: Path, said: bytes, most: int) -> None:
    """Add what a container printed to the run's log, and keep the log's end. Never through a link it left there."""
    file = folder / LOG
    before = file.read_bytes() if file.is_file() and not file.is_symlink() else b""
    with suppress(HomeError):  # a full disk is told by the events
        write_file(file, (before + said)[-most:])
