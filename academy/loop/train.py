"""Trains an order, with fallback steps if memory runs out, and registers its adapter as a version.

A training may be requested again after a kill: it finds by its order what is done, and continues from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from academy.adapters.adapter import sign_adapter
from academy.curriculum.dataset import FORGOTTEN, Dataset
from academy.errors import InputError, TrainingError
from academy.genealogy.tracking import BASE_TAG, JOB_TAG, TrackedRun, training_metrics
from academy.genealogy.versions import TAINT, TAINTED, Version
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.choice import create_backend
from academy.habitat.job_names import name_job
from academy.habitat.memory import Device
from academy.habitat.placement import Placement
from academy.habitat.progress import progress
from academy.habitat.run_folder import EVENTS, ORDER, read_events
from academy.lifecycle.gate import admit_adapter
from academy.loop.choose_recipe import refuse_tainted
from academy.loop.home import Home
from academy.loop.not_counted import main_reasons
from academy.loop.place import fall_back, place
from academy.loop.place_order import change_order
from academy.loop.refuse_overlap import refuse_overlap
from academy.professor.decision import SMALLEST_DATASET
from academy.professor.search_space import TuningResult

log = logging.getLogger(__name__)
LOGGED_STEPS = 10
"""Steps of a training that are logged. MLflow has all of them."""
RETRY = "Run the same command again: training continues from the last checkpoint."
INTERRUPTIONS = ("killed", "cancelled", "unknown")
"""Causes that a retry may not meet again. For any other the message says what to do."""


def train(
    home: Home,
    order: TrainingOrder,
    dataset: Dataset,
    tags: dict[str, str],
    meanwhile: Callable[[], object] = lambda: None,
    only: Device | None = None,
    tuning: TuningResult | None = None,
) -> Version:
    """Carry out an order, follow it in MLflow and register its adapter as a version; on `only` that kind of device.

    `meanwhile` is called once the trainer runs, to prepare what comes next. `tuning` is the search for the recipe; its
    record goes into the MLflow run. Raises ExaminationError if the dataset overlaps with what is examined, and
    TrainingError: before anything starts if the training cannot run here.
    """
    home.settings.require_enabled()
    refuse_overlap(home, dataset)
    placement = place(home, order.recipe, dataset.longest, only=only)
    placement.require()
    if order.recipe.init_adapter:
        # checked again, since the recipe may come from elsewhere or have waited; used, so that it is not archived
        admit_adapter(home.gate, home.use_adapter(order.recipe.init_adapter))
        refuse_tainted(home.versions.of_adapter(order.recipe.init_adapter))
    while True:
        placement = keep_shared_weights(change_order(order, placement.recipe), placement)
        order = change_order(order, placement.recipe, placement.plan, placement.changes)
        log.info("training on %s", placement.sentence)
        last, run = _attempt(home, order, dataset, placement, tags, meanwhile, tuning)
        if last.phase == "done":
            break
        lower = fall_back(home, placement, dataset.longest, only=only) if last.cause == "memory" else None
        if lower is None:
            raise TrainingError(last.message, RETRY if last.cause in INTERRUPTIONS else "", last.cause)
        log.warning("%s Training continues with %s.", last.message, lower.changes[-1])
        placement = lower
    return _register(home, order, dataset, last.adapter, run)


def require_enough_examples(dataset: Dataset) -> None:
    """Raise InputError for a dataset that is too small to train on."""
    if dataset.examples < SMALLEST_DATASET:
        dropped = main_reasons(dataset.funnel)
        raise InputError(
            f"The dataset has {dataset.examples} training examples (minimum {SMALLEST_DATASET})"
            f"{f'; dropped: {dropped}' if dropped else ''}.",
            "Import more lessons.",
        )


def keep_shared_weights(order: TrainingOrder, placement: Placement) -> Placement:
    """Shares the weights again if an earlier attempt at this order did: its checkpoints are of that kind."""
    try:
        attempt = TrainingOrder.model_validate_json((order.folder / ORDER).read_bytes())
    except (OSError, ValueError):
        return placement
    before, now = attempt.plan, placement.plan
    if now.shared or before is None or not before.shared:
        return placement
    # with less memory free than before it is placed with checkpointing, which must stay
    alike = now.model_copy(update={"sharded": True, "checkpointing": before.checkpointing})
    if before != alike or (now.checkpointing and not before.checkpointing):
        return placement
    return placement.model_copy(update={"plan": before, "changes": attempt.changes})


def _attempt(
    home: Home,
    order: TrainingOrder,
    dataset: Dataset,
    placement: Placement,
    tags: dict[str, str],
    meanwhile: Callable[[], object],
    tuning: TuningResult | None,
) -> tuple[TrainingEvent, TrackedRun]:
    """One order from its first event to its last, in its MLflow run."""
    before = max((event.n for event in read_events(order.folder / EVENTS)), default=0)
    job = name_job(order.runs, order.folder.name)
    events = create_backend(home.settings, placement.route).train(order)
    first = next(events)
    meanwhile()
    search_tags = tuning.tags if tuning else {}
    # measured peaks correct later predictions, and the peak of shared weights says little about other plans
    prediction = placement.prediction if not placement.plan.shared else None
    run = TrackedRun(
        home.mlflow, order, dataset, tags | search_tags | placement.tags | {BASE_TAG: home.base.digest, JOB_TAG: job},
        predicted=float(prediction.measurable) if prediction else None, before=before,
    )  # fmt: skip
    if tuning:
        run.log_json("tuning/trials.json", tuning.model_dump(mode="json"))
    history = [first]
    run.log_event(first)
    for event in events:
        run.log_event(event)
        _log_event(event, history[-1])
        history.append(event)
    run.log_metrics(training_metrics(progress(history, followed=False, price=home.settings.price_per_hour)))
    return history[-1], run


def _log_event(event: TrainingEvent, before: TrainingEvent) -> None:
    if event.phase == "contract":
        log.info("contract holds: %s", event.message)
    elif event.phase == "step" and event.loss is not None and event.steps:
        tenth = event.step * LOGGED_STEPS // event.steps
        if tenth != before.step * LOGGED_STEPS // event.steps:
            log.info("step %d of %d, loss %.3f", event.step, event.steps, event.loss)


def _register(home: Home, order: TrainingOrder, dataset: Dataset, digest: str, run: TrackedRun) -> Version:
    champion = home.ledger.champion()
    # signed here and not by the trainer, which may run in a container and has no key
    adapter = sign_adapter(home.adapters / digest[:16], home.keys, base_digest=home.base.digest, digest=digest)
    version = home.versions.register(adapter, run, parent=champion.version, generation=champion.generation + 1)
    first = home.versions.of_adapter(order.recipe.init_adapter) if order.recipe.init_adapter else []
    lesson_deleted = (dataset.path / FORGOTTEN).is_file()  # a lesson was deleted during the training
    if lesson_deleted or any(parent.tainted for parent in first):
        home.versions.set_tags(version.version, {TAINT: TAINTED})
        version = home.versions.get(version.version)
    log.info("%s is registered: adapter %s", version.name, version.adapter[:12])
    return version
