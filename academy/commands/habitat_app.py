"""`academy habitat ...`: options and help texts of the group; what they do is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from academy.commands.models_app import Json

habitat_app = typer.Typer(
    help="Where trainings run, and what trainers print.", no_args_is_help=True, rich_markup_mode=None
)


@habitat_app.command()
def metrics(
    file: Annotated[Path, typer.Argument(help="A trainer's log; '-' reads stdin.")],
    json: Json = False,
) -> None:
    """Summarise any trainer's text log: losses, where it stands, its latest figures."""
    from academy.commands import habitat as commands

    commands.metrics(file, as_json=json)
