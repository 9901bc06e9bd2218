"""`academy genealogy | history`: the family tree, and changes of the champion and the archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from academy.cli.home import open_home
from academy.cli.options import LARGEST_NUMBER, Base, Before, Json, Limit
from academy.cli.output import console, emit, say, write

app = typer.Typer(rich_markup_mode=None)


@app.command()
def genealogy(
    limit: Limit = 50,
    before: Before = None,
    form: Annotated[str, typer.Option("--format", help="text, json, mermaid or svg.")] = "text",
    to: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Show the family tree: parents, datasets, verdicts, promotions and rollbacks."""
    from academy.loop.genealogy import check_format, draw_family

    form = check_format("json" if json else form)
    drawing = draw_family(open_home(base_model), form, limit, before)
    if to is None:
        console().out(drawing, end="", highlight=False)
    else:
        write(to, drawing)
        say(f"Written to {to}.")


@app.command()
def history(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Number of changes, newest first.")] = 50,
    before: Annotated[
        int | None,
        typer.Option(min=1, max=LARGEST_NUMBER, help="Only rows with smaller numbers: the previous page."),
    ] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """List every change of the champion and the archive: what, who, when and why."""
    from academy.loop.genealogy import history as list_changes

    changes = list_changes(open_home(base_model), limit, before)
    if json:
        emit([change.model_dump(mode="json") | {"by_hand": change.by_hand} for change in changes])
        return
    for change in changes:
        say(f"{change.seq:>6}  {change.at}  {change.action:<8}  {change.by or '-'}  {change.sentence}")
    if not changes:
        say("No changes yet: the base model answers.")
