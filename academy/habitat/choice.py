"""Which backend a home trains with. What was asked for and is not there is refused later, never replaced by another."""

from __future__ import annotations

import logging

from academy import hardware
from academy.habitat.backend import TrainingBackend
from academy.habitat.container import ContainerBackend
from academy.habitat.isolation import limits_here
from academy.habitat.process import ProcessBackend
from academy.settings import Settings

log = logging.getLogger("academy")


def choose_backend(settings: Settings) -> TrainingBackend:
    """A subprocess of this machine, or a container."""
    if settings.training_backend == "container":
        return container_backend(settings)
    return ProcessBackend(gpu=settings.enable_gpu)


def container_backend(settings: Settings) -> ContainerBackend:
    """The container backend as the settings say; without a GPU here it trains on processors, and says so."""
    machine = hardware.inspect()
    if settings.enable_gpu and not machine.gpus:
        log.info("%s: the container trains on the CPU", machine.gpu_note)
    return ContainerBackend(
        settings.home,
        settings.training_image,
        gpu=settings.enable_gpu and bool(machine.gpus),
        limits=limits_here(settings.training_memory_gib, settings.training_cpus),
    )
