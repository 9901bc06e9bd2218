"""Sends a training to a work pool that has a live worker of this home, or trains here.

A run is identified by its order and by how many runs of that order have ended: a flow that was killed while it waited
finds the run that it started, and does not take the result of a run that ended before.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled

import academy.operations.results  # noqa: F401  from here on, results are read as JSON only
from academy.curriculum.dataset import Dataset
from academy.errors import AcademyError, TrainingError
from academy.genealogy.versions import Version, Versions
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Device
from academy.habitat.routing import POOLS
from academy.loop.home import Home
from academy.loop.place_order import place_order
from academy.loop.refuse_overlap import refuse_overlap
from academy.loop.train import RETRY, train
from academy.loop.train_dataset import OrderDigests, RegisteredAdapter, TrainingLimits
from academy.professor.recipe import Recipe
from academy.professor.search_space import TuningResult
from academy.settings import Settings

log = logging.getLogger(__name__)
DEPLOYMENTS: dict[Device, str] = {"cuda": "train/gpu", "cpu": "train/cpu"}
POLL_SECONDS = 1.0


def train_challenger(
    home: Home,
    dataset: Dataset,
    recipe: Recipe,
    because: str,
    tags: dict[str, str],
    tuning: TuningResult | None = None,
) -> Version:
    """Train on the first work pool that has a live worker, or else here; the adapter is registered as a version.

    A training that runs out of memory on a GPU pool continues here on the CPU. Raises as `train` does.
    """
    order = place_order(home, dataset, recipe)
    pools = live_pools(home.settings)
    only: Device | None = None
    if pools:
        refuse_overlap(home, dataset)  # the worker knows its own suites only
    for device in pools:
        _import_arena()
        try:
            adapter = train_on(device, order, because, home.settings, tuning)
            if adapter is not None:
                return require_registered(home.versions, adapter, POOLS[device])
            log.warning("No worker of %s took the training.", POOLS[device])
        except TrainingError as problem:
            if problem.cause != "memory" or device == "cpu":
                raise
            log.warning("%s Training continues on the CPU.", problem.message)
            only = "cpu"
    return train(home, order, dataset, tags, meanwhile=_import_arena, only=only, tuning=tuning)


def live_pools(settings: Settings) -> list[Device]:
    """Kinds of device whose pool has a live worker of this home. GPUs come first, unless they are switched off.

    Empty on a server without pools.
    """
    devices: list[Device] = []
    with get_client(sync_client=True) as client:
        for device, pool in POOLS.items():
            if device == "cuda" and not settings.enable_gpu:
                continue
            try:
                workers = client.read_workers_for_work_pool(pool)
            except PrefectHTTPStatusError as problem:
                if problem.response.status_code != HTTPStatus.NOT_FOUND:
                    raise
                continue  # prefect.yaml is not deployed here
            if any(worker.status == "ONLINE" and worker.name.endswith(settings.home_id) for worker in workers):
                devices.append(device)
    return devices


def train_on(
    device: Device,
    order: TrainingOrder,
    decision: str,
    settings: Settings,
    tuning: TuningResult | None = None,
) -> RegisteredAdapter | None:
    """Let the pool's worker train, and wait for it. Returns what it registered; None if no worker took the run.

    Raises the training's own error, or TrainingError if its run ended without one.
    """
    tag = f"order:{order.digest[:16]}"
    run = cast("FlowRun", run_deployment(
        DEPLOYMENTS[device],
        parameters={**parameters(order, decision, tuning), "limits": sent_limits(settings).model_dump(mode="json")},
        idempotency_key=f"train:{device}:{order.digest}:{_ended_runs(tag)}",
        tags=["academy", tag],
        timeout=0,
    ))  # fmt: skip
    state = _wait(run, device, settings)
    if state is None:
        return None
    if state.is_completed():
        return RegisteredAdapter.model_validate(state.result())
    problem: Any = state.result(raise_on_failure=False)
    if isinstance(problem, AcademyError):
        raise problem
    lines = str(problem or state.message or state.name).strip().splitlines()
    message = lines[0][:300] if lines else type(problem).__name__
    raise TrainingError(
        f"The training's run on {POOLS[device]} ended as {state.name}: {message}",
        RETRY,
        cause="cancelled" if state.is_cancelled() else "killed",
    )


def parameters(order: TrainingOrder, decision: str, tuning: TuningResult | None) -> dict[str, Any]:
    """Parameters of the worker's flow: what it makes the order from, and the digests that the order must have."""
    return {
        "dataset": order.dataset,
        "recipe": order.recipe.model_dump(mode="json"),
        "decision": decision,
        "base_model": order.base.name,  # the worker may have another default, and works in another folder
        "tuning": tuning.model_dump(mode="json") if tuning else None,
        "expected": OrderDigests.of(order).model_dump(mode="json"),
    }


def require_registered(versions: Versions, adapter: RegisteredAdapter, pool: str) -> Version:
    """The version that a worker registered. Raises TrainingError if this home has another adapter there, or none."""
    version = versions.find(adapter.version)
    if version is None or version.adapter != adapter.adapter:
        local = f"that is {version.adapter[:12]}" if version else "there is no such version"
        raise TrainingError(
            f"The worker of {pool} registered adapter {adapter.adapter[:12]} as v{adapter.version}, "
            f"but here {local} of {versions.family}.",
            "Start the worker with the same ACADEMY_HOME and ACADEMY_MLFLOW_TRACKING_URI as this evolution.",
            cause="order",
        )
    return version


def sent_limits(settings: Settings) -> TrainingLimits:
    """The limits of trainings that a person set, for the worker's run."""
    names = settings.model_fields_set & set(TrainingLimits.model_fields)
    return TrainingLimits.model_validate({name: getattr(settings, name) for name in names})


def _wait(run: FlowRun, device: Device, settings: Settings) -> Any:
    """The run's final state. A run that was not started when the last worker ended is cancelled: None."""
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run.id).state
            if state is not None and state.is_final():
                return state
            if (state is None or state.is_scheduled()) and device not in live_pools(settings):
                client.set_flow_run_state(run.id, Cancelled(message="No worker took it."), force=True)
                return None
            time.sleep(POLL_SECONDS)


def _ended_runs(tag: str) -> int:
    """How many runs of this order have ended. The next run needs its own idempotency key."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))
    return sum(1 for run in runs if run.state is not None and run.state.is_final())


def _import_arena() -> None:
    """Import in the background what the examination needs, while the trainer works."""
    load: Callable[[], object] = lambda: __import__("academy.serving.runtimes.peft")  # noqa: E731
    threading.Thread(target=load, daemon=True).start()
