"""MLflow's database is created completely or not at all; a training's run shows its last attempt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from academy.curriculum.dataset import Dataset
from academy.errors import HomeError
from academy.genealogy.tracking import (
    BASE_TAG,
    MEASURED,
    PREDICTED,
    TrackedRun,
    memory_ratios,
    open_mlflow,
    training_metrics,
)
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.progress import Progress, progress
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.settings import load_settings

KILLED_HALFWAY = """
import os, sys
import mlflow.store.db.utils as utils
from academy.genealogy.tracking import open_mlflow, training_metrics
from academy.habitat.progress import Progress
from academy.settings import load_settings
utils._upgrade_db = lambda engine: os.kill(os.getpid(), 9)  # the first tables exist, the migrations did not run
open_mlflow(load_settings())
"""


@pytest.mark.slow
def test_kill_during_table_creation_does_not_stop_a_later_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_HALFWAY], env={**os.environ, "ACADEMY_HOME": str(tmp_path)}, check=False
    )
    assert ended.returncode == -9
    assert not (tmp_path / "mlflow.db").exists()
    assert open_mlflow(load_settings(tmp_path)).get_experiment_by_name("academy") is not None


def test_damaged_database_is_one_sentence(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    (settings.home / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(HomeError, match=r"MLflow at sqlite.* cannot be used.*file is not a database"):
        open_mlflow(settings)


def test_training_metrics_omit_unknown_values() -> None:
    whole = Progress(status="finished", seconds=1800.0, energy=90_000.0, cost=1.25, memory=7)
    assert training_metrics(whole) == {
        "training_seconds": 1800.0, "energy_joules": 90_000.0, "cost": 1.25, "memory_peak_bytes": 7.0,
    }  # fmt: skip
    assert training_metrics(Progress(status="cancelled", seconds=60.0, memory=7)) == {"training_seconds": 60.0}


CUDA, CPU = {"academy.device": "cuda"}, {"academy.device": "cpu"}
MEMORY: dict[str, Any] = {"phase": "failed", "cause": "memory", "message": "no memory"}
DONE: dict[str, Any] = {"phase": "done", "adapter": "a" * 64}


def step(number: int, memory: int) -> dict[str, Any]:
    return {"phase": "step", "step": number, "steps": 2, "loss": 1.0, "memory": memory}


class OneOrder:
    """An order whose attempts share one run of a real MLflow; `base` separates its metrics from other tests."""

    def __init__(self, client: Any, folder: Path, base: str) -> None:
        self.client, self.base, self.events = client, base, list[TrainingEvent]()
        self.order = TrainingOrder(
            base=resolve("seed"), dataset="0" * 64, train_file=folder / "train.jsonl", train_digest=base,
            recipe=Recipe(), runs=folder / "runs", adapters=folder / "adapters",
        )  # fmt: skip
        self.dataset = Dataset(
            digest="0" * 64, path=folder, train_digest=base, examples=60, holdout=10, lessons=70, cursor=70, tokens=600,
            longest=10, funnel={"held out": 10}, contradictions=(),
        )  # fmt: skip

    def attempt(self, tags: dict[str, str], predicted: float | None, events: Sequence[dict[str, Any]]) -> Any:
        """Log an attempt's events as `academy.loop.train` does. Returns the run's data in MLflow."""
        before = len(self.events)
        run = TrackedRun(
            self.client, self.order, self.dataset, tags | {BASE_TAG: self.base}, predicted=predicted, before=before
        )  # fmt: skip
        for n, event in enumerate(events, before + 1):
            self.events.append(TrainingEvent.model_validate({"n": n, "at": 1000.0 + n, **event}))
        for event in self.events:
            run.log_event(event)
        run.log_metrics(training_metrics(progress(self.events, followed=False)))
        return self.client.get_run(run.id).data

    def ratios(self) -> dict[str, list[float]]:
        return {device: memory_ratios(self.client, self.base, device) for device in ("cuda", "cpu")}


def test_fallback_step_of_the_same_order_is_recorded_as_such(mlflow_client: Any, tmp_path: Path) -> None:
    """It has the order's digest, so the same run; device, fallback, prediction and peak are the last attempt's."""
    runs = OneOrder(mlflow_client, tmp_path, "1" * 64)
    first = runs.attempt(CUDA, 80.0, [{"phase": "started"}, step(1, 200), MEMORY])
    assert (first.tags["academy.device"], first.metrics[PREDICTED]) == ("cuda", 80.0)
    assert "academy.fallback_steps" not in first.tags
    fallback = {"academy.fallback_steps": "checkpointing; training on the CPUs"}
    last = runs.attempt(CPU | fallback, 100.0, [{"phase": "started"}, step(1, 90), step(2, 110), DONE])
    assert (last.tags["academy.device"], last.tags["academy.fallback_steps"]) == (
        "cpu",
        fallback["academy.fallback_steps"],
    )
    assert (last.metrics[PREDICTED], last.metrics[MEASURED]) == (100.0, 110.0)
    assert "academy.failed" not in last.tags
    assert runs.ratios() == {"cuda": [], "cpu": [1.1]}


def test_repeated_order_keeps_the_tags_of_its_training(mlflow_client: Any, tmp_path: Path) -> None:
    runs = OneOrder(mlflow_client, tmp_path, "2" * 64)
    fallback = {"academy.fallback_steps": "checkpointing"}
    before = runs.attempt(CUDA | fallback, 80.0, [{"phase": "started"}, step(2, 88), DONE])
    again = runs.attempt(CPU, 500.0, [])
    assert (again.tags, again.metrics[PREDICTED]) == (before.tags, 80.0)
    assert runs.ratios() == {"cuda": [1.1], "cpu": []}


def test_attempt_that_never_started_changes_nothing(mlflow_client: Any, tmp_path: Path) -> None:
    runs = OneOrder(mlflow_client, tmp_path, "3" * 64)
    runs.attempt(CUDA, 80.0, [{"phase": "started"}, step(1, 200), {**MEMORY, "cause": "killed"}])
    data = runs.attempt(CPU, 100.0, [{"phase": "failed", "cause": "engine", "message": "no engine"}])
    assert (data.tags["academy.device"], data.metrics[PREDICTED]) == ("cuda", 80.0)


def test_attempt_without_a_prediction_clears_the_earlier_one(mlflow_client: Any, tmp_path: Path) -> None:
    """With shared weights: a peak beside the prediction for full weights would distort every later correction."""
    runs = OneOrder(mlflow_client, tmp_path, "4" * 64)
    fallback = {"academy.fallback_steps": "weights shared by 2 processes"}
    runs.attempt(CUDA | fallback, 100.0, [{"phase": "started"}, step(1, 200), MEMORY])
    shared = runs.attempt(CUDA, None, [{"phase": "started"}, step(2, 60), DONE])
    assert (shared.metrics[PREDICTED], shared.metrics[MEASURED]) == (0.0, 60.0)
    assert "academy.fallback_steps" not in shared.tags, "it started again without a fallback step"
    assert runs.ratios() == {"cuda": [], "cpu": []}


def test_same_order_under_another_name_continues_its_run(mlflow_client: Any, tmp_path: Path) -> None:
    """MLflow refuses changed parameters; the order's digest covers neither the name nor the hold-out."""
    runs = OneOrder(mlflow_client, tmp_path, "5" * 64)
    runs.attempt(CPU, 80.0, [{"phase": "started"}, step(1, 80)])
    named = runs.order.base.model_copy(update={"name": str(runs.order.base.path)})
    runs.order = runs.order.model_copy(update={"base": named})
    runs.dataset = runs.dataset.model_copy(update={"holdout": 11})
    data = runs.attempt(CPU, 80.0, [{"phase": "started"}, step(2, 80), DONE])
    assert (data.params["base_model"], data.params["holdout"], data.params["rank"]) == ("seed", "10", "16")
    assert runs.ratios()["cpu"] == [1.0]
