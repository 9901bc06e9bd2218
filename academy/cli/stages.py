"""`academy curate | decide | train`: single stages by hand."""

from __future__ import annotations

from pathlib import Path

from academy.cli.output import emit, listen, say, table
from academy.curriculum.dataset import read_dataset
from academy.curriculum.sharding import on_ray
from academy.errors import InputError
from academy.loop import stages, training
from academy.loop.examine import clashes
from academy.loop.home import Home
from academy.loop.placement import place
from academy.loop.training import Overrides
from academy.professor.decision import SMALLEST_DATASET
from academy.professor.search_space import TuningResult


def curate(
    repos: list[Path], limit: int | None, form: str, workers: int, base_model: str | None, *, as_json: bool
) -> None:
    """Make the dataset, and write it in another format too if one is named."""
    home = Home.open(base_model)
    read = stages.repositories(repos, home.settings.workspace_root)
    if workers > 1:
        with on_ray(home.settings.ray_address or None, workers) as run_there:
            found = stages.curate(home, read, limit, workers, run_there)
    else:
        found = stages.curate(home, read, limit)
    file = found.export(form) if form else found.train_file
    if as_json:
        emit(found.model_dump(mode="json") | {"file": str(file)})
        return
    say(f"Written to {file}.")
    table(f"Dataset {found.digest[:12]} in {found.path}", ("what", "how many"), list(found.funnel.items()))
    for one in clashes(home, [(pair.first, pair.second) for pair in found.contradictions[:10]]):
        say(f"contradiction: '{one.request}': '{one.answer}', and {one.batch} teaches '{one.taught}'")


def decide(base_model: str | None, *, force: bool, as_json: bool) -> None:
    """The decision on counts alone, as `evolve` takes it before it starts anything."""
    home = Home.open(base_model)
    found = stages.decide(home, force=force)
    # the dataset is not made yet, so the longest examples that a recipe allows are reckoned with
    placement = place(home, training.choose_for(home, home.base.context, Overrides())) if found.train else None
    if as_json:
        route = placement.route.model_dump(mode="json") if placement else None
        emit({"decision": {**found.model_dump(mode="json"), "because": found.because}, "route": route})
        return
    say("Training pays now." if found.train else "No training now.")
    for reason in found.reasons:
        say(f"  {'yes' if reason.met else 'no '}  {reason.sentence}")
    if placement and placement.route.place:
        say(f"At most, it would train on {placement.sentence}.")
    elif placement and placement.route.refusal:
        say(f"But {placement.expected}.")
    elif placement:
        say(f"With the longest examples it would fit {placement.route.sentence}.")


def train(
    digest: str | None,
    repos: list[Path],
    form: str,
    base_model: str | None,
    overrides: Overrides,
    tune: int | None = None,
    tune_minutes: float | None = None,
    *,
    as_json: bool,
) -> None:
    """Train on a dataset without asking whether it pays; with `tune`, by a recipe that is searched first."""
    listen()
    home = Home.open(base_model)
    refuse_tuning(home, overrides, tune, tune_minutes)
    if digest:
        dataset = read_dataset(home.datasets, digest)
    else:
        dataset = stages.curate(home, stages.repositories(repos, home.settings.workspace_root))
    if dataset.examples < SMALLEST_DATASET:
        raise InputError(
            f"{dataset.examples} training examples are too few; {SMALLEST_DATASET} are needed.", "Import more lessons."
        )
    tuned = None
    if tune:
        tuned = training.tune(home, dataset, training.search_for(home, dataset, overrides, tune, form), tune_minutes)
    recipe = tuned.recipe if tuned else training.choose(home, dataset, overrides)
    order = training.place_order(home, dataset, recipe, form)
    version = training.train(home, order, dataset, {"academy.decision": "by hand"}, tuned=tuned)
    if as_json:
        emit(
            {
                "adapter": {"digest": version.adapter, "version": version.version, "parent": version.parent},
                "dataset": dataset.model_dump(mode="json", include={"digest", "path", "examples", "holdout"}),
                "recipe": order.recipe.model_dump(mode="json"),
                "tuning": tuned.model_dump(mode="json") if tuned else None,
            }
        )
    else:
        if tuned:
            show_trials(tuned)
        say(f"{version.name} is registered. Examine it: academy examine {version.name}")


def refuse_tuning(home: Home, overrides: Overrides, tune: int | None, tune_minutes: float | None) -> None:
    """Raises InputError for options of a search that make none."""
    if tune is None and tune_minutes is not None:
        raise InputError("--tune-minutes belongs to a search.", "Add --tune N, the number of trials.")
    if tune is not None:
        training.refuse_tuning(home, overrides)


def show_trials(found: TuningResult) -> None:
    """A search as a table, and what it found."""
    rows = [
        (
            trial.number + 1, trial.words, f"{trial.loss:.4f}" if trial.loss is not None else "-",
            f"{trial.seconds:.0f}", f"{trial.state}: {trial.because}" if trial.because else trial.state,
        )
        for trial in found.trials
    ]  # fmt: skip
    table("Trials", ("trial", "recipe", "dev loss", "s", "how it ended"), rows)
    say(f"Found in {found.sentence}.")
