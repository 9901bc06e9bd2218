"""Which backend a home trains with, and what the machine is to a training there: asked once, for plan and start alike.

What a person asked for and cannot be had is refused and never replaced. With `auto` nothing was asked for: where no
container can be had it is a process, and a sentence says why.
"""

from __future__ import annotations

from academy.errors import EngineError, TrainingError
from academy.habitat.backends.base import TrainingBackend
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.backends.image import Proof
from academy.habitat.backends.isolation import limits_here
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import Device, Plan, default_plan
from academy.habitat.routing import Backend, Need, Refusal, Route, gpus_by_preference, route
from academy.records import Record
from academy.settings import Settings
from academy.system.hardware import Gpu, Inventory, take_inventory
from academy.system.images import Image


class BackendChoice(Record):
    """Where trainings of a home run now. `refusal`: why they cannot, where a person asked for it.

    `machine` is the machine as a training there has it: an image has libraries of its own, a container a part of the
    memory. `instead` says why it is a process where a container was tried first.
    """

    backend: Backend
    machine: Inventory
    image: Image | None = None
    proof: Proof | None = None
    container_problem: str = ""
    refusal: Refusal | None = None

    @property
    def can_use_gpus(self) -> bool:
        """Whether a training there can use a GPU, if there is one."""
        able = self.machine.docker.gpus if self.backend == "container" else bool(self.machine.cuda)
        return able and self.refusal is None

    @property
    def trial_device(self) -> str:
        """What the image was tried on, for people: the GPU, or the CPU and why no GPU."""
        if self.proof and self.proof.gpu:
            return self.proof.gpu
        held = "trainings use the GPUs" if any(gpu.held for gpu in self.machine.gpus) else ""
        because = held or self.machine.gpu_note
        return f"the CPU{f' ({because})' if because else ''}"


def select_backend(settings: Settings, machine: Inventory | None = None) -> BackendChoice:
    """Where trainings run, as the settings say. For containers the image is found and tried, as before a training."""
    wanted = settings.training_backend
    machine = machine or take_inventory(engine=wanted != "process")
    if wanted == "process":
        return BackendChoice(backend="process", machine=machine)
    try:
        return _in_containers(settings, machine)
    except (EngineError, TrainingError) as problem:
        if wanted == "auto":
            return BackendChoice(backend="process", machine=machine, container_problem=problem.message.rstrip("."))
        cause = problem.cause if isinstance(problem, TrainingError) else "engine"
        refusal = Refusal(message=problem.message, remedy=problem.remedy, cause=cause)
        return BackendChoice(backend="container", machine=machine, refusal=refusal)


def _in_containers(settings: Settings, machine: Inventory) -> BackendChoice:
    """Raises EngineError and TrainingError where no training can run in a container here."""
    if settings.training_processes > 1:
        raise TrainingError(
            "Several processes cannot share a training in a container.",
            "Set ACADEMY_TRAINING_PROCESSES=1 or ACADEMY_TRAINING_BACKEND=process.",
            cause="gpu",
        )
    if not machine.docker.version:
        raise EngineError(f"{machine.docker.note}.", machine.docker.remedy)
    gpu = next(iter(gpus_by_preference(machine.gpus)), None) if settings.enable_gpu and machine.docker.gpus else None
    # one that a training holds is not tried: its memory may be full
    backend = _containers(settings, gpu if gpu and not gpu.held else None)
    try:
        image, proof = backend.look()
    except TrainingError as problem:
        if not backend.gpu or problem.cause != "gpu":
            raise
        # as where there is no GPU: it is the processors, and the route says why
        machine = machine.model_copy(update={"gpus": (), "gpu_note": problem.message.rstrip(".")})
        image, proof = _containers(settings).look()
    inside = {
        "unsloth": "unsloth" in proof.versions, "bitsandbytes": "bitsandbytes" in proof.versions,
        "memory_free": min(machine.memory_free, backend.limits.memory_bytes),
    }  # fmt: skip
    return BackendChoice(backend="container", machine=machine.model_copy(update=inside), image=image, proof=proof)


def find_route(settings: Settings, chosen: BackendChoice, need: Need, only: Device | None = None) -> Route:
    """Where a training with such a need goes in this home; its sentence says what was done instead of what."""
    if chosen.refusal:
        said = f"nowhere: {chosen.refusal.message} {chosen.refusal.remedy}"
        return Route(place="", backend=chosen.backend, refusal=chosen.refusal, sentence=said.rstrip("."))
    enabled = settings.enable_gpu and only != "cpu"
    found = route(
        need,
        chosen.machine,
        enable_gpu=enabled,
        backends=(chosen.backend,),
        only=only,
        processes=settings.training_processes,
    )
    if not chosen.container_problem:
        return found
    return found.model_copy(update={"sentence": f"{found.sentence}; in a process, for: {chosen.container_problem}"})


def create_backend(settings: Settings, way: Route) -> TrainingBackend:
    """What starts a training that was given this way: a subprocess of this machine, or a container.

    Raises TrainingError where that was refused.
    """
    if way.refusal:
        raise way.refusal.error
    if way.backend == "container":
        return _containers(settings, way.gpu)
    used = [gpu.uuid for gpu in (way.gpu, *way.more) if gpu]
    return ProcessBackend(silence=60 * settings.training_silence_minutes, gpu=",".join(used), home=settings.home)


def configured_plan(settings: Settings, device: Device) -> Plan:
    """How a recipe is carried out on a device where nothing forces otherwise, as the settings say."""
    said = {
        "library": settings.training_library, "processes": settings.training_processes,
        "sharded": settings.training_sharded,
    }  # fmt: skip
    return default_plan(device).model_copy(update=said)


def _containers(settings: Settings, gpu: Gpu | None = None) -> ContainerBackend:
    """The container backend as the settings say."""
    return ContainerBackend(
        settings.home,
        settings.training_image,
        gpu=gpu.uuid if gpu else "",
        limits=limits_here(settings.training_memory_gib, settings.training_cpus),
        silence=60 * settings.training_silence_minutes,
        library=settings.training_library,
    )
