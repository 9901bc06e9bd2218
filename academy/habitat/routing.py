"""Where a training goes, and what to do where it takes more memory than there is. Pure: records in, records out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from academy.errors import TrainingError
from academy.habitat.memory import GIB, Device, Plan, batch_per_process
from academy.professor.recipe import Recipe
from academy.records import Record
from academy.system.hardware import Gpu, Inventory

Backend = Literal["process", "container"]
POOLS: dict[Device, str] = {"cuda": "academy-train-gpu", "cpu": "academy-train-cpu"}
"""Work pools whose workers train, where there are any; the GPUs' first."""
MOST_ACCUMULATION = 128
"""The recipe's bound."""


class Need(Record):
    """What a training is expected to take at its peak, in bytes, on either kind of device.

    None where that cannot be predicted: then it goes where there is most room, and `reason` says why.
    """

    cuda: int | None
    cpu: int | None
    reason: str = ""


class Refusal(Record):
    """Why what was asked for cannot be had, as the error that it is where a training starts."""

    message: str
    remedy: str
    cause: str

    @property
    def error(self) -> TrainingError:
        return TrainingError(self.message, self.remedy, cause=self.cause)


class Route(Record):
    """Where a training goes: `place` is empty where it goes nowhere. `sentence` says why, with the figures.

    With a `refusal` nothing takes the place of what was asked for, whatever memory is free.
    """

    place: Literal["cuda", "cpu", ""]
    backend: Backend = "process"
    gpu: Gpu | None = None
    more: tuple[Gpu, ...] = ()  # of several processes each has one
    need: int | None = None  # bytes
    free: int | None = 0  # bytes, of the GPU with the least; None where it does not tell
    held: bool = False  # nowhere, because trainings hold all the GPUs
    refusal: Refusal | None = None
    sentence: str


class FallbackStep(Record):
    """A step of the ladder for out of memory: recipe and plan to go on with, and what was changed."""

    recipe: Recipe
    plan: Plan
    change: str


def route(
    need: Need,
    inventory: Inventory,
    *,
    enable_gpu: bool = True,
    backends: tuple[Backend, ...] = ("process",),
    only: Device | None = None,
    processes: int = 1,
) -> Route:
    """The GPU with the most free memory if the training fits there, else the processors if it fits there, else nowhere.

    Of several `processes` each has a GPU, and the one with the least free memory decides. A GPU that does not tell its
    memory is taken after those that are large enough, and before those that are not: the ladder goes on from there.

    A process can use a GPU where torch was built for CUDA, a container where the engine can give it one; `backends`
    are those that the caller can start, the preferred first; `only` leaves out the other kind of device.

    A GPU has one training at a time. Where all of them are held, and one would be large enough, it goes nowhere: the
    processors would take days for what a GPU does in the hour that it is to wait.
    """
    against = []
    able: list[Backend] = [
        one
        for one in backends
        if (one == "process" and inventory.cuda) or (one == "container" and inventory.docker.gpus)
    ]
    if only == "cpu":
        against.append("for the CPUs")
    elif not inventory.gpus:
        against.append(inventory.gpu_note or "no GPU")
    elif not enable_gpu:
        against.append("GPUs are switched off (ACADEMY_ENABLE_GPU)")
    elif not able:
        against.append("torch is built for CPUs" if "process" in backends else "Docker cannot give GPUs to containers")
    else:
        best, *more = taken = gpus_by_preference(inventory.gpus, need.cuda)[:processes]
        if len(taken) < processes:
            return _too_few(inventory, processes)
        if any(gpu.held for gpu in taken) and any(_fits(need.cuda, gpu.memory_total) for gpu in inventory.gpus):
            return _all_held(inventory, need, processes)
        told = [gpu.memory_free for gpu in taken if gpu.memory_free is not None]
        least = min(told) if told else None
        short = [gpu for gpu in taken if not _fits(need.cuda, _room(gpu))]
        if not short:
            return Route(
                place="cuda", backend=able[0], gpu=best, more=tuple(more), need=need.cuda, free=least,
                sentence=f"{_names(taken)}: {_of_gpus(need, taken, least)}",
            )  # fmt: skip
        free = _room(short[0]) or 0
        against.append(f"GPU {short[0].index} has {_gib(free)} free of the about {_gib(need.cuda or 0)} that it needs")
    free = inventory.memory_free
    reason = "; ".join(against)
    if only == "cuda":
        pass
    elif "process" in backends or inventory.docker.version:
        backend: Backend = "process" if "process" in backends else "container"
        if need.cpu is None or need.cpu <= free:
            return Route(
                place="cpu", backend=backend, need=need.cpu, free=free,
                sentence=f"{inventory.cpus} CPUs ({reason}): {_of(need.cpu, free, need.reason)}",
            )  # fmt: skip
        against.append(f"{_gib(free)} of memory are free of the about {_gib(need.cpu)} that it needs on CPUs")
    else:
        against.append("no Docker engine answers")
    return Route(place="", need=need.cpu, free=free, sentence=f"nowhere here: {'; '.join(against)}")


