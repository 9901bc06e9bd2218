"""Where the trainings of a home run, and the image that training containers need."""

from __future__ import annotations

from academy.habitat.backends import image as images
from academy.habitat.backends.base import BackendChoice
from academy.habitat.backends.choice import select_backend
from academy.habitat.backends.container import ContainerChoice
from academy.records import Record
from academy.settings import Settings
from academy.system import docker as engine
from academy.system.images import Image

SECONDS = 1200
"""An engine unpacks gigabytes before it answers."""


class TrainerStatus(Record):
    """Where trainings run, and the image that was tried: the one of the settings, or one that was made just now."""

    backend: BackendChoice
    container: ContainerChoice | None


def make_trainer_image() -> Image:
    """Make the image of training containers from this Python. Raises EngineError."""
    client = engine.connect(SECONDS)
    try:
        return images.make_image(client)
    finally:
        client.close()


def trainer_status(settings: Settings, *, made: bool = False) -> TrainerStatus:
    """Try what the settings ask for; with `made` also an image that the settings do not use.

    Raises EngineError and TrainingError where no training can run there.
    """
    backend = choice = _select(settings)
    if made and not isinstance(backend, ContainerChoice):
        choice = _select(settings.model_copy(update={"training_backend": "container", "training_processes": 1}))
    return TrainerStatus(backend=backend, container=choice if isinstance(choice, ContainerChoice) else None)


def _select(settings: Settings) -> BackendChoice:
    choice = select_backend(settings)
    if choice.refusal:
        raise choice.refusal.error
    return choice
