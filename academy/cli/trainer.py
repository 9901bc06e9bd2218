"""`academy trainer`: where trainings run, and the image for training containers."""

from __future__ import annotations

from typing import Annotated

import typer

from academy.cli.home import settings
from academy.cli.options import Json
from academy.cli.output import emit, say

app = typer.Typer(rich_markup_mode=None)


@app.command()
def trainer(
    make_image: Annotated[
        bool,
        typer.Option(
            "--make-image", help="Make the image for training containers from this Python; no registry is used."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Show where trainings run, and test the image for containers (ACADEMY_TRAINING_BACKEND=container or auto)."""
    from academy.loop.trainer import make_trainer_image, trainer_status

    new_image = make_trainer_image() if make_image else None
    if new_image and not json:
        say(f"Made {new_image.name} from this Python, {new_image.size / 1e9:.2f} GB: {new_image.digest}.")
    status = trainer_status(settings(), made=new_image is not None)
    backend, image, proof = status.backend, status.image, status.proof
    if json:
        emit({
            "backend": backend.backend,
            "made": new_image and new_image.model_dump(mode="json"),
            "image": image and image.model_dump(mode="json"),
            "proof": proof and proof.model_dump(mode="json"),
        })  # fmt: skip
        return
    if image and proof:
        versions = ", ".join(f"{name} {number}" for name, number in proof.versions.items())
        say(f"{image.name} can train, on {status.tried.trial_device}: Python {proof.python}, {versions}.")
    place = f"in containers of {backend.image.name}" if backend.image else "in processes of this machine"
    say(f"Trainings run {place}{f' because: {backend.container_problem}' if backend.container_problem else ''}.")
