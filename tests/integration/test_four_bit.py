"""A training on 4-bit base weights on a CPU; skipped if bitsandbytes is not installed (`.ci/run` installs it).

It is not a test dependency, because PEFT imports it if it is installed, which takes two seconds each time.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from academy.adapters.adapter import read_adapter
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.trainer.model import load, prepare
from academy.professor.recipe import Recipe
from tests.orders import order_of, topic_rows, write_rows

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")


def test_a_four_bit_base_is_trained(tmp_path: Path) -> None:
    recipe = Recipe(
        rank=8, alpha=16, epochs=4, learning_rate=5e-3, batch_size=8, accumulation=1, max_length=128, four_bit=True
    )
    order = order_of(tmp_path, write_rows(tmp_path / "train.jsonl", topic_rows(wordings=["{}"])), recipe=recipe)
    kinds = [type(module).__name__ for module in load(order, prepare(order)).modules()]
    assert "Linear4bit" in kinds

    events = list(ProcessBackend(gpu="").train(order))
    assert events[-1].phase == "done", events[-1].message
    losses = [event.loss for event in events if event.phase == "step" and event.loss is not None]
    assert losses[-1] < 0.7 * losses[0]
    trained = read_adapter(order.adapters / events[-1].adapter[:16], base_digest=order.base.digest).manifest
    assert trained.recipe.four_bit
