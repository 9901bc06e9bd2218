"""`academy sandbox`: what contains model-written programs here, and the image that Docker's sandbox needs."""

from __future__ import annotations

from academy.arena.sandbox import DockerSandbox, Unavailable, engine, find_sandbox
from academy.arena.sandbox.image import make_image as make
from academy.cli.output import emit, say
from academy.errors import ExaminationError
from academy.settings import load_settings


def run(*, make_image: bool, as_json: bool) -> None:
    """Make the image where that is asked, then tell which sandbox runs. Raises ExaminationError where none does."""
    settings = load_settings()
    made = None
    if make_image:
        client = engine.connect()
        try:
            made = make(client)
        finally:
            client.close()
        if not as_json:
            say(f"Made {made.name} of this Python: {made.digest}.")
    found = find_sandbox(settings.sandbox, image=settings.sandbox_image)
    if isinstance(found, Unavailable):
        raise ExaminationError(found.because)
    if as_json:
        image = found.image.model_dump(mode="json") if isinstance(found, DockerSandbox) else None
        limits = list(found.active_limits)
        emit(
            {
                "sandbox": found.name,
                "active_limits": limits,
                "image": image,
                "made": made and made.model_dump(mode="json"),
            }
        )
        return
    say(f"Programs run in {found.name}: {', '.join(found.active_limits)}.")
