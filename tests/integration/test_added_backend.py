"""A training backend that another package adds by an entry point, as base.py of the backends describes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from academy.loop.placement import place

from academy.adapters.adapter import read_adapter
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.choice import create_backend
from academy.loop.home import Home
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file
from tests.campaign.house import TOPICS
from tests.plugins import install_plugin

OUTSIDE = """
from academy.habitat.backends.process import ProcessBackend


class RecordingBackend(ProcessBackend):
    def train(self, order):
        (order.runs.parent / "recorded").write_text(order.digest)
        yield from super().train(order)
"""


def test_an_added_backend_trains_as_the_loop_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.backends", "recording", OUTSIDE, "RecordingBackend")
    monkeypatch.setenv("ACADEMY_TRAINING_BACKEND", "recording")
    monkeypatch.setenv("ACADEMY_ENABLE_GPU", "false")
    home = Home.open(home=tmp_path / "home")
    recipe = Recipe(rank=8, alpha=16, epochs=1, batch_size=8, accumulation=1, max_length=128)
    file = home.settings.folder("datasets") / "train.jsonl"
    rows = [{"instruction": topic, "input": "", "output": answer} for topic, answer in list(TOPICS.items())[:8]]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    order = TrainingOrder(
        base=resolve("seed"), dataset="0" * 64, train_file=file, train_digest=digest_of_file(file), recipe=recipe,
        runs=home.settings.folder("runs"), adapters=home.settings.folder("adapters"),
    )  # fmt: skip

    placement = place(home, recipe, 64)
    assert placement.route.backend == "recording"
    last = list(create_backend(home.settings, placement.route).train(order))[-1]

    assert last.phase == "done", last.message
    assert read_adapter(order.adapters / last.adapter[:16]).manifest.order == order.digest
    assert (home.settings.home / "recorded").read_text() == order.digest
