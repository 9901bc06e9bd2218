"""The device of a training, and its fallback steps. Routing is pure, so any machine can be tested."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.habitat.memory import GIB, Plan, batch_per_process, default_plan
from academy.habitat.routing import Need, next_fallback, route
from academy.professor.recipe import Recipe
from academy.system.hardware import Docker, Gpu, Inventory


def machine(*free: float | None, **changes: Any) -> Inventory:
    """A machine with 4 CPUs, 16 GiB free, a torch for CUDA, and GPUs with this many GiB free."""
    gpus = tuple(
        Gpu(index=n, name="H100", uuid=f"GPU-{n}", memory_free=None if one is None else int(one * GIB))
        for n, one in enumerate(free)
    )
    facts: dict[str, Any] = {
        "cpus": 4, "memory_total": 32 * GIB, "memory_free": 16 * GIB, "gpus": gpus, "docker": Docker(note="no engine"),
        "gpu_note": "" if gpus else "no NVIDIA GPU", "cuda": "12.8", "unsloth": False, "bitsandbytes": True,
    }  # fmt: skip
    return Inventory(**{**facts, **changes})


NEED = Need(cuda=10 * GIB, cpu=12 * GIB)


def test_the_gpu_with_the_most_free_memory_is_taken() -> None:
    found = route(NEED, machine(11, 40, 20))
    assert (found.place, found.backend) == ("cuda", "process")
    assert found.gpu is not None
    assert found.gpu.index == 1
    assert found.sentence == "GPU 1 (H100): about 10.0 GiB of 40.0 GiB free"


def with_busy_gpus(inventory: Inventory, *which: int) -> Inventory:
    """The machine while trainings use these GPUs; each GPU has 80 GiB in total."""
    gpus = [one.model_copy(update={"held": one.index in which, "memory_total": 80 * GIB}) for one in inventory.gpus]
    return inventory.model_copy(update={"gpus": tuple(gpus)})


def test_a_gpu_in_use_is_avoided() -> None:
    found = route(NEED, with_busy_gpus(machine(11, 40, 20), 1))
    assert found.gpu is not None
    assert (found.gpu.index, found.held) == (2, False)
    tight = route(NEED, with_busy_gpus(machine(5, 40), 1))  # the free GPU is too small
    assert (tight.place, tight.held) == ("cpu", False)


def test_a_training_waits_when_all_gpus_are_in_use() -> None:
    found = route(NEED, with_busy_gpus(machine(2), 0))
    assert (found.place, found.held) == ("", True)
    assert found.sentence == "GPU 0 (H100) is used by another training"
    assert route(NEED, with_busy_gpus(machine(2, 3), 0, 1)).sentence == "all GPUs are used by other trainings"
    assert route(NEED, with_busy_gpus(machine(2), 0), enable_gpu=False).place == "cpu"
    assert (
        route(Need(cuda=90 * GIB, cpu=12 * GIB), with_busy_gpus(machine(2), 0)).place == "cpu"
    )  # too large for any GPU


def test_a_gpu_that_does_not_report_its_memory_is_used_with_a_note() -> None:
    """For example a GPU that shares the machine's memory: an unknown figure must not cost days on CPUs."""
    found = route(NEED, machine(None))
    assert (found.place, found.need, found.free) == ("cuda", 10 * GIB, None)
    assert found.sentence == "GPU 0 (H100): about 10.0 GiB; it does not report its memory, so the training is tried"
    unknown = route(Need(cuda=None, cpu=None, reason="not predicted"), machine(None))
    assert unknown.sentence == "GPU 0 (H100): not predicted; it does not report its memory, so the training is tried"
    fallback = next_fallback(Recipe(batch_size=1), default_plan("cuda"), machine(None))
    assert fallback is not None
    assert fallback.change == "4-bit base weights"
    assert route(NEED, with_busy_gpus(machine(None), 0)).held


@pytest.mark.parametrize(("free", "taken"), [((11, None), 0), ((None, 11, 12), 2), ((9, None), 1), ((9, None, 8), 1)])
def test_gpus_are_ordered_by_enough_unknown_and_too_little_memory(free: tuple[float | None, ...], taken: int) -> None:
    found = route(NEED, machine(*free))
    assert found.gpu is not None
    assert found.gpu.index == taken


