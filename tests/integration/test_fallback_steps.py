"""A training that runs out of memory continues with smaller batches, and the log, MLflow and the adapter show it."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from academy.adapters.adapter import read_adapter
from academy.habitat.run_folder import EVENTS, read_events
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.loop.ingest import ingest
from academy.loop.place import place
from academy.loop.place_order import change_order, digests_carried_out, place_order
from academy.loop.train import train
from academy.professor.recipe import Recipe
from tests.topics import TOPICS, WORDINGS

LIMIT = 3600 * 2**20
"""Bytes of data that a process may have: 64 of these examples take about 4,300 MiB, 32 about 3,000."""


@pytest.fixture
def short_of_memory() -> Iterator[None]:
    """Limits what this process and its children may allocate. The prediction does not know the limit."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, before)


@pytest.mark.campaign
def test_a_training_out_of_memory_continues_with_smaller_batches(
    tmp_path: Path, short_of_memory: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # each thread has a heap of its own
    lessons = tmp_path / "lessons.jsonl"
    chance = random.Random(7)
    vocabulary = " ".join(TOPICS.values()).split()
    rows = [
        {"situation": wording.format(topic), "action": " ".join(chance.sample(vocabulary, 90)), "result": "success"}
        for topic in TOPICS
        for wording in WORDINGS
    ]
    lessons.write_text("".join(json.dumps(row) + "\n" for row in rows))
    work = Home.open(home=tmp_path / "home")
    ingest(work, [lessons])
    dataset = curate(work, [])
    recipe = Recipe(rank=8, alpha=16, epochs=1, batch_size=64, accumulation=1, max_length=512)
    order = place_order(work, dataset, recipe)
    assert place(work, recipe, dataset.longest).changes == ()  # it is expected to fit

    with caplog.at_level("INFO", logger="academy"):
        version = train(work, order, dataset, {})

    assert "ran out of memory" in caplog.text
    assert "Training continues with batches of 32, 2 of them a step." in caplog.text
    trained = read_adapter(work.adapters / version.adapter[:16]).manifest
    assert (trained.recipe.batch_size, trained.recipe.accumulation) == (32, 2)
    lower = change_order(order, trained.recipe)
    assert trained.order == lower.digest
    assert [event.phase for event in read_events(order.folder / EVENTS)][-1] == "failed"
    assert [event.message for event in read_events(lower.folder / EVENTS) if event.phase == "changed"] == [
        "less memory: batches of 32, 2 of them a step"
    ]
    experiment = work.mlflow.get_experiment_by_name("academy").experiment_id
    runs = {run.data.tags["academy.order"]: run for run in work.mlflow.search_runs([experiment])}
    assert runs[order.digest].data.tags["academy.failed"].startswith("memory: ")
    assert runs[lower.digest].data.tags["academy.fallback_steps"] == "batches of 32, 2 of them a step"
    assert {"memory_predicted_bytes", "memory_peak_bytes"} <= runs[lower.digest].data.metrics.keys()
    # it replaces the order that was too large, and is not trained and examined twice
    assert lower.digest in digests_carried_out(order, place(work, recipe, dataset.longest))
