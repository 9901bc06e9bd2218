"""`academy curate | decide | train`: single stages by hand."""

from __future__ import annotations

from pathlib import Path

from academy import stages
from academy.commands.output import emit, listen, say, table
from academy.curriculum.dataset import read_dataset
from academy.curriculum.sharding import on_ray
from academy.errors import InputError
from academy.examining import clashes
from academy.placing import place
from academy.professor import SMALLEST_DATASET
from academy.stages import Overrides
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
    placement = place(work, stages.choose_for(work, work.base.context, Overrides())) if found.train else None
    if as_json:
        route = placement.route.model_dump(mode="json") if placement else None
        emit({"decision": {**found.model_dump(mode="json"), "because": found.because}, "route": route})
        return
    say("Training pays now." if found.train else "No training now.")
    for reason in found.reasons:
        say(f"  {'yes' if reason.met else 'no '}  {reason.sentence}")
    if placement and placement.route.place:
        say(f"At most, it would train on {placement.sentence}.")
    elif placement:
        say(f"With the longest examples it would fit {placement.route.sentence}.")


def train(
    digest: str | None,
    repos: list[Path],
    form: str,
    base_model: str | None,
    overrides: Overrides,
    *,
    as_json: bool,
) -> None:
    """Train on a dataset without asking whether it pays."""
    listen()
    work = Workplace.open(base_model)
    if digest:
        dataset = read_dataset(work.datasets, digest)
    else:
        dataset = stages.curate(work, stages.repositories(repos, work.settings.workspace_root))
    if dataset.examples < SMALLEST_DATASET:
        raise InputError(
            f"{dataset.examples} training examples are too few; {SMALLEST_DATASET} are needed.", "Import more lessons."
        )
    order = stages.place_order(work, dataset, stages.choose(work, dataset, overrides), form)
    version = stages.train(work, order, dataset, {"academy.decision": "by hand"})
    if as_json:
        emit(
            {
                "adapter": {"digest": version.adapter, "version": version.version, "parent": version.parent},
                "dataset": dataset.model_dump(mode="json", include={"digest", "path", "examples", "holdout"}),
                "recipe": order.recipe.model_dump(mode="json"),
            }
        )
    else:
        say(f"{version.name} is registered. Examine it: academy examine {version.name}")