def test_several_processes_take_the_freest_gpus_and_the_smallest_decides() -> None:
    found = route(NEED, machine(11, 40, 12, 20), processes=3)
    assert found.gpu is not None
    assert [gpu.index for gpu in (found.gpu, *found.more)] == [1, 3, 2]
    assert found.free == 12 * GIB
    assert found.sentence.endswith("GPU 2 (H100): each about 10.0 GiB of 12.0 GiB free")
    short = route(NEED, machine(9, 40, 20), processes=3)
    assert (short.place, short.more) == ("cpu", ())
    assert "GPU 0 has 9.0 GiB free (about 10.0 GiB needed)" in short.sentence
    silent = route(NEED, machine(None, 40, 9), processes=2)
    assert silent.sentence == (
        "GPU 1 (H100) and GPU 0 (H100): about 10.0 GiB; 1 of them does not report its memory, so the training is tried"
    )


def test_processes_without_their_own_gpu_are_refused_or_wait() -> None:
    refused = route(NEED, machine(40), processes=2)
    assert refused.refusal is not None
    assert (refused.place, refused.refusal.cause) == ("", "gpu")
    assert refused.refusal.message == (
        "2 processes are to share the training, each on its own GPU, and this machine has one GPU."
    )
    waits = route(NEED, with_busy_gpus(machine(40, 30, 20), 0, 2), processes=2)
    assert (waits.place, waits.held) == ("", True)
    assert waits.sentence == "2 processes are to share the training, and 1 of 3 GPUs are free"
    assert route(NEED, machine(), processes=2).place == "cpu"


@pytest.mark.parametrize(
    ("inventory", "enabled", "because"),
    [
        (machine(), True, "no NVIDIA GPU"),
        (machine(9, 8), True, "GPU 0 has 9.0 GiB free (about 10.0 GiB needed)"),
        (machine(40), False, "GPUs are switched off (ACADEMY_ENABLE_GPU)"),
        (machine(40), True, "torch is built for CPUs"),
    ],
)
def test_a_training_without_a_usable_gpu_runs_on_the_cpus_with_the_reason(
    inventory: Inventory, enabled: bool, because: str
) -> None:
    gpu_problem = because if "torch" in because else ""
    found = route(NEED, inventory, enable_gpu=enabled, gpu_problem=gpu_problem)
    assert (found.place, found.gpu) == ("cpu", None)
    assert found.sentence.startswith("4 CPUs (")
    assert because in found.sentence
    assert found.sentence.endswith("about 12.0 GiB of 16.0 GiB free")


def test_a_training_that_fits_on_no_device_names_every_reason() -> None:
    found = route(Need(cuda=90 * GIB, cpu=100 * GIB), machine(80))
    assert found.place == ""
    assert found.sentence == (
        "GPU 0 has 80.0 GiB free (about 90.0 GiB needed); "
        "the CPUs have 16.0 GiB of memory free (about 100.0 GiB needed)"
    )


def test_a_training_fits_exactly_to_the_last_byte() -> None:
    assert route(Need(cuda=10 * GIB, cpu=1), machine(10)).place == "cuda"
    assert route(Need(cuda=10 * GIB + 1, cpu=1), machine(10)).place == "cpu"
    assert route(Need(cuda=None, cpu=16 * GIB + 1), machine()).place == ""


def test_a_backend_that_cannot_use_the_gpus_trains_on_the_cpus() -> None:
    gpu_route = route(NEED, machine(40), backend="container")
    assert (gpu_route.place, gpu_route.backend) == ("cuda", "container")
    cpu_route = route(NEED, machine(40), backend="container", gpu_problem="Docker cannot give GPUs to containers")
    assert (cpu_route.place, cpu_route.backend) == ("cpu", "container")
    assert "(Docker cannot give GPUs to containers)" in cpu_route.sentence


