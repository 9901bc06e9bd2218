"""A training on a work pool of its own, where a worker of that pool is alive; else it is left to who asked.

The pools' workers share the home. A run is known by its order and by how often that order has failed before, so a flow
that was killed while it waited finds the run that it started, and one that crashed is not taken for an answer.
"""

from __future__ import annotations

from typing import Any, cast

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound

from academy.errors import TrainingError
from academy.habitat.backend import TrainingOrder
from academy.habitat.fit import Device
from academy.habitat.route import POOLS
from academy.tuning import Tuned

DEPLOYMENTS: dict[Device, str] = {"cuda": "train/gpu", "cpu": "train/cpu"}
POLL_SECONDS = 1.0


def pools_alive() -> list[Device]:
    """Kinds of device whose pool has a live worker, GPUs first. None of them without workers, or on no server."""
    found: list[Device] = []
    with get_client(sync_client=True) as client:
        for device, pool in POOLS.items():
            try:
                workers = client.read_workers_for_work_pool(pool)
            except ObjectNotFound:
                continue
            if any(worker.status == "ONLINE" for worker in workers):
                found.append(device)
    return found


def train_on(
    device: Device, order: TrainingOrder, decision: str, base_model: str | None, tuned: Tuned | None = None
) -> str:
    """Have the pool's worker train, and wait. Returns the version's number.

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
        idempotency_key=f"train:{device}:{order.digest}:{_failures(mark)}",
        tags=["academy", mark],
        poll_interval=POLL_SECONDS,
        timeout=None,
    ))  # fmt: skip
    state = run.state
    if state is None or not state.is_final():
        raise TrainingError("The training's run has no end.", "Look at it in Prefect's pages.", cause="unknown")
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


def _failures(mark: str) -> int:
    """How many runs of this order came to a bad end: each next one needs a key of its own."""
    bad = {StateType.FAILED, StateType.CRASHED, StateType.CANCELLED}
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[mark])))
    return sum(1 for run in runs if run.state_type in bad)
