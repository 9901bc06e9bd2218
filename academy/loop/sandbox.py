"""The sandbox for programs that a model wrote, and the image that Docker's sandbox needs."""

from __future__ import annotations

from academy.arena.sandbox import DockerSandbox, Unavailable, engine, find_sandbox
from academy.arena.sandbox.image import make_image
from academy.errors import ExaminationError
from academy.records import Record
from academy.settings import Settings
from academy.system.images import Image


class SandboxStatus(Record):
    """The sandbox that is used here, the limits it enforces, and its image where it has one."""

    sandbox: str
    limits_in_force: tuple[str, ...]
    image: Image | None


def make_sandbox_image() -> Image:
    """Make the image of Docker's sandbox from this Python. Raises EngineError."""
    client = engine.connect()
    try:
        return make_image(client)
    finally:
        client.close()


def sandbox_status(settings: Settings) -> SandboxStatus:
    """Try the sandboxes of the settings. Raises ExaminationError where none works."""
    sandbox = find_sandbox(settings.sandbox, image=settings.sandbox_image)
    if isinstance(sandbox, Unavailable):
        raise ExaminationError(sandbox.because)
    image = sandbox.image if isinstance(sandbox, DockerSandbox) else None
    return SandboxStatus(sandbox=sandbox.name, limits_in_force=tuple(sandbox.active_limits), image=image)
