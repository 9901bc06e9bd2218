"""MLflow's database is made whole or not at all; a training's run tells of its last attempt."""

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
utils._upgrade_db = lambda engine: os.kill(os.getpid(), 9)  # the first tables are there, the migrations are not
open_mlflow(load_settings())
"""


@pytest.mark.slow
def test_a_kill_amid_the_making_of_mlflows_tables_stops_no_later_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED_HALFWAY], env={**os.environ, "ACADEMY_HOME": str(tmp_path)}, check=False
    )
    assert ended.returncode == -9
    assert not (tmp_path / "mlflow.db").exists()
    assert open_mlflow(load_settings(tmp_path)).get_experiment_by_name("academy") is not None


def test_a_half_made_database_is_told_in_a_sentence(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    (settings.home / "mlflow.db").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    with pytest.raises(HomeError, match=r"MLflow at sqlite.* cannot be used.*file is not a database"):
        open_mlflow(settings)


def test_what_a_training_took_is_told_as_far_as_it_is_known() -> None:
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
    """An order whose attempts end up in one run of a real MLflow; `base` tells its figures from other tests'."""

    def __init__(self, client: Any, folder: Path, base: str) -> None:
        self.client, self.base, self.told = client, base, list[TrainingEvent]()
        self.order = TrainingOrder(
            base=resolve("seed"), dataset="0" * 64, train_file=folder / "train.jsonl", train_digest=base,
            recipe=Recipe(), runs=folder / "runs", adapters=folder / "adapters",
        )  # fmt: skip
        self.dataset = Dataset(
            digest="0" * 64, path=folder, train_digest=base, examples=60, holdout=10, lessons=70, cursor=70, tokens=600,
            longest=10, funnel={"held out": 10}, contradictions=(),
        )  # fmt: skip

    def attempt(self, tags: dict[str, str], predicted: float | None, events: Sequence[dict[str, Any]]) -> Any:
        """What `academy.loop.train` does with an attempt's events. Returns the run's data as MLflow has them."""
        before = len(self.told)
        run = TrackedRun(
            self.client, self.order, self.dataset, tags | {BASE_TAG: self.base}, predicted=predicted, before=before
        )  # fmt: skip
        for n, event in enumerate(events, before + 1):
            self.told.append(TrainingEvent.model_validate({"n": n, "at": 1000.0 + n, **event}))
        for event in self.told:
            run.log_event(event)
        run.log_metrics(training_metrics(progress(self.told, followed=False)))
        return self.client.get_run(run.id).data

    def ratios(self) -> dict[str, list[float]]:
        return {device: memory_ratios(self.client, self.base, device) for device in ("cuda", "cpu")}


def test_a_lower_rung_of_the_same_order_is_recorded_as_what_it_is(mlflow_client: Any, tmp_path: Path) -> None:
    """It keeps the order's digest, and so the run: device, ladder, prediction and peak are those of who ended it."""
    one = OneOrder(mlflow_client, tmp_path, "1" * 64)
    first = one.attempt(CUDA, 80.0, [{"phase": "started"}, step(1, 200), MEMORY])
    assert (first.tags["academy.device"], first.metrics[PREDICTED]) == ("cuda", 80.0)
    assert "academy.ladder" not in first.tags
    ladder = {"academy.ladder": "checkpointing; training on the CPUs"}
    last = one.attempt(CPU | ladder, 100.0, [{"phase": "started"}, step(1, 90), step(2, 110), DONE])
    assert (last.tags["academy.device"], last.tags["academy.ladder"]) == ("cpu", ladder["academy.ladder"])
    assert (last.metrics[PREDICTED], last.metrics[MEASURED]) == (100.0, 110.0)
    assert "academy.failed" not in last.tags
    assert one.ratios() == {"cuda": [], "cpu": [1.1]}


def test_an_order_that_was_done_before_keeps_what_it_was_trained_with(mlflow_client: Any, tmp_path: Path) -> None:
    one = OneOrder(mlflow_client, tmp_path, "2" * 64)
    ladder = {"academy.ladder": "checkpointing"}
    before = one.attempt(CUDA | ladder, 80.0, [{"phase": "started"}, step(2, 88), DONE])
    again = one.attempt(CPU, 500.0, [])
    assert (again.tags, again.metrics[PREDICTED]) == (before.tags, 80.0)
    assert one.ratios() == {"cuda": [1.1], "cpu": []}


def test_an_attempt_that_never_started_changes_nothing(mlflow_client: Any, tmp_path: Path) -> None:
    one = OneOrder(mlflow_client, tmp_path, "3" * 64)
    one.attempt(CUDA, 80.0, [{"phase": "started"}, step(1, 200), {**MEMORY, "cause": "killed"}])
    found = one.attempt(CPU, 100.0, [{"phase": "failed", "cause": "engine", "message": "no engine"}])
    assert (found.tags["academy.device"], found.metrics[PREDICTED]) == ("cuda", 80.0)


def test_a_prediction_that_does_not_count_takes_the_one_before_with_it(mlflow_client: Any, tmp_path: Path) -> None:
    """Shared weights: their peak beside the prediction of whole ones would correct every later one."""
    one = OneOrder(mlflow_client, tmp_path, "4" * 64)
    ladder = {"academy.ladder": "weights shared by 2 processes"}
    one.attempt(CUDA | ladder, 100.0, [{"phase": "started"}, step(1, 200), MEMORY])
    shared = one.attempt(CUDA, None, [{"phase": "started"}, step(2, 60), DONE])
    assert (shared.metrics[PREDICTED], shared.metrics[MEASURED]) == (0.0, 60.0)
    assert "academy.ladder" not in shared.tags, "it began anew, at the top"
    assert one.ratios() == {"cuda": [], "cpu": []}


def test_the_same_order_by_another_name_goes_on_in_its_run(mlflow_client: Any, tmp_path: Path) -> None:
    """MLflow refuses a parameter that changes; the order's digest covers neither the name nor what is held out."""
    one = OneOrder(mlflow_client, tmp_path, "5" * 64)
    one.attempt(CPU, 80.0, [{"phase": "started"}, step(1, 80)])
    named = one.order.base.model_copy(update={"name": str(one.order.base.path)})
    one.order = one.order.model_copy(update={"base": named})
    one.dataset = one.dataset.model_copy(update={"holdout": 11})
    found = one.attempt(CPU, 80.0, [{"phase": "started"}, step(2, 80), DONE])
    assert (found.params["base_model"], found.params["holdout"], found.params["rank"]) == ("seed", "10", "16")
    assert one.ratios()["cpu"] == [1.0]
