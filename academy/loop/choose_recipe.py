"""Chooses the recipe of a training: the professor's, with what the settings and a person set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from academy.adapters.adapter import Adapter
from academy.curriculum.dataset import Dataset
from academy.errors import InputError
from academy.genealogy.versions import CHAMPION, Version
from academy.lifecycle.gate import admit_adapter
from academy.loop.home import Home
from academy.loop.place import first_device
from academy.professor import recipe as recipes
from academy.professor.recipe import Recipe, validate_recipe
from academy.professor.recipe_options import RecipeOptions
from academy.store.ledger import BASE

log = logging.getLogger(__name__)


def choose_recipe(home: Home, dataset: Dataset, options: RecipeOptions) -> Recipe:
    """The recipe for a dataset on this machine. Raises InputError for options that do not fit together."""
    return choose_recipe_for(home, dataset.longest, options, dataset)


def choose_recipe_for(home: Home, longest: int, options: RecipeOptions, dataset: Dataset | None = None) -> Recipe:
    """The recipe for examples of at most `longest` tokens on this machine; `dataset` if there is one already."""
    first = first_adapter(home, options.init_adapter)
    fields = options.fields
    if fields.get("max_length", 0) > home.base.context:
        raise InputError(
            f"max_length is {fields['max_length']}, but the base model reads at most {home.base.context} tokens.",
            "Omit it, or use a smaller value.",
        )
    preset = preset_fields(home, options)
    recipe = recipes.choose_recipe(
        parameters=home.base.parameters,
        longest=longest,
        context=home.base.context,
        examples=dataset.examples if dataset else None,
        tokens=dataset.tokens if dataset else None,
        gpu=first_device(home) == "cuda",
        pack=home.settings.packing and fields.get("packing", True),
        batch_size=options.batch_size,
        **preset,
    )
    if first is not None:
        recipes.refuse_other_shape(first.manifest.recipe, fields | {"rank": preset["rank"]})
        recipe = recipes.continue_adapter(recipe, first.manifest.recipe, first.digest)
    return validate_recipe(recipe.model_dump() | fields) if fields else recipe


def complete_recipe(home: Home, dataset: Dataset, options: RecipeOptions) -> Recipe:
    """Options that set every field, as they are: a recipe that was ordered elsewhere. Else `choose_recipe`."""
    fields = options.model_dump(exclude_none=True)
    if fields.keys() >= Recipe.model_fields.keys():  # no setting of this machine changes it
        return validate_recipe(fields)
    return choose_recipe(home, dataset, options)


def first_adapter(home: Home, name: str | None) -> Adapter | None:
    """The adapter that training starts from: a version's, or the champion's. None for the base model.

    Raises InputError if there is no such version or it is tainted, AdapterError if its adapter is refused.
    """
    if not name or name == BASE:
        return None
    champion = home.ledger.champion()
    if name == CHAMPION and champion.version == BASE:
        log.info("the champion is the base model: training starts from it")
        return None
    version = home.versions.get(champion.version if name == CHAMPION else name)
    refuse_tainted([version])
    return admit_adapter(home.gate, home.use_adapter(version.adapter), version).adapter


def refuse_tainted(versions: Sequence[Version]) -> None:
    """Raise InputError for a version that no training may start from, because lessons behind it were deleted."""
    for version in versions:
        if version.tainted:
            raise InputError(
                f"{version.name} was trained on lessons that have since been deleted, "
                "so a new training cannot start from it.",
                "Train from the base model, or from another version.",
            )


def preset_fields(home: Home, options: RecipeOptions) -> dict[str, Any]:
    """Rank, learning rate and epochs by options or settings; None for each that the professor chooses."""
    settings = home.settings
    return {
        "rank": options.rank or settings.lora_rank,
        "learning_rate": options.learning_rate or settings.learning_rate,
        "epochs": options.epochs or settings.num_epochs,
    }
