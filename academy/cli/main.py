"""The `academy` command: its root commands, the groups of the other files, and how errors are printed."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from academy.cli import (
    dataset,
    doctor,
    examinations,
    genealogy,
    habitat,
    keys,
    lessons,
    models,
    pages,
    promotion,
    sandbox,
    serve,
    status,
    trainer,
)
from academy.cli.options import Base, Json, RecipeFile
from academy.errors import AcademyError, HomeError

app = typer.Typer(
    help="Train LoRA adapters from an assistant's experience, examine them, and serve the best one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Repo = Annotated[list[Path] | None, typer.Option("--repo", help="A git repository to learn from; repeatable.")]
Form = Annotated[
    str, typer.Option("--format", help="Write the dataset also as alpaca, sharegpt, chatml or openai.")
]  # fmt: skip
Rank = Annotated[int | None, typer.Option(min=4, max=256, help="LoRA rank.")]
LearningRate = Annotated[float | None, typer.Option(min=1e-9, max=1e-2, help="Learning rate.")]
Epochs = Annotated[int | None, typer.Option(min=1, max=20, help="Passes over the dataset.")]
BatchSize = Annotated[int | None, typer.Option(min=1, max=128, help="Examples per batch.")]
Tune = Annotated[
    int | None,
    typer.Option(
        "--tune", min=1, max=500, help="Search for the best recipe first, in this many trials on training data."
    ),
]
InitAdapter = Annotated[
    str | None,
    typer.Option("--init-adapter", help="Start from the adapter of this version, or of 'champion', not from the base."),
]
TuneMinutes = Annotated[
    float | None, typer.Option("--tune-minutes", min=0.01, help="Longest search, in minutes (ACADEMY_TUNE_MINUTES).")
]


@app.command()
def evolve(
    lessons: Annotated[
        list[Path] | None, typer.Option("--lessons", help="A JSONL file of lessons; repeatable.")
    ] = None,
    repo: Repo = None,
    tasks: Annotated[list[Path] | None, typer.Option("--tasks", help="A JSONL task history; repeatable.")] = None,
    base_model: Base = None,
    force: Annotated[bool, typer.Option("--force", help="Train even if the conditions are not met.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be trained.")] = False,
    rank: Rank = None,
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    init_adapter: InitAdapter = None,
    recipe: RecipeFile = None,
    tune: Tune = None,
    tune_minutes: TuneMinutes = None,
    json: Json = False,
) -> None:
    """Run the whole loop: experience, dataset, decision, training, examination, promotion."""
    from academy.cli.evolve import Request, run
    from academy.loop.recipe_file import read_recipe
    from academy.loop.training import Overrides

    overrides = Overrides(
        rank=rank, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, init_adapter=init_adapter,
        recipe=read_recipe(recipe),
    )  # fmt: skip
    request = Request(
        lessons=lessons or [],
        repos=repo or [],
        tasks=tasks or [],
        base_model=base_model,
        force=force,
        overrides=overrides,
        tune=tune,
        tune_minutes=tune_minutes,
    )
    run(request, dry_run=dry_run, as_json=json)


@app.command()
def curate(
    repo: Repo = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of lessons, mostly the newest.")] = None,
    form: Form = "",
    workers: Annotated[int, typer.Option(min=1, help="Number of Ray workers; more than 1 needs the extra `ray`.")] = 1,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Make the dataset and show its funnel, without training."""
    from academy.cli import stages as commands

    commands.curate(repo or [], limit, form, workers, base_model, as_json=json)


@app.command()
def decide(
    force: Annotated[bool, typer.Option("--force", help="Decide as `evolve --force` does.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Show whether a training is due, and why."""
    from academy.cli import stages as commands

    commands.decide(base_model, force=force, as_json=json)


@app.command()
def train(
    dataset: Annotated[
        str | None, typer.Option(help="A dataset's digest; without it a new dataset is curated.")
    ] = None,
    repo: Repo = None,
    form: Form = "",
    base_model: Base = None,
    rank: Rank = None,
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    init_adapter: InitAdapter = None,
    recipe: RecipeFile = None,
    tune: Tune = None,
    tune_minutes: TuneMinutes = None,
    json: Json = False,
) -> None:
    """Train an adapter and register it as a version, without examining it."""
    from academy.cli import stages as commands
    from academy.loop.recipe_file import read_recipe
    from academy.loop.training import Overrides

    overrides = Overrides(
        rank=rank, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, init_adapter=init_adapter,
        recipe=read_recipe(recipe),
    )  # fmt: skip
    commands.train(dataset, repo or [], form, base_model, overrides, tune, tune_minutes, as_json=json)


# groups without a name add their commands beside those above
for group in (
    status.app, serve.app, examinations.app, promotion.app, genealogy.app, models.export_app, doctor.app, pages.app,
    sandbox.app, trainer.app,
):  # fmt: skip
    app.add_typer(group)
for name, group in (
    ("lessons", lessons.app), ("dataset", dataset.app), ("models", models.app), ("habitat", habitat.app),
    ("keys", keys.app),
):  # fmt: skip
    app.add_typer(group, name=name)


def main() -> None:
    """Run a command. An error is one sentence on stderr (with --json also an error object) and exit code 2."""
    # threads that spin while they wait make two busy programs many times slower; must be set before torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # torch imports pynvml under its old name, which users cannot change
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    try:
        app()
    except HomeError as problem:
        _fail(_system_error(problem) or problem)
    except AcademyError as problem:
        _fail(problem)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as problem:
        # Prefect and MLflow report a full disk in many ways; users need one
        if (sentence := _system_error(problem)) is None:
            raise
        _fail(sentence)


def _system_error(problem: BaseException) -> AcademyError | None:
    """The error for what the machine does not allow: a full disk, an unusable file. None where it is another fault."""
    from academy.settings import load_settings
    from academy.store.files import is_full

    try:
        home = load_settings().home
    except HomeError as unusable:
        return unusable
    if is_full(home, problem):
        return HomeError(f"The disk that holds {home} is full.", "Free some space and run the same command again.")
    if isinstance(problem, OSError) and problem.errno is not None:
        return HomeError(f"{problem.filename or 'The system'}: {problem.strerror}.", "Fix this and retry.")
    return None


def _fail(problem: AcademyError) -> None:
    if "--json" in sys.argv:
        import orjson

        body = {"error": {"kind": type(problem).__name__, "message": problem.message, "remedy": problem.remedy}}
        sys.stdout.write(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n")
    sys.stderr.write(f"{problem}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