def test_an_unpredicted_training_is_routed_with_the_reason() -> None:
    unknown = Need(cuda=None, cpu=None, reason="a mixture of experts")
    assert route(unknown, machine(40)).sentence == "GPU 0 (H100): 40.0 GiB free; a mixture of experts"
    assert route(unknown, machine()).place == "cpu"


def test_fallback_steps_lead_to_the_cpus() -> None:
    recipe, plan = Recipe(batch_size=4, accumulation=2), Plan(device="cuda")
    changes = []
    while (fallback := next_fallback(recipe, plan, machine(40))) is not None:
        recipe, plan = fallback.recipe, fallback.plan
        changes.append(fallback.change)
    assert changes == [
        "checkpointing", "batches of 2, 4 of them a step", "batches of 1, 8 of them a step", "4-bit base weights",
        "training on the CPUs",
    ]  # fmt: skip
    assert plan == Plan(device="cpu", checkpointing=True)


def test_fallback_steps_share_weights_before_using_four_bits() -> None:
    recipe, plan = Recipe(batch_size=1), default_plan("cuda").model_copy(update={"processes": 2})
    found = []
    while (fallback := next_fallback(recipe, plan, machine(40))) is not None:
        recipe, plan = fallback.recipe, fallback.plan
        found.append((fallback.change, plan.shared))
    assert found == [
        ("weights shared by 2 processes", True), ("4-bit base weights", False), ("training on the CPUs", False),
    ]  # fmt: skip


def test_a_fallback_step_makes_the_batch_of_each_process_smaller() -> None:
    recipe, plan = Recipe(batch_size=8, accumulation=1), Plan(device="cuda", processes=2, checkpointing=True)
    fallback = next_fallback(recipe, plan, machine(40))
    assert fallback is not None
    assert batch_per_process(recipe, 2) == 4, "half of the step"
    assert (fallback.recipe.batch_size, fallback.recipe.accumulation) == (2, 4), (
        "with 4 and 2, each process would have 4 as before"
    )
    assert batch_per_process(fallback.recipe, 2) == 2


@pytest.mark.parametrize("changes", [{"packing": True}, {"dev_share": 0.2}, {}])
def test_four_bit_weights_are_dropped_on_cpus_with_evaluations(changes: dict[str, Any]) -> None:
    recipe = Recipe.model_validate({"batch_size": 1, "four_bit": True, **changes})
    fallback = next_fallback(recipe, default_plan("cuda"), machine(40))
    assert fallback is not None
    assert fallback.plan.device == "cpu"
    assert fallback.recipe.four_bit is (not changes)


def test_fallback_steps_skip_four_bits_without_bitsandbytes() -> None:
    found = next_fallback(Recipe(batch_size=1), default_plan("cuda"), machine(40, bitsandbytes=False))
    assert found is not None
    assert found.plan.device == "cpu"


def test_fallback_steps_end_on_the_cpus() -> None:
    assert next_fallback(Recipe(batch_size=1), Plan(device="cpu", checkpointing=True), machine()) is None


@given(st.integers(1, 128), st.integers(1, 128), st.sampled_from(["cuda", "cpu"]), st.booleans(), st.integers(1, 4))
def test_every_fallback_step_keeps_the_examples_per_training_step(
    batch: int, accumulation: int, device: Any, checkpointing: bool, processes: int
) -> None:
    recipe = Recipe(batch_size=batch, accumulation=accumulation)
    plan = Plan(device=device, checkpointing=checkpointing, processes=processes)
    for _ in range(20):
        fallback = next_fallback(recipe, plan, machine(40))
        if fallback is None:
            break
        assert fallback.recipe.batch_size * fallback.recipe.accumulation == batch * accumulation
        if fallback.recipe.batch_size < recipe.batch_size:
            assert batch_per_process(fallback.recipe, processes) < batch_per_process(recipe, processes)
        changed = {"batch_size", "accumulation", "four_bit"}
        assert fallback.recipe.model_dump(exclude=changed) == recipe.model_dump(exclude=changed)
        assert (fallback.recipe, fallback.plan) != (recipe, plan)
        recipe, plan = fallback.recipe, fallback.plan
    else:
        pytest.fail("fallback steps do not end")
    assert plan == Plan(device="cpu", checkpointing=True, processes=processes)
