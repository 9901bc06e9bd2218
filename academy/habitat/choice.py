"""Which backend a home trains with. What was asked for and is not there is refused later, never replaced by another."""

from __future__ import annotations

from academy.errors import TrainingError
from academy.habitat.backend import TrainingBackend
from academy.habitat.container import ContainerBackend
from academy.habitat.fit import Device, Plan, usual_plan
from academy.habitat.hardware import Gpu, take_inventory
from academy.habitat.isolation import limits_here
from academy.habitat.process import ProcessBackend
from academy.settings import Settings


def choose_backend(settings: Settings, gpu: Gpu | None) -> TrainingBackend:
    """A subprocess of this machine, or a container; with that GPU, or on processors.

    Raises TrainingError where several processes are to share the training, and cannot.
    """
    several = settings.training_processes
    if settings.training_backend == "container":
        if several > 1:
            raise TrainingError(
                "Several processes cannot share a training in a container.",
                "Set ACADEMY_TRAINING_PROCESSES=1 or ACADEMY_TRAINING_BACKEND=process.",
                cause="gpu",
            )
        return container_backend(settings, gpu)
    used = [gpu.uuid] if gpu else []
    if gpu and several > 1:
        free = [one.uuid for one in take_inventory(engine=False).gpus if not one.held and one.uuid != gpu.uuid]
        used += free[: several - 1]
        if len(used) < several:
            raise TrainingError(
                f"{several} processes are to share the training, and {len(used)} of the GPUs are free.",
                f"Set ACADEMY_TRAINING_PROCESSES={len(used)}, or wait.",
                cause="gpu",
            )
    return ProcessBackend(silence=60 * settings.training_silence_minutes, gpu=",".join(used))


def choose_plan(settings: Settings, device: Device) -> Plan:
    """How a recipe is carried out on a device where nothing forces otherwise, as the settings say."""
    said = {
        "library": settings.training_library, "processes": settings.training_processes,
        "sharded": settings.training_sharded,
    }  # fmt: skip
    return usual_plan(device).model_copy(update=said)


def device_of(settings: Settings, gpu: Gpu | None) -> Device:
    """What a training that is given that GPU runs on. torch must know GPUs; an image's is believed to."""
    able = settings.training_backend == "container" or take_inventory(engine=False).cuda
    return "cuda" if gpu and able else "cpu"


def free_gpu(settings: Settings) -> Gpu | None:
    """The GPU with the most free memory, of those that no training holds if there are any.

    None where there is no GPU, or where GPUs are switched off.
    """
    gpus = take_inventory(engine=False).gpus if settings.enable_gpu else ()
    return max(gpus, key=lambda gpu: (not gpu.held, gpu.memory_free or 0), default=None)


def container_backend(settings: Settings, gpu: Gpu | None = None) -> ContainerBackend:
    """The container backend as the settings say."""
    return ContainerBackend(
        settings.home,
        settings.training_image,
        gpu=gpu.uuid if gpu else "",
        limits=limits_here(settings.training_memory_gib, settings.training_cpus),
        silence=60 * settings.training_silence_minutes,
        library=settings.training_library,
    )
