"""`academy trainer`: where trainings run, and the image that a container needs."""

from __future__ import annotations

from academy.cli.output import emit, say
from academy.habitat.backends import image as images
from academy.habitat.backends.choice import select_backend
from academy.settings import load_settings
from academy.system import docker as engine

SECONDS = 1200
"""An engine unpacks gigabytes before it answers."""


def run(*, make_image: bool, as_json: bool) -> None:
    """Make the image where that is asked, then try the one that is set. Raises EngineError, TrainingError."""
    settings = load_settings()
    made = None
    if make_image:
        client = engine.connect(SECONDS)
        try:
            made = images.make_image(client)
        finally:
            client.close()
        if not as_json:
            say(f"Made {made.name} of this Python, {made.size / 1e9:.2f} GB: {made.digest}.")
    chosen = select_backend(settings)
    if chosen.refusal:
        raise chosen.refusal.error
    tried = chosen
    if made and chosen.image is None:
        tried = select_backend(settings.model_copy(update={"training_backend": "container", "training_processes": 1}))
        if tried.refusal:
            raise tried.refusal.error
    found, proof = tried.image, tried.proof
    if as_json:
        emit(
            {
                "backend": chosen.backend,
                "made": made and made.model_dump(mode="json"),
                "image": found and found.model_dump(mode="json"),
                "proof": proof and proof.model_dump(mode="json"),
            }
        )
        return
    if found and proof:
        versions = ", ".join(f"{name} {number}" for name, number in proof.versions.items())
        say(f"{found.name} can train, on {tried.trial_device}: Python {proof.python}, {versions}.")
    where = f"in containers of {chosen.image.name}" if chosen.image else "in processes of this machine"
    say(f"Trainings run {where}{f', for: {chosen.container_problem}' if chosen.container_problem else ''}.")
