"""Searches a better recipe for a dataset, around the professor's."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Annotated

from pydantic import Field

from academy.curriculum.dataset import Dataset, read_rows
from academy.errors import InputError
from academy.habitat.backends.base import TrainingEvent
from academy.habitat.backends.choice import create_backend
from academy.loop.choose_recipe import choose_recipe, preset_fields
from academy.loop.home import Home
from academy.loop.place import place
from academy.loop.place_order import place_order
from academy.loop.refuse_overlap import refuse_overlap
from academy.loop.run_trials import ADAPTERS, Search, run_trials
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.professor.search_space import MAX_TRIALS, TuningResult, refuse_few, refuse_fixed, space_around
from academy.records import Record
from academy.store.locks import exclusive_lock

log = logging.getLogger(__name__)
Trials = Annotated[int, Field(ge=1, le=MAX_TRIALS)]
Minutes = Annotated[float, Field(gt=0)]


class SearchOptions(Record):
    """Whether and how a recipe is searched before the training."""

    trials: Trials | None = None  # no search if None
    minutes: Minutes | None = None  # those of the settings if None

    def check(self, home: Home, recipe: RecipeOptions) -> None:
        """Raise InputError for options that contradict each other, before anything else happens."""
        if self.trials is None and self.minutes is not None:
            raise InputError("--tune-minutes needs a search.", "Add --tune N, the number of trials.")
        if self.trials is not None:
            refuse_empty_search(home, recipe)


def refuse_empty_search(home: Home, recipe: RecipeOptions) -> None:
    """Raise InputError if the options leave a search nothing to search."""
    if recipe.init_adapter:
        raise InputError(
            "A search tries other ranks, but an adapter to start from has a fixed rank.",
            "Omit --tune or --init-adapter.",
        )
    refuse_fixed(_fixed_names(home, recipe))


def plan_search(home: Home, dataset: Dataset, recipe: RecipeOptions, trials: int, form: str = "") -> Search:
    """The search around the professor's recipe for a dataset. Raises InputError if nothing is left to search."""
    refuse_empty_search(home, recipe)
    order = place_order(home, dataset, choose_recipe(home, dataset, recipe), form)
    return Search(order, space_around(order.recipe, _fixed_names(home, recipe)), trials)


def tune(home: Home, dataset: Dataset, search: Search, minutes: float | None = None) -> TuningResult:
    """Run a search, or return the result of an earlier one; within `minutes`, or those of the settings.

    Raises InputError if the search cannot run, HomeError if another one runs in this home, ExaminationError as
    `train` does, and TrainingError for a failure that does not lie in a trial's recipe or if no trial has a loss.
    """
    refuse_overlap(home, dataset)
    minutes = minutes or home.settings.tune_minutes
    requests = [row["messages"][-2].get("content", "") for row in read_rows(dataset.train_file)]
    refuse_few(search.space, requests, search.trials)
    with exclusive_lock(home.settings.folder("locks") / "tune", "Another search for a recipe is running in this home."):
        if result := search.earlier_result(minutes):
            log.info("this search ran before: %s", result.sentence)
            return result

        def train_trial(recipe: Recipe) -> Generator[TrainingEvent, None, None]:
            # a trial has no fallback steps: running out of memory would count against its recipe
            placement = place(home, recipe, dataset.longest, cautious=True)
            placement.require()
            order = search.order.model_copy(
                update={
                    "recipe": placement.recipe, "plan": placement.plan, "changes": placement.changes,
                    "runs": search.folder, "adapters": search.folder / ADAPTERS,
                }
            )  # fmt: skip
            yield from create_backend(home.settings, placement.route).train(order)

        log.info("searching a recipe: %d trials, at most %g minutes", search.trials, minutes)
        result = run_trials(search, train_trial, dataset.digest, minutes)
        log.info("%s", result.sentence)
        return result


def _fixed_names(home: Home, recipe: RecipeOptions) -> list[str]:
    """Names of what a search does not change: also the rank, if alpha is set, since a search sets alpha to twice it."""
    preset = {name for name, value in preset_fields(home, recipe).items() if value is not None}
    names = preset | recipe.fields.keys()
    return sorted(names | ({"rank"} if "alpha" in names else set()))
