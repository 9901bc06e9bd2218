"""The checkpoint that a training continues from."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Plan
from academy.habitat.placement import Placement
from academy.habitat.routing import Route
from academy.habitat.run_folder import ORDER
from academy.habitat.trainer.checkpoints import CHECKPOINTS, DRAFT, SHARDS, make_room, whole_checkpoint
from academy.loop.train import keep_shared_weights
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.records import canonical
from academy.store.files import write_file


def test_only_a_complete_checkpoint_of_the_same_kind_is_resumed(tmp_path: Path) -> None:
    def made(step: int, *files: str, state: str = "{}") -> Path:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in files:
            (folder / name).touch()
        (folder / "trainer_state.json").write_text(state)
        return folder

    one, two, shared = (
        Plan(device="cpu"),
        Plan(device="cpu", processes=2),
        Plan(device="cpu", processes=2, sharded=True),
    )
    whole = made(2, "rng_state.pth")
    made(10, "rng_state.pth", state='{"torn')
    assert whole_checkpoint(tmp_path, one) == str(whole), "the newest complete one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"], "the incomplete one was removed"
    made(4, "rng_state_0.pth")
    both = made(3, "rng_state_0.pth", "rng_state_1.pth")
    assert whole_checkpoint(tmp_path, two) == str(both), "each process wrote its random state"
    assert whole_checkpoint(tmp_path, shared) is None, "none of them has shared weights"
    made(5, "rng_state_0.pth", "rng_state_1.pth", SHARDS)
    assert whole_checkpoint(tmp_path, two) is None
    assert not list(tmp_path.iterdir())


def test_make_room_removes_only_incomplete_files(tmp_path: Path) -> None:
    whole, torn = (tmp_path / CHECKPOINTS / f"checkpoint-{step}" for step in (2, 4))
    for folder in (whole, torn, tmp_path / DRAFT):
        folder.mkdir(parents=True)
    (whole / "trainer_state.json").write_text("{}")
    (torn / "optimizer.pt").write_bytes(bytes(100))
    make_room(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [CHECKPOINTS, whole.name, "trainer_state.json"]


def test_a_training_that_fell_back_to_shared_weights_continues_with_them(tmp_path: Path) -> None:
    def placed(plan: Plan) -> Placement:
        return Placement(route=Route(place="cuda", sentence="GPU 0"), recipe=Recipe(), plan=plan)

    two = Plan(device="cuda", processes=2, checkpointing=True)
    order = TrainingOrder(
        base=resolve("seed"), dataset="0" * 64, train_file=tmp_path / "train.jsonl", train_digest="0" * 64,
        recipe=Recipe(), runs=tmp_path / "runs", adapters=tmp_path / "adapters",
    )  # fmt: skip
    assert keep_shared_weights(order, placed(two)) == placed(two), "there was no earlier attempt"
    shared, change = two.model_copy(update={"sharded": True}), ("weights shared by 2 processes",)
    write_file(order.folder / ORDER, canonical(order.model_copy(update={"plan": shared, "changes": change})))
    found = keep_shared_weights(order, placed(two))
    assert (found.plan, found.changes) == (shared, change)
    four = placed(two.model_copy(update={"processes": 4}))
    assert keep_shared_weights(order, four) == four, "checkpoints of another number of processes are unusable"
    write_file(order.folder / ORDER, b"{")
    assert keep_shared_weights(order, placed(two)) == placed(two)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_fallback_below_shared_weights_is_not_undone(tmp_path: Path, checkpointing: bool) -> None:
    def placed(plan: Plan) -> Placement:
        return Placement(route=Route(place="cuda", sentence="GPU 0"), recipe=Recipe(), plan=plan)

    order = TrainingOrder(
        base=resolve("seed"), dataset="0" * 64, train_file=tmp_path / "train.jsonl", train_digest="0" * 64,
        recipe=Recipe(), runs=tmp_path / "runs", adapters=tmp_path / "adapters",
    )  # fmt: skip
    failed = Plan(device="cuda", processes=2, sharded=True, checkpointing=False)
    write_file(order.folder / ORDER, canonical(order.model_copy(update={"plan": failed})))
    lower = placed(failed.model_copy(update={"checkpointing": True, "sharded": checkpointing}))
    assert keep_shared_weights(order, lower) == lower
