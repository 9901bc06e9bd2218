"""MLflow's database is created completely or not at all; a training's run shows its last attempt."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from academy.adapters.adapter import read_adapter
from academy.curriculum.dataset import Dataset
from academy.errors import HomeError
from academy.genealogy.tracking import (
    BASE_TAG,
    KIND,
    KIND_TAG,
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
from tests.registry import House

KILLED_HALFWAY = """
import os, sys
import mlflow.store.db.utils as utils
from academy.genealogy.tracking import open_mlflow
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


def test_experiment_is_marked_as_model_training_and_a_persons_choice_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # open_mlflow sets them
        monkeypatch.setenv(name, "")
    settings = load_settings(tmp_path)
    client = open_mlflow(settings)
    number = client.get_experiment_by_name("academy").experiment_id
    assert client.get_experiment(number).tags[KIND_TAG] == "custom_model_development"
    client.delete_experiment_tag(number, KIND_TAG)
    assert open_mlflow(settings).get_experiment(number).tags[KIND_TAG] == KIND
    client.set_experiment_tag(number, KIND_TAG, "finetuning")
    assert open_mlflow(settings).get_experiment(number).tags[KIND_TAG] == "finetuning"


def test_accuracy_and_gradient_norm_are_metrics_of_the_run(mlflow_client: Any, tmp_path: Path) -> None:
    runs = OneOrder(mlflow_client, tmp_path, "7" * 64)
    data = runs.attempt(CPU, None, [{"phase": "started"}, {**step(2, 88), "accuracy": 0.75, "grad_norm": 1.5}, DONE])
    assert (data.metrics["accuracy"], data.metrics["grad_norm"]) == (0.75, 1.5)


def test_run_shows_its_model_once_and_version_and_run_show_the_scores(
    mlflow_client: Any, house: House, tmp_path: Path
) -> None:
    runs = OneOrder(mlflow_client, tmp_path, "8" * 64)
    runs.attempt(CPU, None, [{"phase": "started"}, step(2, 88), DONE])
    run = TrackedRun(mlflow_client, runs.order, runs.dataset, {})
    adapter = read_adapter(house.make(1.0))
    version = house.versions.register(adapter, run, parent="base", generation=1)
    house.versions._publish(adapter, run.experiment, run.id, "base", 1)  # as after a kill before the version existed
    (output,) = mlflow_client.get_run(run.id).outputs.model_outputs
    for _ in range(2):
        house.versions.log_scores(version.version, {"score_challenger": 0.9}, 1_700_000_000_000)
    model = mlflow_client.get_logged_model(output.model_id)
    assert [(metric.key, metric.value) for metric in model.metrics] == [("score_challenger", 0.9)]
    assert mlflow_client.get_run(run.id).data.metrics["score_challenger"] == 0.9
    assert len(mlflow_client.get_metric_history(run.id, "score_challenger")) == 1
    mlflow_client.delete_run(run.id)
    house.versions.log_scores(version.version, {"score_challenger": 0.8}, 1_700_000_000_001)
    assert mlflow_client.get_logged_model(output.model_id).metrics[0].value == 0.9
