"""Places a training order: everything that decides an adapter's bytes, as one record."""

from __future__ import annotations

from contextlib import suppress

from academy.curriculum.dataset import Dataset
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Plan
from academy.habitat.placement import Placement
from academy.habitat.run_folder import ORDER
from academy.loop.home import Home
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file


def place_order(home: Home, dataset: Dataset, recipe: Recipe, form: str = "") -> TrainingOrder:
    """The order for a dataset and a recipe. `form` trains on another format of the same lines."""
    file = dataset.export(form) if form else dataset.train_file
    return TrainingOrder(
        base=home.base,
        dataset=dataset.digest,
        train_file=file,
        train_digest=digest_of_file(file) if form else dataset.train_digest,
        recipe=recipe,
        init_adapter=home.adapters / recipe.init_adapter[:16] if recipe.init_adapter else None,
        runs=home.settings.folder("runs"),
        adapters=home.adapters,
    )


def change_order(
    order: TrainingOrder, recipe: Recipe, plan: Plan | None = None, changes: tuple[str, ...] = ()
) -> TrainingOrder:
    """The same order with another recipe or plan."""
    return order.model_copy(update={"recipe": recipe, "plan": plan, "changes": changes})


def digests_carried_out(order: TrainingOrder, placement: Placement) -> set[str]:
    """Digests of an order and of the orders that ran in its place because it needed too much memory."""
    digests = {order.digest}
    for fallback in placement.fallbacks:
        lower = change_order(order, fallback.step.recipe)
        with suppress(OSError, ValueError):
            if TrainingOrder.model_validate_json((lower.folder / ORDER).read_bytes()).changes:
                digests.add(lower.digest)
    return digests
