"""A training that begins with the champion's adapter, in the evolved home."""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import pytest

from academy.curriculum.dataset import read_dataset
from academy.errors import InputError, TrainingError
from academy.genealogy.versions import TAINT, TAINTED
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Plan
from academy.habitat.run_folder import EVENTS, read_events
from academy.habitat.trainer.model import Library, load
from academy.loop.choose_recipe import choose_recipe
from academy.loop.home import Home
from academy.loop.place_order import place_order
from academy.loop.train import train
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from tests.conftest import Evolved
from tests.homes import RealHome
from tests.orders import order_of

SHORT = ("--epochs", "1", "--batch-size", "16", "--learning-rate", "1e-4", "--json")


def losses(home: RealHome, order: str) -> list[float]:
    """Of a run's steps."""
    (folder,) = (home.path / "runs").glob(f"{order[:16]}*")
    return [event.loss for event in read_events(folder / EVENTS) if event.loss is not None]


def test_a_training_from_the_champion_starts_at_its_loss(evolved: Evolved, second_home: RealHome) -> None:
    first = evolved.first.json["adapter"]
    refused = second_home.run("train", "--init-adapter", "champion", "--rank", "8", *SHORT)
    assert refused.code == 2
    assert "has rank 16, but rank 8 was requested" in refused.err
    for wrong, said in (
        ("v9", "This base model has no version v9"),
        ("unknown", "This base model has no version unknown"),
    ):
        assert said in second_home.run("train", "--init-adapter", wrong, *SHORT).err
    assert "Omit --tune or --init-adapter" in second_home.run(
        "train", "--init-adapter", "champion", "--tune", "4", "--json"
    ).err  # fmt: skip

    done = second_home.run("train", "--init-adapter", "champion", *SHORT)
    assert done.code == 0, done.err
    recipe = done.json["recipe"]
    assert (recipe["init_adapter"], recipe["rank"]) == (first["digest"], 16)
    made = {one["version"]: one for one in second_home.run("models", "--json").json}
    assert made["2"]["init_adapter"] == first["digest"]
    assert made["1"]["init_adapter"] == ""
    before, after = losses(second_home, made["1"]["order"]), losses(second_home, made["2"]["order"])
    assert before[0] > 2
    assert after[0] < 0.2, "its first step is where the champion's last one was"
    assert made["2"]["adapter"] != first["digest"]


def test_a_tainted_version_cannot_be_a_start(evolved: Evolved, second_home: RealHome) -> None:
    lesson = second_home.run("lessons", "list", "--limit", "1", "--json").json["lessons"][0]["id"]
    assert second_home.run("lessons", "forget", lesson, "--because", "asked for").code == 0
    refused = second_home.run("train", "--init-adapter", "v1", *SHORT)
    assert refused.code == 2
    assert "v1 was trained on lessons that have since been deleted" in refused.err


@pytest.mark.campaign
def test_a_version_is_tainted_by_what_is_forgotten_during_its_training(
    second_home: RealHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in second_home.environment().items():
        monkeypatch.setenv(name, value)
    home = Home.open(home=second_home.path)
    dataset = read_dataset(home.datasets, home.versions.get("1").dataset)
    fixed = RecipeOptions(epochs=1, batch_size=16, learning_rate=1e-4, init_adapter="v1")
    order = place_order(home, dataset, choose_recipe(home, dataset, fixed))
    made = train(home, order, dataset, {}, meanwhile=lambda: home.versions.set_tags("1", {TAINT: TAINTED}))
    assert made.tainted
    assert made.init_adapter == home.versions.get("1").adapter
    with pytest.raises(InputError, match="since been deleted"):
        train(home, order, dataset, {})  # a recipe that waited, or came from elsewhere


def test_a_start_adapter_that_is_another_one_is_refused(evolved: Evolved, tmp_path: Path) -> None:
    digest = evolved.first.json["adapter"]["digest"]
    folder = Path(shutil.copytree(evolved.home.path / "adapters" / digest[:16], tmp_path / digest[:16]))
    file = tmp_path / "train.jsonl"
    file.write_bytes(orjson.dumps({"instruction": "a", "input": "", "output": "b"}) + b"\n")

    def ordered(**changes: object) -> TrainingOrder:
        recipe = Recipe.model_validate({"rank": 16, "alpha": 32, "init_adapter": digest} | changes)
        return order_of(tmp_path, file, recipe=recipe, init_adapter=folder)

    library = Library("trl", Plan(device="cpu"))
    model = load(ordered(dropout=0.1), library)
    assert model.peft_config["default"].lora_dropout == 0.1
    assert model.num_parameters(only_trainable=True) > 0
    assert ordered().digest != ordered(init_adapter="").digest, "it is another order"
    for changes, said in (({"rank": 8}, "but the order names"), ({"init_adapter": "0" * 64}, "but the order names")):
        with pytest.raises(TrainingError, match=said):
            load(ordered(**changes), library)
    (folder / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(TrainingError, match="cannot be used"):
        load(ordered(), library)
