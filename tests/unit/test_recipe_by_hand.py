"""Fields of a recipe by hand, from a file or a form: over the professor's and the settings', under single options."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.errors import InputError
from academy.loop import stages
from academy.loop.home import Home
from academy.loop.training import Overrides, choose_for, complete, search_for
from academy.professor.recipe import Recipe
from academy.settings import Settings


@pytest.fixture
def work(tmp_path: Path) -> Home:
    """A home of its own, with the seed model and a rank by the settings."""
    return Home(Settings().model_copy(update={"home": tmp_path, "lora_rank": 8}))


def test_fields_by_hand_win_over_settings_and_professor_and_options_over_them(work: Home) -> None:
    usual = choose_for(work, 64, Overrides())
    assert (usual.rank, usual.alpha, usual.epochs, usual.batch_size) == (8, 16, 6, 8)
    given = {"rank": 32, "epochs": 2, "batch_size": 4, "patience": 3, "dev_share": 0.1, "use_dora": True, "seed": 7}
    found = choose_for(work, 64, Overrides(recipe=given, epochs=5))
    assert found == usual.model_copy(update=given | {"epochs": 5, "alpha": 64})
    assert choose_for(work, 64, Overrides(recipe={"rank": 32, "alpha": 32})).alpha == 32
    assert choose_for(work, 64, Overrides(recipe={"rank": 32, "alpha": 32}, rank=16)).rank == 16


def test_what_makes_no_recipe_together_is_refused(work: Home) -> None:
    with pytest.raises(InputError, match="patience needs a dev_share above 0"):
        choose_for(work, 64, Overrides(recipe={"patience": 3}))
    with pytest.raises(InputError, match=r"max_length is 32768 in the recipe, and the base model reads \d+ tokens"):
        choose_for(work, 64, Overrides(recipe={"max_length": 32768}))
    with pytest.raises(InputError, match="Leave out --tune or --init-adapter"):
        search_for(work, stages.curate(work, []), Overrides(recipe={"init_adapter": "a" * 64}), 3)
    with pytest.raises(InputError, match=r"There is no version a{64} of this base model"):
        choose_for(work, 64, Overrides(recipe={"init_adapter": "a" * 64}))


def test_a_form_with_some_fields_keeps_the_rest_of_the_professors(work: Home) -> None:
    dataset = stages.curate(work, [])
    usual = complete(work, dataset, {})
    assert usual == choose_for(work, 0, Overrides(), dataset)
    assert usual != Recipe()
    assert complete(work, dataset, {"epochs": 2}) == usual.model_copy(update={"epochs": 2})
    with pytest.raises(InputError, match=r"epochs is 21; it must be a whole number"):
        complete(work, dataset, {"epochs": 21})


def test_a_whole_recipe_stays_exactly_that(work: Home) -> None:
    """An order's, sent to a worker: neither its settings nor the professor or an adapter's shape change it."""
    ordered = Recipe(rank=64, alpha=1, max_length=32768, init_adapter="a" * 64)
    assert complete(work, stages.curate(work, []), ordered.model_dump(mode="json")) == ordered


def test_a_search_leaves_alone_what_is_given(work: Home) -> None:
    given = {"use_rslora": True, "dropout": 0.2, "alpha": 24, "patience": 2, "dev_share": 0.1}
    work.settings = work.settings.model_copy(update={"lora_rank": None})
    space = search_for(work, stages.curate(work, []), Overrides(recipe=given), 3).space
    assert (space.use_rslora, space.dropouts, space.ranks) == ((True,), (0.2,), (16,))
    assert space.values(space.start).keys() == {"learning_rate", "epochs"}
    found = space.recipe({"learning_rate": 1e-3, "epochs": 3})
    assert found.model_dump(include={*given}) == given