def gpus_by_preference(gpus: Sequence[Gpu], need: int | None = None) -> list[Gpu]:
    """GPUs in the order in which a training that needs so many bytes takes them.

    Those that no training holds first; of them those that fit, by free memory, then those that do not tell theirs.
    """

    def worth(gpu: Gpu) -> tuple[bool, bool, int]:
        return not gpu.held, _fits(need, _room(gpu)), _room(gpu) or 0

    return sorted(gpus, key=worth, reverse=True)


def _room(gpu: Gpu) -> int | None:
    """What a training may get of its memory, as far as it tells."""
    return gpu.memory_free if gpu.memory_free is not None else gpu.memory_total


def _fits(need: int | None, memory: int | None) -> bool:
    """Whether it may: what is not known is no reason against."""
    return need is None or memory is None or need <= memory


def _too_few(inventory: Inventory, processes: int) -> Route:
    there = len(inventory.gpus)
    refusal = Refusal(
        message=f"{processes} processes are to share the training, each on a GPU, and there "
        f"{'is one GPU' if there == 1 else f'are {there} GPUs'}.",
        remedy=f"Set ACADEMY_TRAINING_PROCESSES={there}, or ACADEMY_ENABLE_GPU=false.",
        cause="gpu",
    )
    return Route(place="", refusal=refusal, sentence=f"nowhere: {refusal.error}".rstrip("."))


def _all_held(inventory: Inventory, need: Need, processes: int) -> Route:
    gpus, free = inventory.gpus, sum(not gpu.held for gpu in inventory.gpus)
    if free:
        why = f"{processes} processes are to share the training, and {free} of {len(gpus)} GPUs are free"
    elif len(gpus) == 1:
        why = f"{_names(gpus)} is used by another training"
    else:
        why = "all GPUs are used by other trainings"
    return Route(place="", held=True, need=need.cuda, sentence=f"nowhere now: {why}")


def next_fallback(recipe: Recipe, plan: Plan, inventory: Inventory) -> FallbackStep | None:
    """What to try after a training ran out of memory; None at the end of the ladder.

    Smaller batches with as much more accumulation, by halves where that is possible, down to one example; then
    checkpointing; then, on several GPUs, weights that they share; then weights of 4 bits; then the processors.
    Each step of a training learns from as many examples as before, so the recipe means the same.
    """
    less = FallbackStep(recipe=recipe, plan=plan.model_copy(update={"checkpointing": True}), change="checkpointing")
    if plan.device == "cuda" and not plan.checkpointing:
        return less  # a GPU trains without it only where there seemed to be room, and nothing that is learned changes
    smaller = _smaller(recipe)
    while smaller and batch_per_process(smaller, plan.processes) >= batch_per_process(recipe, plan.processes):
        smaller = _smaller(smaller)  # several processes shared the step otherwise, each with as much memory or more
    if smaller:
        change = f"batches of {smaller.batch_size}, {smaller.accumulation} of them a step"
        return FallbackStep(recipe=smaller, plan=plan, change=change)
    if not plan.checkpointing:
        return less
    if plan.device == "cuda" and plan.processes > 1 and not plan.shared and not recipe.four_bit:
        # before weights of 4 bits, for this changes nothing of what is learned
        shared = plan.model_copy(update={"sharded": True})
        return FallbackStep(recipe=recipe, plan=shared, change=f"weights shared by {plan.processes} processes")
    alone = plan.model_copy(update={"sharded": False})
    if plan.device == "cuda" and not recipe.four_bit and inventory.bitsandbytes:
        return FallbackStep(
            recipe=recipe.model_copy(update={"four_bit": True}), plan=alone, change="base weights of 4 bits"
        )
    if plan.device == "cuda":
        below = alone.model_copy(update={"device": "cpu", "checkpointing": True})
        # there an evaluation spoils the gradients of weights of 4 bits, and packing is tried by one
        four = recipe.four_bit and not recipe.packing and not recipe.dev_share
        return FallbackStep(
            recipe=recipe.model_copy(update={"four_bit": four}), plan=below, change="training on the CPUs"
        )
    return None


def _smaller(recipe: Recipe) -> Recipe | None:
    """With smaller batches, and as many more of them a step; None where that cannot be."""
    if recipe.batch_size == 1:
        return None
    by = next(n for n in range(2, recipe.batch_size + 1) if recipe.batch_size % n == 0)
    if recipe.accumulation * by > MOST_ACCUMULATION:
        return None
    smaller = {"batch_size": recipe.batch_size // by, "accumulation": recipe.accumulation * by}
    return Recipe.model_validate({**recipe.model_dump(), **smaller})


def _names(gpus: Sequence[Gpu]) -> str:
    """For people, in the order in which they were taken."""
    return " and ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in gpus)


def _of_gpus(need: Need, gpus: Sequence[Gpu], least: int | None) -> str:
    """Need and free memory of each; `least` is that of those that tell it."""
    silent = sum(gpu.memory_free is None for gpu in gpus)
    if not silent and least is not None:
        return ("each " if len(gpus) > 1 else "") + _of(need.cuda, least, need.reason)
    whole = "it does not tell its memory" if len(gpus) == 1 else f"{silent} of them do not tell their memory"
    said = need.reason if need.cuda is None else f"about {_gib(need.cuda)}"
    return f"{said}; {whole}, so that is tried"


def _of(need: int | None, free: int, because: str) -> str:
    return f"about {_gib(need)} of {_gib(free)} free" if need is not None else f"{_gib(free)} free; {because}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
