"""Trains because a person asks for it, without asking whether it pays."""

from __future__ import annotations

from pathlib import Path

from academy.curriculum.dataset import Dataset, check_format, read_dataset
from academy.errors import InputError
from academy.loop.choose_recipe import choose_recipe
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.loop.ingest import choose_repositories
from academy.loop.place_order import place_order
from academy.loop.summaries import AdapterSummary, DatasetSummary
from academy.loop.train import require_enough_examples, train
from academy.loop.tune import SearchOptions, plan_search, tune
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.professor.search_space import TuningResult
from academy.records import Record

BY_HAND = "by hand"
"""The decision of such a training, for its MLflow run."""


class TrainingRequest(Record):
    """What to train on and how. Without a dataset's digest, the present lessons and repositories are curated."""

    dataset: str | None = None
    repositories: tuple[Path, ...] = ()
    tags: tuple[str, ...] = ()  # of the lessons that are curated; empty: all
    form: str = ""  # another format of the same lines
    recipe: RecipeOptions = RecipeOptions()
    search: SearchOptions = SearchOptions()


class TrainingResult(Record):
    """What a training by hand made."""

    adapter: AdapterSummary
    dataset: DatasetSummary
    recipe: Recipe
    tuning: TuningResult | None


def train_by_hand(home: Home, request: TrainingRequest) -> TrainingResult:
    """Train on a dataset and register the adapter as a version; with a search, by the recipe that it finds.

    Raises InputError for contradicting options and for a dataset that is too small.
    """
    home.settings.require_enabled()
    request.search.check(home, request.recipe)
    check_format(request.form)
    dataset = _dataset(home, request)
    require_enough_examples(dataset)
    tuning = None
    if request.search.trials:
        search = plan_search(home, dataset, request.recipe, request.search.trials, request.form)
        tuning = tune(home, dataset, search, request.search.minutes)
    recipe = tuning.recipe if tuning else choose_recipe(home, dataset, request.recipe)
    order = place_order(home, dataset, recipe, request.form)
    version = train(home, order, dataset, {"academy.decision": BY_HAND}, tuning=tuning)
    return TrainingResult(
        adapter=AdapterSummary.of(version), dataset=DatasetSummary.of(dataset), recipe=recipe, tuning=tuning
    )  # fmt: skip


def _dataset(home: Home, request: TrainingRequest) -> Dataset:
    if request.dataset:
        if request.tags:
            raise InputError("A dataset that exists cannot be restricted to tags.", "Omit --dataset or --tags.")
        return read_dataset(home.datasets, request.dataset)
    repositories = choose_repositories(request.repositories, home.settings.workspace_root)
    return curate(home, repositories, tags=request.tags)
