"""Where a training of this home would run and whether it fits there: prediction, earlier measurements and the machine.

The pure parts are habitat/fit.py and habitat/route.py. What trainings really took is read from MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pydantic import Field

from academy.artifacts import Record
from academy.errors import BaseModelError, TrainingError
from academy.habitat.fit import GIB, Device, Plan, Prediction, predict, read_shape, usual_plan
from academy.habitat.hardware import Inventory, take_inventory
from academy.habitat.route import Backend, Need, Route, Rung, next_rung, route
from academy.professor import Recipe
from academy.workplace import Workplace


class Step(Record):
    """A rung below a recipe, for after running out of memory; `fits`: what it would need is free now."""

    rung: Rung
    need: int  # bytes
    fits: bool


class Placement(Record):
    """Where a training goes, what is predicted for either device (nothing where that cannot be), and the ladder."""

    route: Route
    predictions: dict[Device, Prediction] = Field(default_factory=dict)
    ladder: tuple[Step, ...] = ()

    @property
    def prediction(self) -> Prediction | None:
        """That of the place where it goes."""
        return self.predictions.get(self.route.place) if self.route.place else None

    @property
    def tags(self) -> dict[str, str]:
        """What its MLflow run is found by when the next training is predicted."""
        return {"academy.device": str(self.route.place)}

    @property
    def remedy(self) -> str:
        """What to do where it fits nowhere: a smaller batch, if the trainer's usual plan fits with one."""
        for step in self.ladder:
            if step.fits and step.rung.plan == usual_plan(step.rung.plan.device):
                return f"With --batch-size {step.rung.recipe.batch_size} it would take about {step.need / GIB:.1f} GiB."
        return "Free some memory, or use a smaller base model, rank or batch; `academy habitat fit` shows the figures."

    def require(self) -> None:
        """Raises TrainingError where the training would fit nowhere."""
        if not self.route.place:
            raise TrainingError(f"This training fits {self.route.sentence}.", self.remedy, cause="memory")


def place(work: Workplace, recipe: Recipe, longest: int | None = None, machine: Inventory | None = None) -> Placement:
    """Where a training with this recipe would run here. `longest`: tokens of its longest example."""
    in_container = work.settings.training_backend == "container"
    machine = machine or take_inventory(engine=in_container)
    enabled = work.settings.enable_gpu
    try:
        shape = read_shape(work.base.path)
    except BaseModelError as problem:
        unknown = Need(cuda=None, cpu=None, because=problem.message.rstrip("."))
        return Placement(route=route(unknown, machine, enable_gpu=enabled))
    ratios = {device: measured_ratios(work, device) for device in _DEVICES}

    def forecast(changed: Recipe, plan: Plan) -> Prediction:
        return predict(shape, changed, plan, longest=longest, ratios=ratios[plan.device])

    found = {device: forecast(recipe, usual_plan(device)) for device in _DEVICES}
    # an engine that is not there is told by the backend, with its remedy
    backend: Backend = "container" if in_container and machine.docker.version else "process"
    begin = usual_plan("cuda" if machine.gpus and machine.cuda and enabled else "cpu")
    return Placement(
        route=route(
            Need(cuda=found["cuda"].total, cpu=found["cpu"].total), machine, enable_gpu=enabled, backends=(backend,)
        ),
        predictions=found,
        ladder=tuple(_ladder(recipe, begin, machine, forecast)),
    )


_DEVICES: tuple[Device, ...] = ("cuda", "cpu")


def _ladder(
    recipe: Recipe, plan: Plan, machine: Inventory, forecast: Callable[[Recipe, Plan], Prediction]
) -> Iterator[Step]:
    while (rung := next_rung(recipe, plan, machine)) is not None:
        recipe, plan = rung.recipe, rung.plan
        need = forecast(recipe, plan).total
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
