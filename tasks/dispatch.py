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

from academy.errors import TrainingError
from academy.habitat.backend import TrainingOrder
from academy.habitat.fit import Device
from academy.habitat.route import POOLS
from academy.settings import Settings
from academy.trials import Tuned

DEPLOYMENTS: dict[Device, str] = {"cuda": "train/gpu", "cpu": "train/cpu"}
POLL_SECONDS = 1.0
CARRIED = ("enable_gpu", "price_per_hour")
"""Settings that a training follows wherever it runs, beside those that begin with training_."""


def pools_alive(settings: Settings) -> list[Device]:
    """Kinds of device whose pool has a live worker of this home, GPUs first. None on a server without pools."""
    found: list[Device] = []
    with get_client(sync_client=True) as client:
        for device, pool in POOLS.items():
            try:
                workers = client.read_workers_for_work_pool(pool)
            except PrefectHTTPStatusError as problem:
                if problem.response.status_code != HTTPStatus.NOT_FOUND:
                    raise
                continue  # nobody has deployed here
            if any(worker.status == "ONLINE" and worker.name.endswith(settings.mark) for worker in workers):
                found.append(device)
    return found


def train_on(
    device: Device,
    order: TrainingOrder,
    decision: str,
    base_model: str | None,
    settings: Settings,
    tuned: Tuned | None = None,
) -> str | None:
    """Have the pool's worker train, and wait. Returns the version's number; None where no worker took it.

    Raises TrainingError as the training there did, or where its run ended without a word.
    """
    mark = f"order:{order.digest[:16]}"
    run = cast("FlowRun", run_deployment(
        DEPLOYMENTS[device],
        parameters={
            "dataset": order.dataset,
            "recipe": order.recipe.model_dump(mode="json"),
            "decision": decision,
            "base_model": base_model,
            "tuned": tuned.model_dump(mode="json") if tuned else None,
        },
        idempotency_key=f"train:{device}:{order.digest}:{_ended(mark)}",
        tags=["academy", mark],
        job_variables={"env": carried(settings)},
        timeout=0,
    ))  # fmt: skip
    state = _awaited(run, device, settings)
    if state is None:
        return None
    if state.is_completed():
        return str(state.result()["version"])
    problem: Any = state.result(raise_on_failure=False)
    if isinstance(problem, TrainingError):
        raise problem
    said = str(problem or state.message or state.name).strip().splitlines()[0][:300]
    raise TrainingError(
        f"The training's run on {POOLS[device]} ended as {state.name}: {said}",
        "Run the same command again: it goes on from the last checkpoint.",
        cause="cancelled" if state.is_cancelled() else "killed",
    )


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
