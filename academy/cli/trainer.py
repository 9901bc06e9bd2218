"""`academy trainer`: where trainings run, and the image that a container needs."""

from __future__ import annotations

from academy.cli.output import emit, say
from academy.habitat.backends import image as images
from academy.habitat.backends.choice import select_backend
from academy.habitat.backends.container import ContainerChoice
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
    if made and not isinstance(chosen, ContainerChoice):
        tried = select_backend(settings.model_copy(update={"training_backend": "container", "training_processes": 1}))
        if tried.refusal:
            raise tried.refusal.error
    inside = tried if isinstance(tried, ContainerChoice) else None
    if as_json:
        emit(
            {
                "backend": chosen.backend,
                "made": made and made.model_dump(mode="json"),
                "image": inside and inside.image.model_dump(mode="json"),
                "proof": inside and inside.trial.model_dump(mode="json"),
            }
        )
        return
    if inside:
        trial = inside.trial
        versions = ", ".join(f"{name} {number}" for name, number in trial.versions.items())
        say(f"{inside.image.name} can train, on {inside.trial_device}: Python {trial.python}, {versions}.")
    say(f"Trainings run {chosen.location}{f', for: {chosen.container_problem}' if chosen.container_problem else ''}.")
