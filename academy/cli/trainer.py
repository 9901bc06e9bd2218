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

    made = make_trainer_image() if make_image else None
    if made and not json:
        say(f"Made {made.name} from this Python, {made.size / 1e9:.2f} GB: {made.digest}.")
    status = trainer_status(settings(), made=made is not None)
    chosen, image, proof = status.chosen, status.image, status.proof
    if json:
        emit({
            "backend": chosen.backend,
            "made": made and made.model_dump(mode="json"),
            "image": image and image.model_dump(mode="json"),
            "proof": proof and proof.model_dump(mode="json"),
        })  # fmt: skip
        return
    if image and proof:
        versions = ", ".join(f"{name} {number}" for name, number in proof.versions.items())
        say(f"{image.name} can train, on {status.tried.trial_device}: Python {proof.python}, {versions}.")
    place = f"in containers of {chosen.image.name}" if chosen.image else "in processes of this machine"
    say(f"Trainings run {place}{f' because: {chosen.container_problem}' if chosen.container_problem else ''}.")
