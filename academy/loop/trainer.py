"""Where the trainings of a home run, and the image that training containers need."""

from __future__ import annotations

from academy.habitat.backends import image as images
from academy.habitat.backends.choice import BackendChoice, select_backend
from academy.habitat.backends.image import Proof
from academy.records import Record
from academy.settings import Settings
from academy.system import docker as engine
from academy.system.images import Image

SECONDS = 1200
"""An engine unpacks gigabytes before it answers."""


class TrainerStatus(Record):
    """Where trainings run, and the image that was tried: the one of the settings, or one that was made just now."""

    backend: BackendChoice
    tried: BackendChoice

    @property
    def image(self) -> Image | None:
        """The image that was tried."""
        return self.tried.image

    @property
    def proof(self) -> Proof | None:
        """What the image showed when it was tried."""
        return self.tried.proof


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
    backend = _choose(settings)
    if not made or backend.image is not None:
        return TrainerStatus(backend=backend, tried=backend)
    in_container = settings.model_copy(update={"training_backend": "container", "training_processes": 1})
    return TrainerStatus(backend=backend, tried=_choose(in_container))


def _choose(settings: Settings) -> BackendChoice:
    backend = select_backend(settings)
    if backend.refusal:
        raise backend.refusal.error
    return backend
