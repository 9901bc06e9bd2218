"""Which device a training runs on, and the fallback steps if it needs more memory than there is.

Pure: records in, records out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from academy.errors import TrainingError
from academy.habitat.memory import GIB, Device, Plan, batch_per_process
from academy.professor.recipe import Recipe
from academy.records import Record
from academy.system.hardware import Gpu, Inventory

POOLS: dict[Device, str] = {"cuda": "academy-train-gpu", "cpu": "academy-train-cpu"}
"""Work pools whose workers train, if there are any; the GPU pool comes first."""
MOST_ACCUMULATION = 128
"""The recipe's limit."""


class Need(Record):
    """What a training is expected to need at its peak, in bytes, on either kind of device.

    None where that cannot be predicted. The training then goes where there is most memory, and `reason` says why.
    """

    cuda: int | None
    cpu: int | None
    reason: str = ""


class Refusal(Record):
    """Why the selected backend or device cannot be used. `error` is what starting a training raises."""

    message: str
    remedy: str
    cause: str

    @property
    def error(self) -> TrainingError:
        return TrainingError(self.message, self.remedy, cause=self.cause)


class Route(Record):
    """Where a training runs; `place` is empty if it cannot run now. `sentence` has the reason and the figures.

    With a `refusal` the training is rejected even if another device or backend could run it.
    """

    place: Literal["cuda", "cpu", ""]
    backend: str = "process"
    gpu: Gpu | None = None
    more: tuple[Gpu, ...] = ()  # further GPUs: each of several processes has one
    need: int | None = None  # bytes
    free: int | None = 0  # bytes, of the GPU with the least; None if the GPU does not report it
    held: bool = False  # it cannot run now, because trainings use all GPUs
    refusal: Refusal | None = None
    sentence: str


class FallbackStep(Record):
    """One step to need less memory: the recipe and plan to continue with, and what changed."""

    recipe: Recipe
    plan: Plan
    change: str


def route(
    need: Need,
    inventory: Inventory,
    *,
    enable_gpu: bool = True,
    backend: str = "process",
    gpu_problem: str = "",
    only: Device | None = None,
    processes: int = 1,
) -> Route:
    """Choose the GPU with the most free memory if the training fits there, else the CPUs if it fits there, else none.

    Each of several `processes` has a GPU, and the one with the least free memory decides. A GPU that does not report
    its memory comes after those that are large enough and before those that are not; fallback steps follow from there.

    `gpu_problem` says why the backend cannot use this machine's GPUs; `only` excludes the other kind of device.

    A GPU runs one training at a time. If all are in use and one would be large enough, the training waits: the CPUs
    would take days for what a GPU does in an hour.
    """
    reasons = []
    if only == "cpu":
        reasons.append("for the CPUs")
    elif not inventory.gpus:
        reasons.append(inventory.gpu_note or "no GPU")
    elif not enable_gpu:
        reasons.append("GPUs are switched off (ACADEMY_ENABLE_GPU)")
    elif gpu_problem:
        reasons.append(gpu_problem)
    else:
        best, *others = gpus = gpus_by_preference(inventory.gpus, need.cuda)[:processes]
        if len(gpus) < processes:
            return _too_few(inventory, backend, processes)
        if any(gpu.held for gpu in gpus) and any(_fits(need.cuda, gpu.memory_total) for gpu in inventory.gpus):
            return _all_in_use(inventory, backend, need, processes)
        reports = [gpu.memory_free for gpu in gpus if gpu.memory_free is not None]
        smallest = min(reports) if reports else None
        too_small = [gpu for gpu in gpus if not _fits(need.cuda, _memory_of(gpu))]
        if not too_small:
            return Route(
                place="cuda", backend=backend, gpu=best, more=tuple(others), need=need.cuda, free=smallest,
                sentence=f"{_names(gpus)}: {_gpu_figures(need, gpus, smallest)}",
            )  # fmt: skip
        free = _memory_of(too_small[0]) or 0
        reasons.append(f"GPU {too_small[0].index} has {_gib(free)} free (about {_gib(need.cuda or 0)} needed)")
    free = inventory.memory_free
    if only != "cuda":
        if need.cpu is None or need.cpu <= free:
            return Route(
                place="cpu", backend=backend, need=need.cpu, free=free,
                sentence=f"{inventory.cpus} CPUs ({'; '.join(reasons)}): {_figures(need.cpu, free, need.reason)}",
            )  # fmt: skip
        reasons.append(f"the CPUs have {_gib(free)} of memory free (about {_gib(need.cpu)} needed)")
    return Route(place="", backend=backend, need=need.cpu, free=free, sentence="; ".join(reasons))


def gpus_by_preference(gpus: Sequence[Gpu], need: int | None = None) -> list[Gpu]:
    """GPUs in the order in which a training that needs this many bytes takes them.

    GPUs that no training uses come first; among those, the ones that fit, by free memory, then those that do not
    report their memory.
    """

    def rank(gpu: Gpu) -> tuple[bool, bool, int]:
        return not gpu.held, _fits(need, _memory_of(gpu)), _memory_of(gpu) or 0

    return sorted(gpus, key=rank, reverse=True)


def _memory_of(gpu: Gpu) -> int | None:
    """Bytes that a training may get of its memory, if the GPU reports them."""
    return gpu.memory_free if gpu.memory_free is not None else gpu.memory_total


