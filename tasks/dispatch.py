"""A training on a work pool of its own, where a worker of this home is alive there; else it is left to who asked.

A run is known by its order and by how many runs of that order have ended, so a flow that was killed while it waited
finds the run that it started, and what came to its end is not taken for an answer again.
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Any, cast

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled

from academy.errors import AcademyError, TrainingError
from academy.genealogy.versions import Version, Versions
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Device
from academy.habitat.routing import POOLS
from academy.loop.training import Asked
from academy.professor.search_space import TuningResult
from academy.records import Record
from academy.settings import Settings

DEPLOYMENTS: dict[Device, str] = {"cuda": "train/gpu", "cpu": "train/cpu"}
POLL_SECONDS = 1.0
CARRIED = ("enable_gpu", "price_per_hour")
"""Settings that a training follows wherever it runs, beside those that begin with training_.

Nothing else of them decides an adapter's bytes: rank, learning rate, epochs, packing and seed are in the recipe, which
is sent whole, and the base model is sent by name. Places stay the worker's own (home, databases, threads): they may
hold passwords, which Prefect would show. That it works for the same home is proved by what it trained.
"""


class Trained(Record):
    """What a worker registered: the version's number and its adapter's digest."""

    version: str
    adapter: str


def pools_alive(settings: Settings) -> list[Device]:
    """Kinds of device whose pool has a live worker of this home, GPUs first unless they are switched off.

    None on a server without pools.
    """
    found: list[Device] = []
    with get_client(sync_client=True) as client:
        for device, pool in POOLS.items():
            if device == "cuda" and not settings.enable_gpu:
                continue
            try:
                workers = client.read_workers_for_work_pool(pool)
            except PrefectHTTPStatusError as problem:
                if problem.response.status_code != HTTPStatus.NOT_FOUND:
                    raise
                continue  # nobody has deployed here
            if any(worker.status == "ONLINE" and worker.name.endswith(settings.home_id) for worker in workers):
                found.append(device)
    return found


def train_on(
    device: Device,
    order: TrainingOrder,
    decision: str,
    settings: Settings,
    tuned: TuningResult | None = None,
) -> Trained | None:
    """Have the pool's worker train, and wait. Returns what it made; None where no worker took it.

    Raises as the training there did, or TrainingError where its run ended without a word.
    """
    mark = f"order:{order.digest[:16]}"
    run = cast("FlowRun", run_deployment(
        DEPLOYMENTS[device],
        parameters=parameters(order, decision, tuned),
        idempotency_key=f"train:{device}:{order.digest}:{_ended(mark)}",
        tags=["academy", mark],
        job_variables={"env": carried(settings)},
        timeout=0,
    ))  # fmt: skip
    state = _awaited(run, device, settings)
    if state is None:
        return None
    if state.is_completed():
        return Trained.model_validate(state.result())
    problem: Any = state.result(raise_on_failure=False)
    if isinstance(problem, AcademyError):
        raise problem
    said = str(problem or state.message or state.name).strip().splitlines()[0][:300]
    raise TrainingError(
        f"The training's run on {POOLS[device]} ended as {state.name}: {said}",
        "Run the same command again: it goes on from the last checkpoint.",
        cause="cancelled" if state.is_cancelled() else "killed",
    )


def parameters(order: TrainingOrder, decision: str, tuned: TuningResult | None) -> dict[str, Any]:
    """What the worker's flow is given: all that makes the order again there, and what it must come to."""
    return {
        "dataset": order.dataset,
        "recipe": order.recipe.model_dump(mode="json"),
        "decision": decision,
        "base_model": order.base.name,  # the worker's default may be another, and it stands in another folder
        "tuned": tuned.model_dump(mode="json") if tuned else None,
        "asked": Asked.of(order).model_dump(mode="json"),
    }


def found_here(versions: Versions, trained: Trained, pool: str) -> Version:
    """The version that a worker registered. Raises TrainingError where it is none, or another one, in this family."""
    version = versions.find(trained.version)
    if version is None or version.adapter != trained.adapter:
        raise TrainingError(
            f"The worker of {pool} registered adapter {trained.adapter[:12]} as v{trained.version}, and here "
            f"{f'that is {version.adapter[:12]}' if version else 'there is no such version'} of {versions.family}.",
            "Start the worker with the ACADEMY_HOME and ACADEMY_MLFLOW_TRACKING_URI of who ordered the training.",
            cause="order",
        )
    return version


def carried(settings: Settings) -> dict[str, str]:
    """What a person set of how trainings run, as environment variables: the worker may have been started otherwise."""
    names = [name for name in settings.model_fields_set if name in CARRIED or name.startswith("training_")]
    values = {name: getattr(settings, name) for name in names}
    return {f"ACADEMY_{name.upper()}": str(value) for name, value in sorted(values.items()) if value is not None}


def _awaited(run: FlowRun, device: Device, settings: Settings) -> Any:
    """The run's last state. One that no worker has begun when there is none any more is taken back: None."""
    with get_client(sync_client=True) as client:
        while True:
            state = client.read_flow_run(run.id).state
            if state is not None and state.is_final():
                return state
            if (state is None or state.is_scheduled()) and device not in pools_alive(settings):
                client.set_flow_run_state(run.id, Cancelled(message="No worker took it."), force=True)
                return None
            time.sleep(POLL_SECONDS)


def _ended(mark: str) -> int:
    """How many runs of this order have ended: each next one needs a key of its own."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[mark])))
    return sum(1 for run in runs if run.state is not None and run.state.is_final())
