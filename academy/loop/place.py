"""Places trainings of this home: its settings, its base model and what its earlier trainings used."""

from __future__ import annotations

from academy.errors import BaseModelError
from academy.habitat import placement as placements
from academy.habitat.backends.choice import select_backend
from academy.habitat.memory import Device, read_shape
from academy.habitat.placement import DEVICES, Placement, Site
from academy.loop.home import Home
from academy.professor.recipe import Recipe
from academy.system.hardware import Inventory


def site_of(home: Home, machine: Inventory | None = None, only: Device | None = None) -> Site:
    """What decides where a training of this home runs, beside its recipe. Inspects this machine without `machine`."""
    shape, unknown = None, ""
    try:
        shape = read_shape(home.base.path)
    except BaseModelError as problem:
        unknown = problem.message.rstrip(".")
    # for the CPU alone no image is tried with a GPU
    settings = home.settings.model_copy(update={"enable_gpu": False}) if only == "cpu" else home.settings
    ratios = {device: measured_ratios(home, device) for device in DEVICES} if shape else {}
    return Site(home.settings, select_backend(settings, machine), shape, unknown, ratios)


def place(
    home: Home,
    recipe: Recipe,
    longest: int | None = None,
    machine: Inventory | None = None,
    only: Device | None = None,
    *,
    cautious: bool = False,
) -> Placement:
    """Where a training of this home would run. Arguments as in `academy.habitat.placement.place`."""
    return placements.place(site_of(home, machine, only), recipe, longest, only, cautious=cautious)


def fall_back(
    home: Home,
    placement: Placement,
    longest: int | None,
    machine: Inventory | None = None,
    only: Device | None = None,
) -> Placement | None:
    """Where a training continues that ran out of memory; None if no fallback step is left."""
    return placements.fall_back(site_of(home, machine, only), placement, longest, only)


def first_device(home: Home, machine: Inventory | None = None) -> Device:
    """The device that a training of this home tries first."""
    return placements.first_device(home.settings, select_backend(home.settings, machine))


def measured_ratios(home: Home, device: Device) -> list[float]:
    """Measured peak / predicted peak of the last trainings of this base model on such a device.

    MLflow is opened only if something was trained in this home.
    """
    if not any(home.settings.folder("runs").glob("*/events.jsonl")):
        return []
    from academy.genealogy.tracking import memory_ratios

    return memory_ratios(home.mlflow, home.base.digest, device)
