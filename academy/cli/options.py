"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Base = Annotated[
    str | None, typer.Option("--base-model", help="'seed', a folder or a Hugging Face name (ACADEMY_BASE_MODEL).")
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="A JSON file with recipe fields, such as patience. Options override it."),
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Number of versions, newest first.")]
LARGEST_NUMBER = 2**63 - 1  # a database's integer
Before = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST_NUMBER, help="Only versions with smaller numbers: the previous page."),
]
Because = Annotated[str, typer.Option(help="The reason; kept in the ledger.")]
