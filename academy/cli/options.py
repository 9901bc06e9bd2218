"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Tags = Annotated[
    list[str] | None,
    typer.Option("--tags", help="Use only lessons and tasks with one of these tags, separated by commas; no commits."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Base = Annotated[
    str | None, typer.Option("--base-model", help="'seed', a folder or a Hugging Face name (ACADEMY_BASE_MODEL).")
]
Repositories = Annotated[list[Path] | None, typer.Option("--repo", help="A git repository to learn from; repeatable.")]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", help="A JSON file with recipe fields, such as patience. Options override it."),
]
# the bounds of academy.professor.recipe, repeated so that `--help` shows them without importing it
Rank = Annotated[int | None, typer.Option("--rank", min=4, max=256, help="LoRA rank.")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", min=1e-9, max=1e-2, help="Learning rate.")]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, max=20, help="Passes over the dataset.")]
BatchSize = Annotated[int | None, typer.Option("--batch-size", min=1, max=128, help="Examples per batch.")]
InitAdapter = Annotated[
    str | None,
    typer.Option("--init-adapter", help="Version (v3) or 'champion' to start from; without it the base model."),
]
Tune = Annotated[
    int | None,
    typer.Option("--tune", min=1, max=500, help="Search the recipe first, in this many trials; not on the hold-out."),
]
TuneMinutes = Annotated[
    float | None,
    typer.Option("--tune-minutes", min=0.01, help="Minutes that the search may take (ACADEMY_TUNE_MINUTES)."),
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Number of versions, newest first.")]
LARGEST_NUMBER = 2**63 - 1  # a database's integer
Before = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST_NUMBER, help="Only versions with smaller numbers: the previous page."),
]
Because = Annotated[str, typer.Option(help="The reason; kept in the ledger.")]
