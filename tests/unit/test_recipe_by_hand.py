"""Recipe options, from a file or a form: they win over the professor and the settings; single options over the file."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import orjson
import pytest

from academy.cli.options import BatchSize, Epochs, LearningRate, Rank
from academy.errors import InputError
from academy.loop.choose_recipe import choose_recipe_for, complete_recipe
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.loop.recipe_file import recipe_options
from academy.loop.tune import SearchOptions, plan_search
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with the seed model and a rank by the settings."""
    return Home(Settings().model_copy(update={"home": tmp_path, "lora_rank": 8}))


def test_options_have_the_fields_and_bounds_of_a_recipe() -> None:
    assert RecipeOptions.model_fields.keys() == Recipe.model_fields.keys()
    recipe, options = Recipe.model_json_schema()["properties"], RecipeOptions.model_json_schema()["properties"]
    for name in recipe.keys() - {"init_adapter"}:
        bounds = {key: value for key, value in recipe[name].items() if key not in ("default", "title")}
        assert options[name]["anyOf"] == [bounds, {"type": "null"}], name
        assert options[name]["description"].endswith("."), name


def test_command_line_options_have_the_bounds_of_a_recipe() -> None:
    schema = Recipe.model_json_schema()["properties"]
    for name, option in (("rank", Rank), ("epochs", Epochs), ("batch_size", BatchSize)):
        declaration = get_args(option)[1]
        assert (declaration.min, declaration.max) == (schema[name]["minimum"], schema[name]["maximum"]), name
    assert get_args(LearningRate)[1].max == schema["learning_rate"]["maximum"]


def test_single_options_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_bytes(orjson.dumps({"rank": 32, "alpha": 32, "patience": 3, "dev_share": 0.1}))
    assert recipe_options(file, rank=16, epochs=None).fields == {
        "rank": 16, "alpha": 32, "patience": 3, "dev_share": 0.1,
    }  # fmt: skip
    assert recipe_options(None, init_adapter="v3").init_adapter == "v3"
    assert recipe_options(None) == RecipeOptions()
    file.write_text("{")
    with pytest.raises(InputError, match=r"recipe\.json is not valid JSON"):
        recipe_options(file)


def test_options_win_over_settings_and_professor(home: Home) -> None:
    usual = choose_recipe_for(home, 64, RecipeOptions())
    assert (usual.rank, usual.alpha, usual.epochs, usual.batch_size) == (8, 16, 6, 8)
    fields = {"rank": 32, "epochs": 5, "batch_size": 4, "patience": 3, "dev_share": 0.1, "use_dora": True, "seed": 7}
    recipe = choose_recipe_for(home, 64, RecipeOptions.model_validate(fields))
    assert recipe == usual.model_copy(update=fields | {"alpha": 64})
    assert choose_recipe_for(home, 64, RecipeOptions(rank=32, alpha=32)).alpha == 32
    assert choose_recipe_for(home, 64, RecipeOptions(rank=16, alpha=32)).rank == 16


def test_options_that_make_no_recipe_together_are_refused(home: Home) -> None:
    with pytest.raises(InputError, match="patience needs a dev_share above 0"):
        choose_recipe_for(home, 64, RecipeOptions(patience=3))
    with pytest.raises(InputError, match=r"max_length is 32768, but the base model reads at most \d+ tokens"):
        choose_recipe_for(home, 64, RecipeOptions(max_length=32768))
    with pytest.raises(InputError, match=r"This base model has no version a{64}"):
        choose_recipe_for(home, 64, RecipeOptions(init_adapter="a" * 64))


def test_search_options_that_contradict_are_refused(home: Home) -> None:
    with pytest.raises(InputError, match="Add --tune N"):
        SearchOptions(minutes=3).check(home, RecipeOptions())
    with pytest.raises(InputError, match="Omit --tune or --init-adapter"):
        SearchOptions(trials=3).check(home, RecipeOptions(init_adapter="v1"))
    with pytest.raises(InputError, match="nothing to search"):
        SearchOptions(trials=3).check(home, RecipeOptions(learning_rate=1e-3, epochs=2))  # the settings have the rank
    SearchOptions(trials=3, minutes=1).check(home, RecipeOptions(epochs=2))
    SearchOptions().check(home, RecipeOptions(init_adapter="v1"))


def test_a_form_with_some_fields_keeps_the_professors_other_fields(home: Home) -> None:
    dataset = curate(home, [])
    usual = complete_recipe(home, dataset, RecipeOptions())
    assert usual == choose_recipe_for(home, 0, RecipeOptions(), dataset)
    assert usual != Recipe()
    assert complete_recipe(home, dataset, RecipeOptions(epochs=2)) == usual.model_copy(update={"epochs": 2})


def test_a_whole_recipe_stays_as_it_was_ordered(home: Home) -> None:
    """An order sent to a worker: neither the worker's settings nor the professor nor an adapter's shape change it."""
    ordered = Recipe(rank=64, alpha=1, max_length=32768, init_adapter="a" * 64)
    for recipe in (ordered, Recipe()):
        sent = RecipeOptions.model_validate(recipe.model_dump(mode="json"))
        assert complete_recipe(home, curate(home, []), sent) == recipe


def test_a_search_does_not_change_the_fields_that_are_set(home: Home) -> None:
    fields = {"use_rslora": True, "dropout": 0.2, "alpha": 24, "patience": 2, "dev_share": 0.1}
    home.settings = home.settings.model_copy(update={"lora_rank": None})
    space = plan_search(home, curate(home, []), RecipeOptions.model_validate(fields), 3).space
    assert (space.use_rslora, space.dropouts, space.ranks) == ((True,), (0.2,), (16,))
    assert space.values(space.start).keys() == {"learning_rate", "epochs"}
    recipe = space.recipe({"learning_rate": 1e-3, "epochs": 3})
    assert recipe.model_dump(include={*fields}) == fields
