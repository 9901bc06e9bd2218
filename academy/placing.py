"""Where a training of this home would run and whether it fits there: prediction, earlier measurements and the machine.

The pure parts are habitat/fit.py and habitat/route.py. What trainings really took is read from MLflow.
"""

from __future__ import annotations

from collections.abc import Iterator

from academy.artifacts import Record
from academy.errors import BaseModelError, TrainingError
from academy.habitat.fit import GIB, Device, Plan, Prediction, Shape, predict, read_shape, usual_plan
from academy.habitat.hardware import Inventory, take_inventory
from academy.habitat.route import Need, Route, Rung, next_rung, route
from academy.professor import Recipe
from academy.workplace import Workplace


class Step(Record):
    """A rung of the ladder with what it would need; `fits`: there is so much free now."""

    rung: Rung
    need: int  # bytes
    fits: bool


class Placement(Record):
    """Where a training goes. `prediction` is for that place; None where nothing can be predicted."""

    route: Route
    prediction: Prediction | None
    ladder: tuple[Step, ...] = ()  # where it fits nowhere: what would need less

    @property
    def tags(self) -> dict[str, str]:
        """What its MLflow run is found by when the next training is predicted."""
        return {"academy.device": str(self.route.place)}

    @property
    def remedy(self) -> str:
        """What to do where it fits nowhere: a smaller batch, if the trainer's usual plan fits with one."""
        for step in self.ladder:
            if step.fits and step.rung.plan == self.ladder[0].rung.plan:
                return f"With --batch-size {step.rung.recipe.batch_size} it would take about {step.need / GIB:.1f} GiB."
        return "Free some memory, or use a smaller base model, rank or batch; `academy habitat fit` shows the figures."

    def require(self) -> None:
        """Raises TrainingError where the training would fit nowhere."""
        if not self.route.place:
            raise TrainingError(f"This training fits {self.route.sentence}.", self.remedy, cause="memory")


def place(work: Workplace, recipe: Recipe, longest: int | None = None, machine: Inventory | None = None) -> Placement:
    """Where a training with this recipe would run here. `longest`: tokens of its longest example."""
    machine = machine or take_inventory()
    enabled = work.settings.enable_gpu
    try:
        shape = read_shape(work.base.path)
    except BaseModelError as problem:
        unknown = Need(cuda=None, cpu=None, because=problem.message.rstrip("."))
        return Placement(route=route(unknown, machine, enable_gpu=enabled), prediction=None)
    found = {device: forecast(work, shape, recipe, usual_plan(device), longest) for device in _DEVICES}
    need = Need(cuda=found["cuda"].total, cpu=found["cpu"].total)
    chosen = route(need, machine, enable_gpu=enabled)
    if chosen.place:
        return Placement(route=chosen, prediction=found[chosen.place])
    tried: Device = "cuda" if machine.gpus and machine.cuda and enabled else "cpu"
    steps = ladder(work, shape, recipe, usual_plan(tried), longest, machine)
    return Placement(route=chosen, prediction=found[tried], ladder=tuple(steps))


_DEVICES: tuple[Device, ...] = ("cuda", "cpu")


def forecast(work: Workplace, shape: Shape, recipe: Recipe, plan: Plan, longest: int | None) -> Prediction:
    """The prediction, corrected by what earlier trainings of this base model took on such a device."""
    return predict(shape, recipe, plan, longest=longest, ratios=measured_ratios(work, plan.device))


def ladder(
    work: Workplace, shape: Shape, recipe: Recipe, plan: Plan, longest: int | None, machine: Inventory
) -> Iterator[Step]:
    """The rungs below a recipe that are tried after running out of memory, each with what it would need."""
    while (rung := next_rung(recipe, plan, machine)) is not None:
        recipe, plan = rung.recipe, rung.plan
        need = forecast(work, shape, recipe, plan, longest).total
        free = machine.memory_free
        if plan.device == "cuda":
            free = max((gpu.memory_free or 0 for gpu in machine.gpus), default=0)
        yield Step(rung=rung, need=need, fits=need <= free)


def measured_ratios(work: Workplace, device: Device) -> list[float]:
    """Measured peak by predicted peak of the last trainings of this base model on such a device.

    MLflow is opened only where something was trained already.
    """
    if not any(work.settings.folder("runs").glob("*/events.jsonl")):
        return []
    from academy.genealogy.tracking import memory_ratios

    return memory_ratios(work.mlflow, work.base.digest, device)
