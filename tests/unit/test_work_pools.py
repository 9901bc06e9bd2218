"""A training that a work pool's worker carries out is the one that was ordered, or it is refused. No server here."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from academy.curriculum.dataset import Example
from academy.errors import InputError, TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Plan
from academy.habitat.placement import Placement
from academy.habitat.routing import Refusal, Route
from academy.loop import decide as deciding
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.loop.train_dataset import OrderDigests, RegisteredAdapter
from academy.models.base_model import SEED_FOLDER, BaseModel, resolve
from academy.professor.recipe import Recipe
from academy.professor.recipe_options import RecipeOptions
from academy.store.files import digest_of_file
from tests.registry import House


def order_of(base: BaseModel, folder: Path, recipe: Recipe | None = None) -> TrainingOrder:
    file = folder / "train.jsonl"
    file.write_text("{}\n")
    return TrainingOrder(
        base=base, dataset="0" * 64, train_file=file, train_digest=digest_of_file(file), recipe=recipe or Recipe(),
        runs=folder / "runs", adapters=folder / "adapters",
    )  # fmt: skip


@pytest.fixture
def another(tmp_path: Path) -> Path:
    """A base model of other weights, in a folder."""
    folder = tmp_path / "models" / "another"
    shutil.copytree(SEED_FOLDER, folder)
    with (folder / "config.json").open("a") as file:
        file.write("\n")
    return folder


def test_a_base_model_folder_has_the_same_name_from_every_working_folder(
    another: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = resolve(str(another))
    (another.parent / "link").symlink_to(another)
    for stand, said in (
        (another.parent, "another"),
        (another, "."),
        (another, "../another"),
        (another / "..", "another/"),
    ):
        monkeypatch.chdir(stand)
        assert resolve(said) == whole, said
    monkeypatch.chdir(another.parent)
    link = resolve("link")
    assert (link.name, link.path, link.digest) == (str(another.parent / "link"), another, whole.digest)
    (another / "below").mkdir()
    monkeypatch.chdir(another / "below")
    assert resolve("..") == whole
    assert resolve("../../link") == link
    assert resolve("seed").name == "seed"


def test_the_parameters_name_the_base_model_of_the_order(
    another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from academy.operations.work_pools import parameters

    monkeypatch.chdir(another.parent)
    order = order_of(resolve("another"), tmp_path)
    sent = parameters(order, "because", None)
    monkeypatch.chdir("/")  # a worker stands in the checkout
    assert resolve(sent["base_model"]) == order.base
    assert Recipe.model_validate(sent["recipe"]) == order.recipe
    OrderDigests.model_validate(sent["expected"]).require(order)


def test_order_digests_refuse_another_base_model_or_order(another: Path, tmp_path: Path) -> None:
    order = order_of(resolve("seed"), tmp_path)
    asked = OrderDigests.of(order)
    with pytest.raises(TrainingError) as refusal:
        asked.require(order_of(resolve(str(another)), tmp_path))
    assert refusal.value.cause == "base model"
    assert refusal.value.message.startswith(f"The base model {another} has the digest ")
    assert refusal.value.message.endswith(f"here, but {order.base.digest[:12]} was ordered.")
    other = order_of(order.base, tmp_path, Recipe(seed=43))
    with pytest.raises(TrainingError, match=rf"make the order {other.digest[:12]} here") as refusal:
        asked.require(other)
    assert refusal.value.cause == "order"


def test_a_training_by_hand_on_a_pool_needs_50_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.stages import train_here

    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    dataset = curate(Home.open(), [])
    with pytest.raises(InputError, match=r"0 training examples \(minimum 50\)"):
        train_here.fn(dataset.digest, "cpu", RecipeOptions(), "a test", None)


def test_a_worker_checks_the_order_before_it_trains(
    another: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker's own default is another base model, and the caller's is not named: nothing is trained."""
    from tasks.stages import train_here

    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACADEMY_BASE_MODEL", str(another))
    dataset = curate(Home.open(), [])
    asked = OrderDigests(base=resolve("seed").digest, order="0" * 64)
    with pytest.raises(TrainingError, match=r"The base model .*another has the digest .* was ordered\."):
        train_here.fn(dataset.digest, "cpu", RecipeOptions(), "a test", None, None, asked)
    assert not list((tmp_path / "home").glob("runs/*"))


def test_the_version_of_a_worker_must_be_in_this_home(house: House) -> None:
    from academy.operations.work_pools import require_registered

    made = house.train(1.0)
    trained = RegisteredAdapter(version=made.version, adapter=made.adapter)
    assert require_registered(house.versions, trained, "academy-train-cpu") == made
    here = rf"adapter a{{12}} as v1, but here that is {made.adapter[:12]} of"
    for wrong, said in (
        (trained.model_copy(update={"adapter": "a" * 64}), here),
        (trained.model_copy(update={"version": "7"}), "as v7, but here there is no such version of"),
    ):  # fmt: skip
        with pytest.raises(TrainingError, match=said) as refusal:
            require_registered(house.versions, wrong, "academy-train-cpu")
        assert refusal.value.remedy.startswith("Start the worker with the same ACADEMY_HOME")


def test_a_missing_device_does_not_count_if_a_worker_may_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACADEMY_MIN_LESSONS", "1")
    monkeypatch.setenv("ACADEMY_MIN_NEW_LESSONS", "1")
    home = Home.open(None)
    home.store.add_lesson("request", "answer", "success")
    refusal = Refusal(message="No engine answers.", remedy="Start one.", cause="engine")
    nowhere = Placement(
        route=Route(place="", backend="container", refusal=refusal, sentence="nowhere"), recipe=Recipe(),
        plan=Plan(device="cpu"),
    )  # fmt: skip
    monkeypatch.setattr(deciding, "place", lambda *_: nowhere)
    order = order_of(home.base, tmp_path)
    questions = [
        Example(
            id=str(n), suite="recall", request=f"request {n}", answer=f"answer {n}", origin=str(n), group=str(n),
            tags=(), author="", batch="", provenance={},
        )
        for n in range(40)
    ]  # fmt: skip
    dataset: Any = SimpleNamespace(longest=64, examples=500, holdout=40, held_out=lambda _: questions)

    def decided(*, elsewhere: bool) -> bool:
        found = deciding.decide(home, force=False, order=order, dataset=dataset, to_start=True, elsewhere=elsewhere)
        return found.train

    assert decided(elsewhere=True)
    with pytest.raises(TrainingError, match=r"No engine answers\. Start one\."):
        decided(elsewhere=False)
