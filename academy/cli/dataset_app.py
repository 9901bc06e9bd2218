"""`academy dataset ...`: options and help texts of the group; what they do is imported when it is asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from academy.cli.options import Base, Json

dataset_app = typer.Typer(
    help="Look at datasets, compare and rebuild them.", no_args_is_help=True, rich_markup_mode=None
)


Digest = Annotated[str | None, typer.Argument(help="A dataset's digest, or its beginning; without it the newest.")]


@dataset_app.command("show")
def dataset_show(
    digest: Annotated[str | None, typer.Argument(help="A dataset's digest; without it all are listed.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many of its lines.")] = 10,
    json: Json = False,
) -> None:
    """Show a dataset: figures, contradictions, lines with where they come from."""
    from academy.cli import dataset as commands

    commands.show(digest, limit, as_json=json)


@dataset_app.command("funnel")
def dataset_funnel(digest: Digest = None, json: Json = False) -> None:
    """Show what was collected, what was left out and why, what was kept."""
    from academy.cli import dataset as commands

    commands.funnel(digest, as_json=json)


@dataset_app.command("allow")
def dataset_allow(
    key: Annotated[str, typer.Argument(help="The key of an overlap, as `dataset show` tells it, or its beginning.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Allow an overlap with an examination that is an accident."""
    from academy.cli import dataset as commands

    commands.allow(key, base_model, as_json=json)


@dataset_app.command("diff")
def dataset_diff(
    first: Annotated[str, typer.Argument(help="A dataset's digest.")],
    second: Annotated[str, typer.Argument(help="Another's.")],
    json: Json = False,
) -> None:
    """Show what stands in one of two datasets only."""
    from academy.cli import dataset as commands

    commands.diff(first, second, as_json=json)


@dataset_app.command("rebuild")
def dataset_rebuild(digest: Digest = None, base_model: Base = None, json: Json = False) -> None:
    """Make a dataset again from its lessons and commits, and say whether the bytes are the same."""
    from academy.cli import dataset as commands

    commands.rebuild(digest, base_model, as_json=json)
