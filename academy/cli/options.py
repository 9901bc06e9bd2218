"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Base = Annotated[str | None, typer.Option("--base-model", help="'seed', a folder or a Hugging Face name.")]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="A JSON object with fields of the recipe, such as patience; options win over it."),
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest.")]
MOST = 2**63 - 1  # a database's integer
Before = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="Only versions with smaller numbers: the page before.")
]
