"""`academy sandbox`: the sandbox for programs that a model wrote, and its image."""

from __future__ import annotations

from typing import Annotated

import typer

from academy.cli.home import settings
from academy.cli.options import Json
from academy.cli.output import emit, say

app = typer.Typer(rich_markup_mode=None)


@app.command()
def sandbox(
    make_image: Annotated[
        bool,
        typer.Option("--make-image", help="Make the image of Docker's sandbox from this Python; no registry is used."),
    ] = False,
    json: Json = False,
) -> None:
    """Show the sandbox that runs programs written by a model."""
    from academy.loop.sandbox import make_sandbox_image, sandbox_status

    image = make_sandbox_image() if make_image else None
    if image and not json:
        say(f"Made {image.name} from this Python: {image.digest}.")
    status = sandbox_status(settings())
    if json:
        emit({**status.model_dump(mode="json"), "made": image and image.model_dump(mode="json")})
    else:
        say(f"Programs run in {status.sandbox}: {', '.join(status.limits_in_force)}.")
