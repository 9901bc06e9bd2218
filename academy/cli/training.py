"""`academy curate | decide | train`: single stages of the loop by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home
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
from academy.cli.output import emit, listen, say, table

if TYPE_CHECKING:
    from academy.professor.search_space import TuningResult

app = typer.Typer(rich_markup_mode=None)

Form = Annotated[
    str, typer.Option("--format", help="Write the dataset also as alpaca, sharegpt, chatml or openai.")
]  # fmt: skip


@app.command()
def curate(
    repo: Repositories = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of lessons, mostly the newest.")] = None,
    form: Form = "",
    tags: Tags = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of Ray workers; more than 1 needs the extra `ray`.")] = 1,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Make the dataset and show its funnel, without training."""
    from academy.loop.curate_by_hand import curate_by_hand
    from academy.loop.datasets import contradictions
    from academy.loop.explain_contradictions import count_in_words
    from academy.loop.tags import read_tags

    home = open_home(base_model)
    dataset = curate_by_hand(home, repo or [], limit, workers, form, read_tags(tags or ()))
    file = dataset.export(form) if form else dataset.train_file
    if json:
        emit(dataset.model_dump(mode="json") | {"file": str(file)})
        return
    say(f"Written to {file}.")
    table(f"Dataset {dataset.digest[:12]} in {dataset.path}", ("step", "examples"), list(dataset.funnel.items()))
    for contradiction in contradictions(home, dataset):
        say(f"Contradiction: {contradiction.sentence}")
    if dataset.contradictions:
        say(count_in_words(len(dataset.contradictions)))


@app.command()
def decide(
    force: Annotated[bool, typer.Option("--force", help="Decide as `evolve --force` does.")] = False,
    tags: Tags = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Show whether a training is due, and why."""
    from academy.loop.decide import preview_decision
    from academy.loop.summaries import DecisionSummary
    from academy.loop.tags import read_tags

    decision, placement = preview_decision(open_home(base_model), force=force, tags=read_tags(tags or ()))
    if json:
        route = placement.route.model_dump(mode="json") if placement else None
        emit({"decision": DecisionSummary.of(decision).model_dump(mode="json"), "route": route})
        return
    say("Training pays now." if decision.train else "Training does not pay now.")
    for reason in decision.reasons:
        say(f"  {'yes' if reason.met else 'no '}  {reason.sentence}")
    if placement and placement.route.place:
        say(f"With the longest possible examples it would train on {placement.sentence}.")
    elif placement and placement.route.refusal:
        say(f"But {placement.expected}.")
    elif placement:
        say(f"With the longest possible examples it would fit {placement.route.sentence}.")


@app.command()
def train(
    dataset: Annotated[
        str | None, typer.Option(help="A dataset's digest; without it a new dataset is curated.")
    ] = None,
    repo: Repositories = None,
    form: Form = "",
    tags: Tags = None,
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
    from academy.loop.recipe_file import recipe_options
    from academy.loop.tags import read_tags
    from academy.loop.train_by_hand import TrainingRequest, train_by_hand
    from academy.loop.tune import SearchOptions

    options = recipe_options(
        recipe, rank=rank, learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, init_adapter=init_adapter
    )
    request = TrainingRequest(
        dataset=dataset, repositories=tuple(repo or ()), tags=read_tags(tags or ()), form=form, recipe=options,
        search=SearchOptions(trials=tune, minutes=tune_minutes),
    )  # fmt: skip
    listen()
    result = train_by_hand(open_home(base_model), request)
    if json:
        emit(result.model_dump(mode="json"))
        return
    if result.tuning:
        print_trials(result.tuning)
    version = f"v{result.adapter.version}"
    say(f"{version} is registered. Examine it: academy examine {version}")


def print_trials(tuning: TuningResult) -> None:
    """Print a search as a table, and its result."""
    rows = [
        (
            trial.number + 1, trial.words, f"{trial.loss:.4f}" if trial.loss is not None else "-",
            f"{trial.seconds:.0f}", f"{trial.state}: {trial.because}" if trial.because else trial.state,
        )
        for trial in tuning.trials
    ]  # fmt: skip
    table("Trials", ("trial", "recipe", "dev loss", "s", "how it ended"), rows)
    say(f"Result of the search: {tuning.sentence}.")
