"""Where a training of this home would run and whether it fits there: prediction, earlier measurements and the machine.

The pure parts are habitat/fit.py and habitat/route.py. What trainings really took is read from MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from academy.errors import BaseModelError, TrainingError
from academy.habitat.backends.choice import BackendChoice, configured_plan, find_route, select_backend
from academy.habitat.memory import Device, Plan, Prediction, Shape, predict, read_shape, without_checkpointing
from academy.habitat.routing import FallbackStep, Need, Route, gpus_by_preference, next_fallback
from academy.loop.home import Home
from academy.professor.recipe import Recipe
from academy.records import Record
from academy.system.gpu_lock import REMEDY
from academy.system.hardware import Inventory


class Step(Record):
    """A fallback step below a recipe, for after running out of memory; `fits`: what it would need is free now."""

    fallback: FallbackStep
    need: int  # bytes
    fits: bool


class Placement(Record):
    """Where a training goes, how it is carried out there, and what is predicted (nothing where that cannot be).

    `recipe` is the one that was asked for, or where that fits nowhere the first below it that fits somewhere, and
    `changes` say what is different. `predictions` are of the recipe that was asked for, on either device.
    """

    route: Route
    recipe: Recipe
    plan: Plan
    prediction: Prediction | None = None
    changes: tuple[str, ...] = ()
    predictions: dict[Device, Prediction] = Field(default_factory=dict)
    fallbacks: tuple[Step, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        """What its MLflow run is found by when the next training is predicted, and what was changed."""
        changed = {"academy.ladder": "; ".join(self.changes)} if self.changes else {}
        return {"academy.device": str(self.route.place), **changed}

    @property
    def sentence(self) -> str:
        """Where and why, and what was changed so that it fits."""
        return f"{self.route.sentence}{f', with {self.changes[-1]}' if self.changes else ''}"

    @property
    def expected(self) -> str:
        """What would come of it now, without a full stop: where it would train, or why nowhere."""
        if self.route.refusal:
            return f"it would be refused: {self.route.refusal.error}".rstrip(".")
        return f"it {'would train on' if self.route.place else 'fits'} {self.sentence}"

    def require(self) -> None:
        """Raises TrainingError where it is refused, would fit nowhere, or would have to wait for a GPU."""
        if self.route.refusal:
            raise self.route.refusal.error
        if self.route.held:
            raise TrainingError(f"This training fits {self.route.sentence}.", REMEDY, cause="gpu")
        if not self.route.place:
            raise TrainingError(
                f"This training fits {self.route.sentence}.",
                "Free some memory, or use a smaller base model or rank; `academy habitat fit` shows the figures.",
                cause="memory",
            )


def place(
    home: Home,
    recipe: Recipe,
    longest: int | None = None,
    machine: Inventory | None = None,
    only: Device | None = None,
    *,
    cautious: bool = False,
) -> Placement:
    """Where a training with this recipe would run here. `longest`: tokens of its longest example.

    `cautious`: nobody goes down the ladder afterwards, so a GPU checkpoints even where there seems to be room.

    The recipe as it is on a GPU, else less of it on a GPU, else the same on processors; or on `only` one kind.
    """
    here = _Here(home, machine, longest, only)
    if here.shape is None:
        unknown = Need(cuda=None, cpu=None, reason=here.unknown)
        return Placement(route=here.route(unknown), recipe=recipe, plan=here.usual(here.first))
    plans = {device: here.usual(device) if cautious else here.roomy(recipe, device) for device in _DEVICES}
    found = {device: here.forecast(recipe, plan) for device, plan in plans.items()}
    fallbacks = tuple(here.fallbacks(recipe, plans[here.first]))
    whole = here.route(Need(cuda=here.total(found["cuda"]), cpu=here.total(found["cpu"])))
    known = Placement(route=whole, recipe=recipe, plan=plans[here.first], predictions=found, fallbacks=fallbacks)
    if whole.held or whole.refusal:
        return known
    fitting = [(number, step) for number, step in enumerate(fallbacks) if step.fits]
    better = [one for one in fitting if one[1].fallback.plan.device == "cuda"]
    if whole.place and (whole.place == here.first or not better):
        return known.model_copy(update={"plan": plans[whole.place], "prediction": found[whole.place]})
    for number, step in better or fitting:
        return known.model_copy(
            update=here.on(step.fallback) | {"changes": tuple(one.fallback.change for one in fallbacks[: number + 1])}
        )
    return known


def below(
    home: Home,
    placed: Placement,
    longest: int | None,
    machine: Inventory | None = None,
    only: Device | None = None,
) -> Placement | None:
    """Where a training goes on that ran out of memory, whatever was predicted; None at the end of the ladder."""
    here = _Here(home, machine, longest, only)
    recipe, plan, changes = placed.recipe, placed.plan, placed.changes
    while (fallback := next_fallback(recipe, plan, here.machine)) is not None and only in (None, fallback.plan.device):
        recipe, plan, changes = fallback.recipe, fallback.plan, (*changes, fallback.change)
        found = placed.model_copy(update=here.on(fallback) | {"changes": changes})
        if found.route.place:
            return found
    return None


def first_device(home: Home, machine: Inventory | None = None) -> Device:
    """The device on which a training of this home is tried first: a GPU where there is one that it may use."""
    return _first(home, select_backend(home.settings, machine))


def _first(home: Home, chosen: BackendChoice) -> Device:
    return "cuda" if chosen.machine.gpus and chosen.can_use_gpus and home.settings.enable_gpu else "cpu"


class _Here:
    """What is known of home, base model and machine where a training is placed."""

    def __init__(self, home: Home, machine: Inventory | None, longest: int | None, only: Device | None) -> None:
        self.settings = home.settings
        # on processors alone no image is tried with a GPU
        without = {"enable_gpu": False} if only == "cpu" else {}
        self.chosen = select_backend(home.settings.model_copy(update=without), machine)
        self.machine = self.chosen.machine
        self.longest = longest
        self.only = only
        self.first: Device = "cpu" if only == "cpu" else _first(home, self.chosen)
        self.shape: Shape | None = None
        self.unknown = ""
        try:
            self.shape = read_shape(home.base.path)
        except BaseModelError as problem:
            self.unknown = problem.message.rstrip(".")
        self.ratios = {device: measured_ratios(home, device) for device in _DEVICES} if self.shape else {}

    def forecast(self, recipe: Recipe, plan: Plan) -> Prediction:
        if self.shape is None:
            raise BaseModelError(self.unknown)
        return predict(self.shape, recipe, plan, longest=self.longest, ratios=self.ratios[plan.device])

    def usual(self, device: Device) -> Plan:
        """How a recipe is carried out on a device where nothing forces otherwise, as the settings say."""
        return configured_plan(self.settings, device)

    def roomy(self, recipe: Recipe, device: Device) -> Plan:
        """The same, without checkpointing where the GPUs that it would get have room for it."""
        if self.shape is None:
            return self.usual(device)
        taken = gpus_by_preference(self.machine.gpus)[: self.settings.training_processes]
        free = min((gpu.memory_free or 0 for gpu in taken), default=0)
        return without_checkpointing(
            self.shape, recipe, self.usual(device), free, longest=self.longest, ratios=self.ratios[device]
        )

    def total(self, prediction: Prediction) -> int:
        """Bytes that are needed: of the one GPU that each process has, or of the memory that all of them share."""
        return prediction.total * (self.settings.training_processes if prediction.device == "cpu" else 1)

    def route(self, need: Need, only: Device | None = None) -> Route:
        return find_route(self.settings, self.chosen, need, only or self.only)

    def on(self, fallback: FallbackStep) -> dict[str, Any]:
        """What of a placement a fallback decides."""
        prediction = self.forecast(fallback.recipe, fallback.plan) if self.shape else None
        need = self.total(prediction) if prediction else None
        return {
            "route": self.route(Need(cuda=need, cpu=need, reason=self.unknown), fallback.plan.device),
            "recipe": fallback.recipe, "plan": fallback.plan, "prediction": prediction,
        }  # fmt: skip

    def fallbacks(self, recipe: Recipe, plan: Plan) -> Iterator[Step]:
        while (fallback := next_fallback(recipe, plan, self.machine)) is not None and self.only in (
            None,
            fallback.plan.device,
        ):
            recipe, plan = fallback.recipe, fallback.plan
            need = self.total(self.forecast(recipe, plan))
            yield Step(
                fallback=fallback, need=need, fits=bool(self.route(Need(cuda=need, cpu=need), plan.device).place)
            )


_DEVICES: tuple[Device, ...] = ("cuda", "cpu")


def measured_ratios(home: Home, device: Device) -> list[float]:
    """Measured peak by predicted peak of the last trainings of this base model on such a device.

    MLflow is opened only where something was trained already.
    """
    if not any(home.settings.folder("runs").glob("*/events.jsonl")):
        return []
    from academy.genealogy.tracking import memory_ratios

    return memory_ratios(home.mlflow, home.base.digest, device)