def _fits(need: int | None, memory: int | None) -> bool:
    """Whether it can fit: an unknown figure is not a reason against it."""
    return need is None or memory is None or need <= memory


def _too_few(inventory: Inventory, backend: str, processes: int) -> Route:
    count = len(inventory.gpus)
    refusal = Refusal(
        message=f"{processes} processes are to share the training, each on its own GPU, and this machine has "
        f"{'one GPU' if count == 1 else f'{count} GPUs'}.",
        remedy=f"Set ACADEMY_TRAINING_PROCESSES={count}, or ACADEMY_ENABLE_GPU=false.",
        cause="gpu",
    )
    return Route(place="", backend=backend, refusal=refusal, sentence=str(refusal.error).rstrip("."))


def _all_in_use(inventory: Inventory, backend: str, need: Need, processes: int) -> Route:
    gpus, free = inventory.gpus, sum(not gpu.held for gpu in inventory.gpus)
    if free:
        reason = f"{processes} processes are to share the training, and {free} of {len(gpus)} GPUs are free"
    elif len(gpus) == 1:
        reason = f"{_names(gpus)} is used by another training"
    else:
        reason = "all GPUs are used by other trainings"
    return Route(place="", backend=backend, held=True, need=need.cuda, sentence=reason)


def next_fallback(recipe: Recipe, plan: Plan, inventory: Inventory) -> FallbackStep | None:
    """The next step after a training ran out of memory; None after the last one.

    First smaller batches with as much more accumulation, halved where possible, down to one example; then
    checkpointing; then, with several GPUs, weights sharded over the processes; then 4-bit weights; then the CPUs.
    Each training step learns from as many examples as before, so the recipe means the same.
    """
    checkpointing = FallbackStep(
        recipe=recipe, plan=plan.model_copy(update={"checkpointing": True}), change="checkpointing"
    )
    if plan.device == "cuda" and not plan.checkpointing:
        return checkpointing  # a GPU trains without it only if there seemed to be room; what is learned stays the same
    smaller = _smaller(recipe)
    while smaller and batch_per_process(smaller, plan.processes) >= batch_per_process(recipe, plan.processes):
        smaller = _smaller(smaller)  # the processes would share the step differently, each with no less memory
    if smaller:
        change = f"batches of {smaller.batch_size}, {smaller.accumulation} of them a step"
        return FallbackStep(recipe=smaller, plan=plan, change=change)
    if not plan.checkpointing:
        return checkpointing
    if plan.device == "cuda" and plan.processes > 1 and not plan.shared and not recipe.four_bit:
        # before 4-bit weights, because this changes nothing of what is learned
        sharded = plan.model_copy(update={"sharded": True})
        return FallbackStep(recipe=recipe, plan=sharded, change=f"weights shared by {plan.processes} processes")
    unsharded = plan.model_copy(update={"sharded": False})
    if plan.device == "cuda" and not recipe.four_bit and inventory.bitsandbytes:
        return FallbackStep(
            recipe=recipe.model_copy(update={"four_bit": True}), plan=unsharded, change="4-bit base weights"
        )
    if plan.device == "cuda":
        on_cpus = unsharded.model_copy(update={"device": "cpu", "checkpointing": True})
        # on CPUs an evaluation spoils the gradients of 4-bit weights, and packing is checked by an evaluation
        four_bit = recipe.four_bit and not recipe.packing and not recipe.dev_share
        return FallbackStep(
            recipe=recipe.model_copy(update={"four_bit": four_bit}), plan=on_cpus, change="training on the CPUs"
        )
    return None


def _smaller(recipe: Recipe) -> Recipe | None:
    """The recipe with smaller batches and as many more of them per step; None if that is not possible."""
    if recipe.batch_size == 1:
        return None
    divisor = next(n for n in range(2, recipe.batch_size + 1) if recipe.batch_size % n == 0)
    if recipe.accumulation * divisor > MOST_ACCUMULATION:
        return None
    changes = {"batch_size": recipe.batch_size // divisor, "accumulation": recipe.accumulation * divisor}
    return Recipe.model_validate({**recipe.model_dump(), **changes})


def _names(gpus: Sequence[Gpu]) -> str:
    """For people, in the order of preference."""
    return " and ".join(f"GPU {gpu.index} ({gpu.name})" for gpu in gpus)


def _gpu_figures(need: Need, gpus: Sequence[Gpu], smallest: int | None) -> str:
    """Need and free memory of each GPU; `smallest` is the least free memory that a GPU reports."""
    silent = sum(gpu.memory_free is None for gpu in gpus)
    if not silent and smallest is not None:
        return ("each " if len(gpus) > 1 else "") + _figures(need.cuda, smallest, need.reason)
    if len(gpus) == 1:
        unknown = "it does not report its memory"
    elif silent == 1:
        unknown = "1 of them does not report its memory"
    else:
        unknown = f"{silent} of them do not report their memory"
    estimate = need.reason if need.cuda is None else f"about {_gib(need.cuda)}"
    return f"{estimate}; {unknown}, so the training is tried"


def _figures(need: int | None, free: int, reason: str) -> str:
    return f"about {_gib(need)} of {_gib(free)} free" if need is not None else f"{_gib(free)} free; {reason}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
