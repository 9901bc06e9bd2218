"""Predicts the memory of a training, and where it would run."""

from __future__ import annotations

from academy.habitat.placement import Placement
from academy.loop.choose_recipe import choose_recipe_for
from academy.loop.home import Home
from academy.loop.place import place
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.records import Record


class MemoryEstimate(Record):
    """The recipe, the tokens of its longest example, and where such a training would run."""

    recipe: Recipe
    tokens: int
    placement: Placement


def estimate_memory(home: Home, length: int | None, options: RecipeOptions) -> MemoryEstimate:
    """Predict the peak on each kind of device; without a length, for the longest example that the recipe allows."""
    recipe = choose_recipe_for(home, length or home.base.context, options)
    placement = place(home, recipe, length)
    tokens = min(recipe.max_length, length or recipe.max_length)
    return MemoryEstimate(recipe=recipe, tokens=tokens, placement=placement)
