"""`academy curate | decide | train`: single stages by hand."""

from __future__ import annotations

from pathlib import Path

from academy import stages, training
from academy.commands.output import emit, listen, say, table
from academy.curriculum.dataset import read_dataset
from academy.curriculum.sharding import on_ray
from academy.errors import InputError
from academy.examining import clashes
from academy.placing import place
from academy.professor import SMALLEST_DATASET
from academy.training import Overrides
from academy.trials import Tuned
from academy.workplace import Workplace


def curate(
    repos: list[Path], limit: int | None, form: str, workers: int, base_model: str | None, *, as_json: bool
) -> None:
    """Make the dataset, and write it in another format too if one is named."""
    work = Workplace.open(base_model)
    read = stages.repositories(repos, work.settings.workspace_root)
    if workers > 1:
        with on_ray(work.settings.ray_address or None, workers) as run_there:
            found = stages.curate(work, read, limit, workers, run_there)
    else:
        found = stages.curate(work, read, limit)
    file = found.export(form) if form else found.train_file
    if as_json:
        emit(found.model_dump(mode="json") | {"file": str(file)})
        return
    say(f"Written to {file}.")
    table(f"Dataset {found.digest[:12]} in {found.path}", ("what", "how many"), list(found.funnel.items()))
    for one in clashes(work, [(pair.first, pair.second) for pair in found.contradictions[:10]]):
        say(f"contradiction: '{one.request}': '{one.answer}', and {one.batch} teaches '{one.taught}'")


def decide(base_model: str | None, *, force: bool, as_json: bool) -> None:
    """The decision on counts alone, as `evolve` takes it before it starts anything."""
    work = Workplace.open(base_model)
    found = stages.decide(work, force=force)
    # the dataset is not made yet, so the longest examples that a recipe allows are reckoned with
    placement = place(work, training.choose_for(work, work.base.context, Overrides())) if found.train else None
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
    work = Workplace.open(base_model)
    refuse_tuning(work, overrides, tune, tune_minutes)
    if digest:
        dataset = read_dataset(work.datasets, digest)
    else:
        dataset = stages.curate(work, stages.repositories(repos, work.settings.workspace_root))
    if dataset.examples < SMALLEST_DATASET:
        raise InputError(
            f"{dataset.examples} training examples are too few; {SMALLEST_DATASET} are needed.", "Import more lessons."
        )
    tuned = None
    if tune:
        tuned = training.tune(work, dataset, training.search_for(work, dataset, overrides, tune, form), tune_minutes)
    recipe = tuned.recipe if tuned else training.choose(work, dataset, overrides)
    order = training.place_order(work, dataset, recipe, form)
    version = training.train(work, order, dataset, {"academy.decision": "by hand"}, tuned=tuned)
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


def refuse_tuning(work: Workplace, overrides: Overrides, tune: int | None, tune_minutes: float | None) -> None:
    """Raises InputError for options of a search that make none."""
    if tune is None and tune_minutes is not None:
        raise InputError("--tune-minutes belongs to a search.", "Add --tune N, the number of trials.")
    if tune is not None:
        training.refuse_tuning(work, overrides)


def show_trials(found: Tuned) -> None:
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
