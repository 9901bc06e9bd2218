"""Where a training runs and whether it fits there. Pure: settings, base model, machine and measured ratios in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from academy.errors import BaseModelError, TrainingError
from academy.habitat.backends.base import BackendChoice
from academy.habitat.backends.choice import configured_plan, find_route
from academy.habitat.memory import Device, Plan, Prediction, Shape, predict, without_checkpointing
from academy.habitat.routing import FallbackStep, Need, Route, gpus_by_preference, next_fallback
from academy.professor.recipe import Recipe
from academy.records import Record
from academy.settings import Settings
from academy.system.gpu_lock import REMEDY


class Fallback(Record):
    """A fallback step for a training that runs out of memory. `fits`: the memory that it needs is free now."""

    step: FallbackStep
    need: int  # bytes
    fits: bool


class Placement(Record):
    """Where a training runs, how it is carried out there, and its predicted memory (None if it cannot be predicted).

    `recipe` is the requested one, or the first fallback step that fits; `changes` lists what was changed.
    `predictions` are those of the requested recipe, for either device.
    """

    route: Route
    recipe: Recipe
    plan: Plan
    prediction: Prediction | None = None
    changes: tuple[str, ...] = ()
    predictions: dict[Device, Prediction] = Field(default_factory=dict)
    fallbacks: tuple[Fallback, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        """Tags of its MLflow run: the device, by which later predictions find it, and the changes."""
        changes = {"academy.fallback_steps": "; ".join(self.changes)} if self.changes else {}
        return {"academy.device": str(self.route.place), **changes}

    @property
    def sentence(self) -> str:
        """Where and why, and what was changed so that it fits."""
        return f"{self.route.sentence}{f', with {self.changes[-1]}' if self.changes else ''}"

    @property
    def expected(self) -> str:
        """What would happen now, without a full stop: where it would train, or why it cannot."""
        if self.route.refusal:
            return f"it would be refused: {self.route.refusal.error}".rstrip(".")
        if self.route.held:
            return f"it would have to wait: {self.route.sentence}"
        return f"it {'would train on' if self.route.place else 'cannot run here:'} {self.sentence}"

    def require(self) -> None:
        """Raise TrainingError if the training is refused, does not fit in memory, or has to wait for a GPU."""
        if self.route.refusal:
            raise self.route.refusal.error
        if self.route.held:
            raise TrainingError(f"This training has to wait: {self.route.sentence}.", REMEDY, cause="gpu")
        if not self.route.place:
            raise TrainingError(
                f"This training cannot run here: {self.route.sentence}.",
                "Free some memory, or use a smaller base model or rank; `academy habitat fit` shows the figures.",
                cause="memory",
            )


class Site(NamedTuple):
    """What decides where a training runs, beside its recipe: values that were measured or read before."""

    settings: Settings
    choice: BackendChoice  # the backend, and the inventory of its machine
    shape: Shape | None  # of the base model; None if its memory cannot be predicted
    unknown: str = ""  # why there is no shape
    ratios: Mapping[Device, Sequence[float]] = {}  # measured peak / predicted peak of earlier trainings


def place(
    site: Site,
    recipe: Recipe,
    longest: int | None = None,
    only: Device | None = None,
    *,
    cautious: bool = False,
) -> Placement:
    """Where a training with this recipe runs: the recipe on a GPU, else a fallback step on a GPU, else on the CPU.

    `longest` is the length of the longest example in tokens. `only` excludes the other kind of device. `cautious` is
    for trainings without fallback steps: a GPU then uses checkpointing even if there seems to be room without it.
    """
    planner = _Planner(site, longest, only)
    if planner.shape is None:
        unknown = Need(cuda=None, cpu=None, reason=planner.unknown)
        return Placement(route=planner.route(unknown), recipe=recipe, plan=planner.usual(planner.first))
    plans = {device: planner.usual(device) if cautious else planner.roomy(recipe, device) for device in DEVICES}
    predictions = {device: planner.forecast(recipe, plan) for device, plan in plans.items()}
    fallbacks = tuple(planner.fallbacks(recipe, plans[planner.first]))
    need = Need(cuda=planner.total(predictions["cuda"]), cpu=planner.total(predictions["cpu"]))
    placement = Placement(
        route=planner.route(need), recipe=recipe, plan=plans[planner.first], predictions=predictions,
        fallbacks=fallbacks,
    )  # fmt: skip
    route = placement.route
    if route.held or route.refusal:
        return placement
    fitting = [(number, fallback) for number, fallback in enumerate(fallbacks) if fallback.fits]
    on_gpu = [(number, fallback) for number, fallback in fitting if fallback.step.plan.device == "cuda"]
    if route.place and (route.place == planner.first or not on_gpu):
        return placement.model_copy(update={"plan": plans[route.place], "prediction": predictions[route.place]})
    for number, fallback in on_gpu or fitting:
        changes = tuple(fallback.step.change for fallback in fallbacks[: number + 1])
        return placement.model_copy(update=planner.after(fallback.step) | {"changes": changes})
    return placement


def fall_back(
    site: Site, placement: Placement, longest: int | None, only: Device | None = None
) -> Placement | None:  # fmt: skip
    """Where a training continues that ran out of memory, whatever was predicted; None if no fallback step is left."""
    planner = _Planner(site, longest, only)
    recipe, plan, changes = placement.recipe, placement.plan, placement.changes
    while (step := next_fallback(recipe, plan, planner.machine)) is not None and only in (None, step.plan.device):
        recipe, plan, changes = step.recipe, step.plan, (*changes, step.change)
        lower = placement.model_copy(update=planner.after(step) | {"changes": changes})
        if lower.route.place:
            return lower
    return None


def first_device(settings: Settings, choice: BackendChoice) -> Device:
    """The device that a training tries first: a GPU if there is one that it may use."""
    return "cuda" if choice.machine.gpus and choice.can_use_gpus and settings.enable_gpu else "cpu"


class _Planner:
    """Predicts and routes trainings of one base model on one machine."""

    def __init__(self, site: Site, longest: int | None, only: Device | None) -> None:
        self.settings = site.settings
        self.choice = site.choice
        self.machine = site.choice.machine
        self.longest = longest
        self.only = only
        self.first: Device = "cpu" if only == "cpu" else first_device(site.settings, site.choice)
        self.ratios = {device: list(site.ratios.get(device, ())) for device in DEVICES}
        self.shape = site.shape
        self.unknown = site.unknown

    def forecast(self, recipe: Recipe, plan: Plan) -> Prediction:
        if self.shape is None:
            raise BaseModelError(self.unknown)
        return predict(self.shape, recipe, plan, longest=self.longest, ratios=self.ratios[plan.device])

    def usual(self, device: Device) -> Plan:
        """How the settings carry out a recipe on a device."""
        return configured_plan(self.settings, device)

    def roomy(self, recipe: Recipe, device: Device) -> Plan:
        """The same, without checkpointing if the GPUs that it would use have room for that."""
        if self.shape is None:
            return self.usual(device)
        gpus = gpus_by_preference(self.machine.gpus)[: self.settings.training_processes]
        free = min((gpu.memory_free or 0 for gpu in gpus), default=0)
        return without_checkpointing(
            self.shape, recipe, self.usual(device), free, longest=self.longest, ratios=self.ratios[device]
        )

    def total(self, prediction: Prediction) -> int:
        """Bytes needed: of one GPU, since each process has its own, or of the memory that all processes share."""
        return prediction.total * (self.settings.training_processes if prediction.device == "cpu" else 1)

    def route(self, need: Need, only: Device | None = None) -> Route:
        return find_route(self.settings, self.choice, need, only or self.only)

    def after(self, step: FallbackStep) -> dict[str, Any]:
        """The fields of a placement that a fallback step changes."""
        prediction = self.forecast(step.recipe, step.plan) if self.shape else None
        need = self.total(prediction) if prediction else None
        return {
            "route": self.route(Need(cuda=need, cpu=need, reason=self.unknown), step.plan.device),
            "recipe": step.recipe, "plan": step.plan, "prediction": prediction,
        }  # fmt: skip

    def fallbacks(self, recipe: Recipe, plan: Plan) -> Iterator[Fallback]:
        while (step := next_fallback(recipe, plan, self.machine)) is not None and self.only in (None, step.plan.device):
            recipe, plan = step.recipe, step.plan
            need = self.total(self.forecast(recipe, plan))
            fits = bool(self.route(Need(cuda=need, cpu=need), plan.device).place)
            yield Fallback(step=step, need=need, fits=fits)


DEVICES: tuple[Device, ...] = ("cuda", "cpu")
