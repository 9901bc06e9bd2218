"""Training runs in MLflow: parameters, live curves, the dataset as an input.

A run is identified by the digest of its training order, so a training that was killed continues in the same run.
Metrics are logged from the first missing step on.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.border.masking import mask
from academy.curriculum.dataset import Dataset
from academy.errors import HomeError
from academy.genealogy.moved_artifacts import keep_artifacts_here
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.progress import Progress
from academy.settings import Settings
from academy.store.files import STAGING, explain_disk_errors

EXPERIMENT = "academy"
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"
"""MLflow's pages open an experiment with this tag as model training, with runs and charts, and not as evaluations."""
ORDER_TAG = "academy.order"
BASE_TAG, DEVICE_TAG, FALLBACK_TAG = "academy.base", "academy.device", "academy.fallback_steps"
JOB_TAG = "academy.job"
PREDICTED, MEASURED = "memory_predicted_bytes", "memory_peak_bytes"
"""Memory of the last attempt, predicted without correction and measured; they correct later predictions. 0: unknown."""
SECONDS, ENERGY, COST = "training_seconds", "energy_joules", "cost"
"""Totals of a training over all its attempts."""
RECENT_RUNS = 5
"""How many recent trainings a correction uses."""
BATCH_SECONDS = 1.0
"""How often steps are written: single writes cost the trainer a fifth of its CPU time. A kill loses no step, because
the trainer's events are read again."""
MAX_METRICS = 900
"""MLflow accepts 1,000 metrics in a call."""


def open_mlflow(settings: Settings) -> Any:
    """A quiet MlflowClient with a migrated database and an existing experiment. Raises HomeError."""
    os.environ |= {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # MLflow creates clients with the default address when it resolves models:/ names
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_REGISTRY_URI": settings.tracking_uri,
    }
    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it also raises what it logs
    import mlflow
    from mlflow.exceptions import MlflowException

    _make_database(settings)
    try:
        if not settings.mlflow_tracking_uri:
            keep_artifacts_here(settings.home.resolve() / "mlflow.db", settings.folder("mlartifacts"))
        client = mlflow.MlflowClient(tracking_uri=settings.tracking_uri, registry_uri=settings.tracking_uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            try:
                client.create_experiment(EXPERIMENT, artifact_location=_artifacts(settings), tags={KIND_TAG: KIND})
            except MlflowException as problem:
                if problem.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        elif KIND_TAG not in experiment.tags:  # a person may have chosen another kind
            client.set_experiment_tag(experiment.experiment_id, KIND_TAG, KIND)
    except (MlflowException, sa.exc.SQLAlchemyError, sqlite3.Error) as problem:
        reason = next(iter(str(problem).strip().splitlines()), type(problem).__name__)
        raise HomeError(
            f"MLflow at {settings.tracking_uri} cannot be used: {reason}.",
            "Check that its database is writable, or set ACADEMY_MLFLOW_TRACKING_URI.",
        ) from problem
    return client


def _make_database(settings: Settings) -> None:
    """Create MLflow's tables in a new SQLite file atomically.

    MLflow creates them in place, one migration at a time: a process that is killed meanwhile leaves a file that a later
    start cannot complete.
    """
    if not settings.tracking_uri.startswith("sqlite:///"):
        return
    place = Path(sa.make_url(settings.tracking_uri).database or "").absolute()
    if place.exists():
        return
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    with explain_disk_errors(place.parent):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with explain_disk_errors(place.parent), tempfile.TemporaryDirectory(dir=place.parent, prefix=STAGING) as folder:
        draft = Path(folder) / "mlflow.db"
        engine = create_sqlalchemy_engine(f"sqlite:///{draft}")
        try:
            _initialize_tables(engine)
        finally:
            engine.dispose()
        with suppress(FileExistsError):  # another process was first
            os.link(draft, place)


def _artifacts(settings: Settings) -> str | None:
    """The home's folder for artifacts with SQLite; a tracking server has its own location."""
    return settings.folder("mlartifacts").as_uri() if settings.tracking_uri.startswith("sqlite") else None


def _metric_name(name: str) -> str:
    """A line of the funnel without characters that MLflow does not allow in names."""
    return re.sub(r"[^\w\-. /]", "", name)


def training_metrics(progress: Progress) -> dict[str, float]:
    """Duration, energy, cost and peak memory of a training as metrics of its run.

    Unknown values are omitted. Only a finished training has its peak.
    """
    peak = progress.memory if progress.status == "finished" else None
    figures = {SECONDS: progress.seconds, ENERGY: progress.energy, COST: progress.cost, MEASURED: peak}
    return {name: float(value) for name, value in figures.items() if value is not None}


def run_of_order(client: Any, order: str) -> str | None:
    """The id of the MLflow run of a training order (its digest); None if it left none."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment], filter_string=f"tags.`{ORDER_TAG}` = '{order}'", max_results=1)
    return str(runs[0].info.run_id) if runs else None


def memory_ratios(client: Any, base: str, device: str) -> list[float]:
    """Measured divided by predicted memory, for the last trainings of a base model (digest) on a kind of device."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs(
        [experiment],
        filter_string=f"tags.`{BASE_TAG}` = '{base}' and tags.`{DEVICE_TAG}` = '{device}' and metrics.`{MEASURED}` > 0",
        order_by=["attributes.start_time DESC"],
        max_results=RECENT_RUNS,
    )
    return [
        run.data.metrics[MEASURED] / run.data.metrics[PREDICTED]
        for run in runs
        if run.data.metrics.get(PREDICTED, 0) > 0
    ]


