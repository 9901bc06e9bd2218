"""A training as a flow of its own: the deployments train/gpu and train/cpu run it on pools of their own."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.runtime import flow_run

from academy.loop.training import Asked
from academy.operations.prefect_server import training_lock
from academy.professor.search_space import TuningResult
from academy.settings import load_settings
from academy.store.locks import exclusive_lock
from tasks import loop


@flow(name="train", persist_result=True, validate_parameters=True)
def train(
    dataset: str,
    device: Literal["cuda", "cpu"] = "cpu",
    recipe: dict[str, Any] | None = None,
    decision: str = "by hand",
    base_model: str | None = None,
    tuned: TuningResult | None = None,
    asked: Asked | None = None,
) -> dict[str, Any]:
    """Train on a dataset without asking whether it pays, and register the adapter as a version.

    Args:
        dataset: The dataset's digest, or its beginning.
        device: What this pool's workers train on.
        recipe: Fields of a recipe, such as {"epochs": 2, "use_dora": true}; the professor chooses what is left out.
        decision: Why this is trained, for the record.
        base_model: 'seed', a folder or a Hugging Face name; empty for ACADEMY_BASE_MODEL.
        tuned: The search that found the recipe; empty where there was none.
        asked: Digests of what an evolution ordered, which refuse anything else; empty by hand.
    """
    lock = training_lock(load_settings().folder("locks"), str(flow_run.get_id()))
    with exclusive_lock(lock, "This very run is at work already."):
        try:
            return loop.train_here(dataset, device, recipe, decision, base_model, tuned, asked)
        finally:
            lock.unlink(missing_ok=True)
