"""`academy trainer`: where trainings run, and the image that a container needs."""

from __future__ import annotations

from academy import engine
from academy.commands.output import emit, say
from academy.habitat import image as images
from academy.habitat.choice import choose, container_backend, free_gpu
from academy.settings import load_settings

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
    chosen = choose(settings)
    if chosen.refusal:
        raise chosen.refusal.error
    found, proof = chosen.image, chosen.proof
    if made and found is None:
        found, proof = container_backend(settings, free_gpu(settings)).look()
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
        where = chosen.tried_on if chosen.proof else proof.gpu or "the CPU"
        say(f"{found.name} can train, on {where}: Python {proof.python}, {versions}.")
    where = f"in containers of {chosen.image.name}" if chosen.image else "in processes of this machine"
    say(f"Trainings run {where}{f', for: {chosen.instead}' if chosen.instead else ''}.")
