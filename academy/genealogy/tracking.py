"""Training runs in MLflow: parameters, live curves, the dataset as an input.

A run is found again by its order's digest, so a training that was killed goes on in the same run, and a metric is
logged from the first step that is not there yet.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.curriculum.dataset import Dataset
from academy.errors import HomeError
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.progress import Progress
from academy.settings import Settings
from academy.store.files import STAGING, explain_disk_errors

EXPERIMENT = "academy"
ORDER_TAG = "academy.order"
BASE_TAG, DEVICE_TAG, FALLBACK_TAG = "academy.base", "academy.device", "academy.ladder"
PREDICTED, MEASURED = "memory_predicted_bytes", "memory_peak_bytes"
"""Of the last attempt's peak, uncorrected: what the next prediction is corrected by. 0: there is none that counts."""
SECONDS, ENERGY, COST = "training_seconds", "energy_joules", "cost"
"""What a training training_metrics, over all its attempts."""
REMEMBERED = 5
"""Trainings that a correction is made of."""
BATCH_SECONDS = 1.0
"""Steps are written so often: one by one they cost the trainer a fifth of its processors. A kill loses none of them,
for the trainer's own events are read again."""
MOST_METRICS = 900
"""MLflow takes 1,000 in a call."""


def open_mlflow(settings: Settings) -> Any:
    """An MlflowClient, quiet, with its database migrated and the experiment made. Raises HomeError."""
    os.environ |= {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # a client of MLflow's own makes clients with the default address when it resolves models:/ names
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.tracking_uri,
    }
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs with a traceback
    import mlflow
    from mlflow.exceptions import MlflowException

    _make_database(settings)
    try:
        client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri, registry_uri=settings.tracking_uri)
        if client.get_experiment_by_name(EXPERIMENT) is None:
            try:
                client.create_experiment(EXPERIMENT, artifact_location=_artifacts(settings))
            except MlflowException as problem:
                if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
    except (MlflowException, sa.exc.SQLAlchemyError) as problem:
        raise HomeError(
            f"MLflow at {settings.tracking_uri} cannot be used: {str(problem).splitlines()[0]}.",
            "Check that its database can be written, or set ACADEMY_MLFLOW_TRACKING_URI.",
        ) from problem
    return client