class TrackedRun:
    """The MLflow run of a training order, for all attempts. Tags and prediction belong to the last attempt."""

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
        """`tags` and `predicted` (bytes, or None) belong to this attempt; its events have numbers after `before`."""
        self.client = client
        self._attempt = tags, predicted
        self._before: int | None = before
        self.experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
        existing = self._find(order)
        self.id = existing or str(
            client.create_run(
                self.experiment, run_name=f"train-{order.digest[:8]}", tags={ORDER_TAG: order.digest, **tags}
            ).info.run_id
        )
        self._describe(order, dataset)
        if existing is None:
            self.log_metrics({f"funnel/{_metric_name(name)}": float(count) for name, count in dataset.funnel.items()})
        history = client.get_metric_history(self.id, "loss")
        self._logged = max((metric.step for metric in history), default=0)
        self._pending: list[Any] = []
        self._written = 0.0

    def log_event(self, event: TrainingEvent) -> None:
        """Log a training event: steps in batches of about a second, and the end of the run."""
        # only when a trainer starts: a finished order only replays its events, and its device stays
        if self._before is not None and event.n > self._before and event.phase != "failed":
            self._begin()
        if event.phase == "step":
            # an evaluation follows its step; logging it again after a kill writes the same row
            # an event without values only reports the position
            if event.eval_loss is not None or (event.loss is not None and event.step > self._logged):
                self._pending += self._metrics(event)
                self._logged = max(self._logged, event.step)
            if time.monotonic() - self._written < BATCH_SECONDS:
                return
        self._write()
        if event.phase == "failed":
            self.client.set_tag(self.id, "academy.failed", mask(f"{event.cause}: {event.message}")[:5000])
            self.client.set_terminated(self.id, "FAILED")
        elif event.phase == "done":
            if "academy.failed" in self.client.get_run(self.id).data.tags:
                self.client.delete_tag(self.id, "academy.failed")
            self.client.set_terminated(self.id, "FINISHED")

    def _begin(self) -> None:
        """Write this attempt's tags and prediction: an earlier attempt may have had another device or less memory."""
        from mlflow.entities import RunTag

        (tags, prediction), self._before = self._attempt, None
        run = self.client.get_run(self.id).data
        self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in tags.items()])
        if FALLBACK_TAG in run.tags and FALLBACK_TAG not in tags:
            self.client.delete_tag(self.id, FALLBACK_TAG)
        figures = {name: 0.0 for name in (PREDICTED, MEASURED) if name in run.metrics}
        self.log_metrics(figures | ({} if prediction is None else {PREDICTED: prediction}))

    def _write(self) -> None:
        """Write pending metrics in batches that MLflow accepts."""
        for start in range(0, len(self._pending), MAX_METRICS):
            self.client.log_batch(self.id, metrics=self._pending[start : start + MAX_METRICS])
        self._pending = []
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
        """Log metrics of the run as a whole."""
        from mlflow.entities import Metric

        at = int(time.time() * 1000)
        self.client.log_batch(self.id, metrics=[Metric(name, value, at, 0) for name, value in values.items()])

    def log_json(self, name: str, value: dict[str, Any]) -> None:
        """Store a JSON object among the run's artifacts."""
        self.client.log_dict(self.id, value, name)

    def _find(self, order: TrainingOrder) -> str | None:
        runs = self.client.search_runs(
            [self.experiment], filter_string=f"tags.`{ORDER_TAG}` = '{order.digest}'", max_results=1
        )
        if not runs:
            return None
        run = runs[0]
        if run.info.status != "FINISHED":
            self.client.update_run(run.info.run_id, status="RUNNING")
        return str(run.info.run_id)

    def _describe(self, order: TrainingOrder, dataset: Dataset) -> None:
        """Log parameters and the dataset as an input. Repeating it after a kill changes nothing."""
        from mlflow.entities import Dataset as DatasetEntity
        from mlflow.entities import DatasetInput, InputTag, Param
        from mlflow.exceptions import MlflowException

        values = order.recipe.model_dump(mode="json") | {
            "base_model": order.base.name, "examples": dataset.examples, "holdout": dataset.holdout,
        }  # fmt: skip
        # MLflow refuses changed parameters; the same order may come with another name of its base model, or from a
        # dataset with another hold-out
        logged_params = self.client.get_run(self.id).data.params
        missing = [Param(name, str(value)) for name, value in values.items() if name not in logged_params]
        if missing:
            self.client.log_batch(self.id, params=missing)
        entity = DatasetEntity(
            name="curriculum",
            digest=dataset.digest[:36],  # MLflow's limit; the tag has the whole digest
            source_type="local",
            source=orjson.dumps({"uri": order.train_file.as_uri()}).decode(),
            profile=orjson.dumps(
                {"examples": dataset.examples, "holdout": dataset.holdout, "tokens": dataset.tokens}
            ).decode(),
        )
        inputs = [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])]
        try:
            self.client.log_inputs(self.id, inputs)
        except MlflowException:  # another training on this dataset has just written its row
            self.client.log_inputs(self.id, inputs)
        self.client.set_tag(self.id, "academy.dataset", dataset.digest)
        self.client.log_dict(self.id, {"funnel": dataset.funnel}, "dataset/funnel.json")
