"""A training backend that another package adds by an entry point, as base.py of the backends describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.adapters.adapter import read_adapter
from academy.habitat.backends.choice import create_backend
from academy.loop.home import Home
from academy.loop.place import place
from academy.professor.recipe import Recipe
from tests.orders import order_of, topic_rows, write_rows
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
    write_rows(file, topic_rows(8, ["{}"]))
    order = order_of(home.settings.home, file, recipe=recipe)

    placement = place(home, recipe, 64)
    assert placement.route.backend == "recording"
    last = list(create_backend(home.settings, placement.route).train(order))[-1]

    assert last.phase == "done", last.message
    assert read_adapter(order.adapters / last.adapter[:16]).manifest.order == order.digest
    assert (home.settings.home / "recorded").read_text() == order.digest
