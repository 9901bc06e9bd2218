"""`academy habitat ...`: options and help texts of the group; what they do is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from academy.cli.options import Base, BatchSize, Json, Rank, RecipeFile

habitat_app = typer.Typer(
    help="Where trainings run, and what trainers print.", no_args_is_help=True, rich_markup_mode=None
)

Run = Annotated[
    str, typer.Argument(help="The beginning of its order's digest, its job's name, or a version (v7) made of it.")
]


@habitat_app.command()
def runs(json: Json = False) -> None:
    """List the trainings of this home, the newest first."""
    from academy.cli import runs as commands

    commands.runs(as_json=json)


@habitat_app.command()
def status(run: Run, json: Json = False) -> None:
    """Tell how a training stands: steps, losses, speed, time left, memory, energy, cost."""
    from academy.cli import runs as commands

    commands.status(run, as_json=json)


@habitat_app.command()
def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until it ends.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object; with --follow one a line.")] = False,
) -> None:
    """Print the log of a training, numbered and timed."""
    from academy.cli import runs as commands

    commands.logs(run, follow=follow, as_json=json)


@habitat_app.command()
def cancel(run: Run, json: Json = False) -> None:
    """End a running training, whoever started it; it can go on from its last checkpoint."""
    from academy.cli import runs as commands

    commands.cancel(run, as_json=json)


@habitat_app.command()
def metrics(
    file: Annotated[Path, typer.Argument(help="A trainer's log; '-' reads stdin.")],
    events: Annotated[bool, typer.Option("--events", help="Print it as events, one JSON object a line.")] = False,
    json: Json = False,
) -> None:
    """Summarise any trainer's text log: losses, where it stands, its latest figures."""
    from academy.cli import habitat as commands

    commands.metrics(file, events=events, as_json=json)


@habitat_app.command()
def fit(
    base_model: Base = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest example; without it the longest possible.")
    ] = None,
    rank: Rank = None,
    batch_size: BatchSize = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Predict the memory of a training, say where it would run, and what would need less."""
    from academy.cli import habitat as commands
    from academy.cli.recipe import recipe_options

    options = recipe_options(recipe, rank=rank, batch_size=batch_size)
    commands.fit(base_model, length, options, as_json=json)
