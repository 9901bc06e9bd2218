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
    backend, container = status.backend, status.container
    if json:
        emit({
            "backend": backend.backend,
            "made": new_image and new_image.model_dump(mode="json"),
            "image": container and container.image.model_dump(mode="json"),
            "proof": container and container.trial.model_dump(mode="json"),
        })  # fmt: skip
        return
    if container:
        trial = container.trial
        versions = ", ".join(f"{name} {number}" for name, number in trial.versions.items())
        say(f"{container.image.name} can train, on {container.trial_device}: Python {trial.python}, {versions}.")
    say(f"Trainings run {backend.location}{f' because: {reason}' if (reason := backend.container_problem) else ''}.")
