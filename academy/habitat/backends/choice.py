"""Which backend a home trains with. A plan and the training itself ask here, so both get the same answer.

A backend that the user selected and that cannot train is refused; no other takes its place. With `auto`, trainings run
in a process where containers cannot be used, and a sentence says why.
"""

from __future__ import annotations

from academy.errors import EngineError, InputError, TrainingError
from academy.habitat.backends.base import BackendChoice, TrainingBackend
from academy.habitat.backends.table import AUTO, CONTAINER, PROCESS, find_backend
from academy.habitat.memory import Device, Plan, default_plan
from academy.habitat.routing import Need, Refusal, Route, route
from academy.settings import Settings
from academy.system.hardware import Inventory, take_inventory


def select_backend(settings: Settings, machine: Inventory | None = None) -> BackendChoice:
    """The backend of the settings, checked: for containers the image is found and tried, as before a training."""
    name = settings.training_backend
    machine = machine or take_inventory(engine=name in (AUTO, CONTAINER))
    try:
        return _inspect(CONTAINER if name == AUTO else name, settings, machine)
    except (EngineError, InputError, TrainingError) as problem:
        if name == AUTO:
            choice = _inspect(PROCESS, settings, machine)
            return choice.model_copy(update={"container_problem": problem.message.rstrip(".")})
        match problem:
            case TrainingError():
                cause = problem.cause
            case EngineError():
                cause = "engine"
            case _:
                cause = "order"
        refusal = Refusal(message=problem.message, remedy=problem.remedy, cause=cause)
        return BackendChoice(backend=name, machine=machine, refusal=refusal)


def find_route(settings: Settings, choice: BackendChoice, need: Need, only: Device | None = None) -> Route:
    """Where a training with this need would run. The sentence also says why a process replaces a container."""
    if choice.refusal:
        sentence = str(choice.refusal.error).rstrip(".")
        return Route(place="", backend=choice.backend, refusal=choice.refusal, sentence=sentence)
    way = route(
        need,
        choice.machine,
        enable_gpu=settings.enable_gpu and only != "cpu",
        backend=choice.backend,
        gpu_problem=choice.gpu_problem,
        only=only,
        processes=settings.training_processes,
    )
    if not choice.container_problem:
        return way
    return way.model_copy(
        update={"sentence": f"{way.sentence}; in a process instead of a container: {choice.container_problem}"}
    )


def create_backend(settings: Settings, way: Route) -> TrainingBackend:
    """Create the backend for a training on this route. Raises TrainingError if the route is refused."""
    if way.refusal:
        raise way.refusal.error
    gpus = [gpu.uuid for gpu in (way.gpu, *way.more) if gpu]
    return find_backend(way.backend).create(settings, gpus)


def configured_plan(settings: Settings, device: Device) -> Plan:
    """The default plan of a device with what the settings change."""
    changes = {
        "library": settings.training_library, "processes": settings.training_processes,
        "sharded": settings.training_sharded,
    }  # fmt: skip
    return default_plan(device).model_copy(update=changes)


def _inspect(name: str, settings: Settings, machine: Inventory) -> BackendChoice:
    """Raises EngineError, InputError or TrainingError if this backend cannot train now."""
    choice = find_backend(name).inspect(settings, machine)
    # a subclass may give the name of its parent
    return choice.model_copy(update={"backend": name, "location": choice.location or f"in the backend {name}"})