def _make_database(settings: Settings) -> None:
    """MLflow's tables in a new SQLite file, all or nothing.

    MLflow makes them in place, migration by migration and each by itself: a process that is killed meanwhile leaves
    a file that no later start can finish.
    """
    if not settings.tracking_uri.startswith("sqlite:///"):
        return
    place = Path(sa.make_url(settings.tracking_uri).database or "").absolute()
    if place.exists():
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    with explain_disk_errors(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
    with explain_disk_errors(place.parent), tempfile.TemporaryDirectory(dir=place.parent, prefix=STAGING) as folder:
        draft = Path(folder) / "mlflow.db"
        engine = create_sqlalchemy_engine(f"sqlite:///{draft}")
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()
        with suppress(FileExistsError):  # another process was quicker
            os.link(draft, place)


def _artifacts(settings: Settings) -> str | None:
    """A folder of the home for the default store; a server keeps artifacts where it is told to."""
    return settings.folder("mlartifacts").as_uri() if settings.tracking_uri.startswith("sqlite") else None


def _metric_name(name: str) -> str:
    """A funnel's line as MLflow allows names: letters, digits, and few signs."""
    return re.sub(r"[^\w\-. /]", "", name)


def training_metrics(found: Progress) -> dict[str, float]:
    """Duration, energy, cost and peak memory of a training as metrics of its run.

    Unknown values are omitted. Only a finished training has its peak.
    """
    peak = found.memory if found.status == "finished" else None
    figures = {SECONDS: found.seconds, ENERGY: found.energy, COST: found.cost, MEASURED: peak}
    return {name: float(value) for name, value in figures.items() if value is not None}


def memory_ratios(client: Any, base: str, device: str) -> list[float]:
    """Measured by predicted memory of the last trainings of a base model, by its digest, on a kind of device."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    found = client.search_runs(
        [experiment],
        filter_string=f"tags.`{BASE_TAG}` = '{base}' and tags.`{DEVICE_TAG}` = '{device}' and metrics.`{MEASURED}` > 0",
        order_by=["attributes.start_time DESC"],
        max_results=REMEMBERED,
    )
    return [
        run.data.metrics[MEASURED] / run.data.metrics[PREDICTED]
        for run in found
        if run.data.metrics.get(PREDICTED, 0) > 0
    ]


class TrackedRun:
    """The MLflow run of one training order, over all attempts: its tags and prediction are those of the last one."""

    def __init__(
        self,
        client: Any,
        order: TrainingOrder,
        dataset: Dataset,
        tags: dict[str, str],
        *,
        predicted: float | None = None,
        before: int = 0,
    ) -> None:
        """`tags` and `predicted` (bytes, or None) are of this attempt, whose events follow number `before`."""
        self.client = client
        self._attempt = tags, predicted
        self._before: int | None = before
        self.experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        known = self._find(order)
        self.id = known or str(
            client.create_run(
                self.experiment, run_name=f"train-{order.digest[:8]}", tags={ORDER_TAG: order.digest, **tags}
            ).info.run_id
        )
        self._describe(order, dataset)
        if known is None:
            self.log_metrics({f"funnel/{_metric_name(name)}": float(count) for name, count in dataset.funnel.items()})
        history = client.get_metric_history(self.id, "loss")
        self._logged = max((metric.step for metric in history), default=0)
        self._held: list[Any] = []
        self._written = 0.0

    def log_event(self, event: TrainingEvent) -> None:
        """Log a training event, steps in batches of about a second, and how the run ended."""
        # not before a trainer has started: an order that was done before is only told again, and its device stays
        if self._before is not None and event.n > self._before and event.phase != "failed":
            self._begin()
        if event.phase == "step":
            # an evaluation is told after its step; logged again after a kill it is the same row
            # one without figures only says how far it came
            if event.eval_loss is not None or (event.loss is not None and event.step > self._logged):
                self._held += self._metrics(event)
                self._logged = max(self._logged, event.step)
            if time.monotonic() - self._written < BATCH_SECONDS:
                return
        self._write()
        if event.phase == "failed":
            self.client.set_tag(self.id, "academy.failed", f"{event.cause}: {event.message}"[:5000])
            self.client.set_terminated(self.id, "FAILED")
        elif event.phase == "done":
            if "academy.failed" in self.client.get_run(self.id).data.tags:
                self.client.delete_tag(self.id, "academy.failed")
            self.client.set_terminated(self.id, "FINISHED")

    def _begin(self) -> None:
        """Say of the run what this attempt is: an earlier one had another device, or came to less memory since."""
        from mlflow.entities import RunTag

        (tags, predicted), self._before = self._attempt, None
        known = self.client.get_run(self.id).data
        self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in tags.items()])
        if FALLBACK_TAG in known.tags and FALLBACK_TAG not in tags:
            self.client.delete_tag(self.id, FALLBACK_TAG)
        figures = {name: 0.0 for name in (PREDICTED, MEASURED) if name in known.metrics}
        self.log_metrics(figures | ({} if predicted is None else {PREDICTED: predicted}))

    def _write(self) -> None:
        """What is held back, in batches that MLflow takes."""
        for start in range(0, len(self._held), MOST_METRICS):
            self.client.log_batch(self.id, metrics=self._held[start : start + MOST_METRICS])
        self._held = []
        self._written = time.monotonic()

    @staticmethod
    def _metrics(event: TrainingEvent) -> list[Any]:
        from mlflow.entities import Metric

        values = {
            "loss": event.loss,
            "eval_loss": event.eval_loss,
            "accuracy": event.accuracy,
            "grad_norm": event.grad_norm,
            "learning_rate": event.learning_rate,
            "epoch": event.epoch,
            "tokens_per_second": event.rate,
            "memory_bytes": event.memory,
        }
        at = int(event.at * 1000)
        return [Metric(name, float(value), at, event.step) for name, value in values.items() if value is not None]

    def log_metrics(self, values: dict[str, float]) -> None:
        """Log figures that belong to the run as a whole."""
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(name, value, at, 0) for name, value in values.items()])

    def log_json(self, name: str, value: dict[str, Any]) -> None:
        """Keep a JSON object among the run's artifacts; the same again changes nothing."""
        self.client.log_dict(self.id, value, name)

    def _find(self, order: TrainingOrder) -> str | None:
        found = self.client.search_runs(
            [self.experiment], filter_string=f"tags.`{ORDER_TAG}` = '{order.digest}'", max_results=1
        )
        if not found:
            return None
        run = found[0]
        if run.info.status != "FINISHED":
            self.client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _describe(self, order: TrainingOrder, dataset: Dataset) -> None:
        """Parameters and the dataset as an input; saying it again after a kill changes nothing."""
        from mlflow.entities import Dataset as DatasetEntity
        from mlflow.entities import DatasetInput, InputTag, Param

        values = order.recipe.model_dump(mode="json") | {
            "base_model": order.base.name, "examples": dataset.examples, "holdout": dataset.holdout,
        }  # fmt: skip
        # MLflow refuses a parameter that changes, and the same order may come by another name of its base model,
        # or from a dataset that holds out something else
        known = self.client.get_run(self.id).data.params
        missing = [Param(name, str(value)) for name, value in values.items() if name not in known]
        if missing:
            self.client.log_batch(self.id, params=missing)
        entity = DatasetEntity(
            name="curriculum",
            digest=dataset.digest[:36],  # MLflow keeps no more; the tag has it whole
            source_type="local",
            source=orjson.dumps({"uri": dataset.train_file.as_uri()}).decode(),
            profile=orjson.dumps(
                {"examples": dataset.examples, "holdout": dataset.holdout, "tokens": dataset.tokens}
            ).decode(),
        )
        self.client.log_inputs(self.id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])
        self.client.set_tag(self.id, "academy.dataset", dataset.digest)
        self.client.log_dict(self.id, {"funnel": dataset.funnel}, "dataset/funnel.json")
