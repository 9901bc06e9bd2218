"""Trainings on a real GPU; skipped without one. `bench/on_gpu.sh` runs them after its measurements."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from academy.adapters.adapter import Manifest, read_adapter
from academy.habitat.backends.base import TrainingEvent
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import Plan, default_plan, predict, read_shape
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.system.hardware import EnergyMeter, take_inventory
from tests.orders import order_of, topic_rows, write_rows
from tests.topics import WORDINGS

MACHINE = take_inventory(engine=False)
pytestmark = pytest.mark.skipif(not (MACHINE.gpus and MACHINE.cuda), reason="no GPU: none that torch can use")
RECIPE = Recipe(rank=8, alpha=16, epochs=4, learning_rate=5e-3, batch_size=8, accumulation=1, max_length=128)
SEGMENTS = 128 * 2**20
"""A peak may differ from its prediction by this much: torch reserves 20 MiB or more at a time for each stream, and a
model of 6 MiB uses little of it. For a large model the difference is negligible."""
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
needs_unsloth = pytest.mark.skipif(find_spec("unsloth") is None, reason="Unsloth is not installed")
needs_two = pytest.mark.skipif(len(MACHINE.gpus) < 2, reason="only one GPU")


def train_on_gpu(
    place: Path, plan: Plan | None = None, times: int = 1, **changes: Any
) -> tuple[Manifest, list[TrainingEvent]]:
    """The manifest and the events of a training of eight topics; each request is repeated so many times."""
    rows = topic_rows(8, [" ".join([wording] * times) for wording in WORDINGS])
    recipe, file = Recipe.model_validate(RECIPE.model_dump() | changes), write_rows(place / "train.jsonl", rows)
    order = order_of(place, file, recipe=recipe, plan=plan or default_plan("cuda"))
    events = list(ProcessBackend().train(order))
    assert events[-1].phase == "done", events[-1].message
    return read_adapter(order.adapters / events[-1].adapter[:16], base_digest=order.base.digest).manifest, events


def losses(events: list[TrainingEvent]) -> list[float]:
    """The losses of the steps."""
    return [event.loss for event in events if event.loss is not None and event.phase == "step"]


def test_a_gpu_reports_its_figures() -> None:
    gpu = MACHINE.gpus[0]
    assert gpu.name
    assert gpu.memory_total
    assert gpu.memory_free
    assert gpu.memory_total >= gpu.memory_free > 0
    assert EnergyMeter().read() is not None


def test_a_recipe_learns_alike_on_gpu_and_cpus(tmp_path: Path) -> None:
    (tmp_path / "gpu").mkdir()
    (tmp_path / "cpu").mkdir()
    plan = default_plan("cuda").model_copy(update={"library": "trl"})
    manifest, events = train_on_gpu(tmp_path / "gpu", plan)
    assert manifest.trainer == "trl"
    assert "on the GPU with checkpointing" in next(one.message for one in events if one.phase == "contract")
    _, theirs = train_on_gpu(tmp_path / "cpu", Plan(device="cpu"))
    # bfloat16 and float32: the losses fall alike, with different digits
    assert losses(events)[0] == pytest.approx(losses(theirs)[0], rel=0.05)
    assert losses(events)[-1] < 0.5 * losses(events)[0]
    joules = [event.energy for event in events if event.energy is not None]
    assert joules == sorted(joules)
    assert joules[-1] > 0
    peak = max(event.memory or 0 for event in events)
    predicted = predict(read_shape(resolve("seed").path), RECIPE, plan, longest=64)
    assert predicted.weights + predicted.adapter < peak < predicted.measurable + SEGMENTS


def test_a_gpu_without_checkpointing_learns_the_same_with_more_memory(tmp_path: Path) -> None:
    usual = default_plan("cuda").model_copy(update={"library": "trl"})
    found = []
    for name, checkpointing in (("less", True), ("more", False)):
        (tmp_path / name).mkdir()
        plan = usual.model_copy(update={"checkpointing": checkpointing})
        _, events = train_on_gpu(tmp_path / name, plan, times=40, batch_size=32, epochs=8, max_length=1024)
        found.append((losses(events), max(event.memory or 0 for event in events)))
    (less, small), (more, large) = found
    assert more == pytest.approx(less, rel=0.05)
    assert small < large


def test_packed_rows_train_on_a_gpu(tmp_path: Path) -> None:
    manifest, events = train_on_gpu(tmp_path, default_plan("cuda").model_copy(update={"library": "trl"}), packing=True)
    assert manifest.examples == 40
    assert losses(events)[-1] < losses(events)[0]


@needs_bitsandbytes
def test_four_bit_weights_with_evaluations_train_on_a_gpu(tmp_path: Path) -> None:
    plan = default_plan("cuda").model_copy(update={"library": "trl"})
    _, events = train_on_gpu(tmp_path, plan, four_bit=True, dev_share=0.2)
    assert losses(events)[-1] < 0.7 * losses(events)[0]
    assert any(event.eval_loss is not None for event in events)


@needs_unsloth
@pytest.mark.parametrize("packing", [False, True])
def test_unsloth_trains_where_it_is_installed(tmp_path: Path, packing: bool) -> None:
    """Its adapter passes the same checks, and its answers are those of the canaries."""
    manifest, events = train_on_gpu(tmp_path, packing=packing, epochs=12 if packing else 4)
    assert any(event.rate for event in events), "events contain the speed"
    assert manifest.trainer == "unsloth"
    assert losses(events)[-1] < 0.7 * losses(events)[0]
    assert any(canary.answer != canary.base_answer for canary in manifest.canaries)


@needs_two
@pytest.mark.parametrize("sharded", [False, True])
def test_two_gpus_share_a_training(tmp_path: Path, sharded: bool) -> None:
    plan = default_plan("cuda").model_copy(update={"library": "trl", "processes": 2, "sharded": sharded})
    _, events = train_on_gpu(tmp_path, plan)
    assert losses(events)[-1] < 0.7 * losses(events)[0]
