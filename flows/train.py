"""A training as a flow of its own: the deployments train/gpu and train/cpu run it on pools of their own."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from academy.tuning import Tuned
from tasks import loop


@flow(name="train", persist_result=True, validate_parameters=True)
def train(
    dataset: str,
    device: Literal["cuda", "cpu"] = "cpu",
    recipe: dict[str, Any] | None = None,
    decision: str = "by hand",
    base_model: str | None = None,
    tuned: Tuned | None = None,
) -> dict[str, Any]:
    """Train on a dataset without asking whether it pays, and register the adapter as a version.

    Args:
        dataset: The dataset's digest, or its beginning.
        device: What this pool's workers train on.
        recipe: How to train; empty to let the professor choose.
        decision: Why this is trained, for the record.
        base_model: 'seed', a folder or a Hugging Face name; empty for ACADEMY_BASE_MODEL.
        tuned: The search that found the recipe; empty where there was none.
    """
    return loop.train_here(dataset, device, recipe, decision, base_model, tuned)
