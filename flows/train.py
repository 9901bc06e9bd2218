"""A training as its own flow: the deployments train/gpu and train/cpu run it on work pools of their own."""

from __future__ import annotations

from typing import Literal

from prefect import flow
from prefect.runtime import flow_run

from academy.loop.train_by_hand import BY_HAND
from academy.loop.train_dataset import OrderDigests, RegisteredAdapter, TrainingLimits
from academy.operations.locks import one_training
from academy.operations.results import RecordSerializer
from academy.professor.recipe_options import RecipeOptions
from academy.professor.search_space import TuningResult
from tasks import stages


@flow(name="train", persist_result=True, result_serializer=RecordSerializer(), validate_parameters=True)
def train(
    dataset: str,
    device: Literal["cuda", "cpu"] = "cpu",
    recipe: RecipeOptions = RecipeOptions(),  # noqa: B008  a frozen record
    decision: str = BY_HAND,
    base_model: str | None = None,
    tuning: TuningResult | None = None,
    expected: OrderDigests | None = None,
    limits: TrainingLimits = TrainingLimits(),  # noqa: B008  a frozen record
) -> RegisteredAdapter:
    """Train on a dataset without asking whether it pays, and register the adapter as a version.

    Args:
        dataset: The dataset's digest, or its beginning.
        device: What this pool's workers train on.
        recipe: Fields of the recipe to set. The professor chooses the others.
        decision: Why this is trained, for the record.
        base_model: 'seed', a folder or a Hugging Face name. If empty, ACADEMY_BASE_MODEL.
        tuning: Leave empty. An evolution passes the search that chose the recipe.
        expected: Leave empty. An evolution passes the digests of its order, and any other order is refused.
        limits: Settings of this training that differ from the worker's.
    """
    with one_training(str(flow_run.get_id())):
        return stages.train_here(dataset, device, recipe, decision, base_model, tuning, expected, limits)
