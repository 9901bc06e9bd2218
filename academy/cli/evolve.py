"""`academy evolve`: the whole loop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.options import (
    Base,
    BatchSize,
    Epochs,
    InitAdapter,
    Json,
    LearningRate,
    Rank,
    RecipeFile,
    Repositories,
    Tags,
    Tune,
    TuneMinutes,
)
from academy.cli.output import emit, listen, say, table, version_name
from academy.cli.training import print_trials

if TYPE_CHECKING:
    from academy.loop.dry_run import DryRun
    from academy.loop.evolve import EvolutionRequest, EvolutionResult
    from academy.loop.home import Home

app = typer.Typer(rich_markup_mode=None)

SHOWN_CONTRADICTIONS = 3


@app.command()
def evolve(
    lessons: Annotated[
        list[Path] | None, typer.Option("--lessons", help="A file of lessons: JSONL, or a JSON array; repeatable.")
    ] = None,
    repo: Repositories = None,
    tasks: Annotated[
        list[Path] | None, typer.Option("--tasks", help="A task history: JSONL, or a JSON array; repeatable.")
    ] = None,
    base_model: Base = None,
    force: Annotated[bool, typer.Option("--force", help="Train even if the conditions are not met.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Import and curate, then only show what would be trained.")
    ] = False,
    rank: Rank = None,
    learning_rate: LearningRate = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    init_adapter: InitAdapter = None,
    recipe: RecipeFile = None,
    tags: Tags = None,
    tune: Tune = None,
    tune_minutes: TuneMinutes = None,
    json: Json = False,
) -> None:
    """Run the whole loop: experience, dataset, decision, training, examination, promotion."""
    from academy.loop.dry_run import dry_run as preview
    from academy.loop.evolve import EvolutionRequest
    from academy.loop.evolve import evolve as run_loop
    from academy.loop.recipe_file import recipe_options
    from academy.loop.tags import read_tags
    from academy.operations.homes import open_home  # the flow in this process uses the same one
    from academy.operations.runs import run_evolution

    start = time.monotonic()
    options = recipe_options(
        recipe, rank=rank, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, init_adapter=init_adapter
    )
    request = EvolutionRequest(
        lessons=tuple(lessons or ()), tasks=tuple(tasks or ()), repositories_read=tuple(repo or ()),
        base_model=base_model, force=force, recipe=options, tags=read_tags(tags or ()), tune=tune,
        tune_minutes=tune_minutes,
    )  # fmt: skip
    listen()
    home = open_home(base_model)
    if dry_run:
        trial = preview(home, request)
        emit(trial.model_dump(mode="json")) if json else _print_dry_run(trial, request)
        return
    result = run_loop(home, request, run_evolution)
    if json:
        emit(result.as_json())
    else:
        _print_result(home, result, time.monotonic() - start)


def _print_dry_run(trial: DryRun, request: EvolutionRequest) -> None:
    from academy.loop.explain_contradictions import count_in_words

    dataset, recipe = trial.dataset, trial.recipe
    if dataset.contradictions:
        say(count_in_words(dataset.contradictions))
    say(f"{'Would train' if trial.decision.train else 'Would not train'}: {trial.decision.because}")
    if trial.tuning:
        say(f"The recipe was chosen by an earlier search: {trial.tuning.sentence}.")
    elif request.tune:
        say(f"The recipe would be searched first, in {request.tune} trials. The search starts from the recipe below.")
    if fields := request.recipe.fields:
        say(f"Recipe options: {', '.join(f'{name} {value}' for name, value in fields.items())}.")
    say(f"{dataset.examples:,} examples ({dataset.tokens:,} tokens) x {recipe.epochs} epochs, rank {recipe.rank}.")
    say(
        f"About {trial.seconds:,.0f} s of training on this machine, at {trial.rate:,.0f} tokens/s as in the last one."
        if trial.seconds
        else "No training was measured in this home yet, so its time cannot be estimated."
    )


def _print_result(home: Home, result: EvolutionResult, seconds: float) -> None:
    from academy.loop.explain_contradictions import count_in_words
    from academy.loop.status import status_of

    adapter, dataset, verdict = result.adapter, result.dataset, result.verdict
    if dataset and dataset.contradictions:
        say(count_in_words(dataset.contradictions))
    if adapter is None or dataset is None or verdict is None:
        say(f"Not training: {result.decision.because}")
        return
    rows = [
        ("dataset", f"{dataset.digest[:12]}: {dataset.examples:,} examples, {dataset.holdout:,} held out"),
        ("decision", result.decision.because),
        ("adapter", f"v{adapter.version} {adapter.digest[:12]}, parent {version_name(adapter.parent)}"),
        ("verdict", f"{verdict.outcome}: {verdict.because}"),
    ]
    rows += [("", text.sentence) for text in result.contradictions[:SHOWN_CONTRADICTIONS]]
    table("Result", ("stage", "result"), rows)
    if result.tuning:
        print_trials(result.tuning)
    table("Seconds", ("stage", "s"), [*result.stages.items(), ("all", f"{seconds:.1f}")])
    if result.waiting:
        say(f"v{adapter.version} waits for approval: academy approve v{adapter.version}")
    say(f'Champion: {version_name(status_of(home).champion)}. Ask it: academy ask "..."')
