"""A home's trainings: what they took corrects what the next is expected to take; what cannot fit is refused before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric

from academy.errors import TrainingError
from academy.genealogy.tracking import BASE_TAG, DEVICE_TAG, EXPERIMENT, MEASURED, PREDICTED, memory_ratios
from academy.habitat.backends.choice import create_backend
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import GIB, default_plan
from academy.habitat.placement import Placement
from academy.loop.home import Home
from academy.loop.place import fall_back, first_device, measured_ratios, place
from academy.professor.recipe import Recipe
from academy.settings import Settings
from academy.system.hardware import Docker, Gpu, Inventory


def machine(free: float) -> Inventory:
    """Two CPUs with so many GiB free."""
    return Inventory(
        cpus=2, memory_total=32 * GIB, memory_free=int(free * GIB), gpus=(), gpu_note="no NVIDIA GPU",
        docker=Docker(note="no engine"), cuda="", unsloth=False, bitsandbytes=False,
    )  # fmt: skip


@pytest.fixture
def work(tmp_path: Path) -> Home:
    """A home of its own, with the seed model."""
    return Home(Settings().model_copy(update={"home": tmp_path}))


def test_a_training_that_fits_is_told_with_its_figures(work: Home) -> None:
    found = place(work, Recipe(batch_size=8), 64, machine(16))
    assert found.prediction is not None
    assert found.route.place == "cpu"
    assert found.route.need == found.prediction.total
    found.require()


def test_a_gpu_is_tried_first_where_it_may_be_used(work: Home) -> None:
    gpu = Gpu(index=0, name="H100", uuid="GPU-1", memory_total=80 * GIB, memory_free=80 * GIB)
    here = machine(16).model_copy(update={"gpus": (gpu,), "cuda": "13.0"})
    assert first_device(work, here) == "cuda"
    assert first_device(work, machine(16)) == "cpu"
    assert first_device(work, here.model_copy(update={"cuda": ""})) == "cpu"
    work.settings = work.settings.model_copy(update={"enable_gpu": False})
    assert first_device(work, here) == "cpu"


def with_gpu(*free: float | None, memory: float = 64) -> Inventory:
    """The same with GPUs that have so many GiB free (None: they do not tell), and torch for them."""
    gpus = tuple(
        Gpu(
            index=n, name="H100", uuid=f"GPU-{n}", memory_total=None if one is None else 80 * GIB,
            memory_free=None if one is None else int(one * GIB),
        )
        for n, one in enumerate(free)
    )  # fmt: skip
    return machine(memory).model_copy(update={"gpus": gpus, "cuda": "13.0", "bitsandbytes": True})


def test_a_training_that_does_not_fit_begins_lower_on_the_ladder(work: Home) -> None:
    large = Recipe(batch_size=128, accumulation=1, max_length=1024)
    found = place(work, large, 1024, machine(4))
    assert found.route.place == "cpu"
    assert found.route.need is not None
    assert found.route.need <= 4 * GIB
    assert found.recipe.batch_size * found.recipe.accumulation == 128
    assert found.changes[-1].startswith(f"batches of {found.recipe.batch_size}, ")
    assert found.sentence.endswith(found.changes[-1])
    assert found.prediction is not None
    assert found.prediction.total == found.route.need
    higher = place(work, large.model_copy(update={"batch_size": 2 * found.recipe.batch_size}), 1024, machine(4))
    assert higher.changes  # it is the highest that fits
    found.require()


def test_where_another_training_holds_the_gpu_it_has_to_wait(work: Home) -> None:
    gpu = Gpu(index=0, name="H100", uuid="GPU-0", memory_total=80 * GIB, memory_free=GIB, held=True)
    busy = machine(16).model_copy(update={"gpus": (gpu,), "cuda": "12.8"})
    found = place(work, Recipe(batch_size=8), 64, busy)
    with pytest.raises(TrainingError) as refusal:
        found.require()
    assert refusal.value.cause == "gpu"
    assert str(refusal.value) == (
        "This training has to wait: GPU 0 (H100) is used by another training. "
        "Wait until it ends, or set ACADEMY_ENABLE_GPU=false to train on the CPUs."
    )
    free = busy.model_copy(update={"gpus": (gpu.model_copy(update={"held": False, "memory_free": 70 * GIB}),)})
    assert place(work, Recipe(batch_size=8), 64, free).route.gpu is not None


def test_checkpointing_is_a_rung_on_processors_too(work: Home) -> None:
    single = Recipe(batch_size=1, max_length=1024)
    needed = place(work, single, None, machine(16)).route.need
    assert needed is not None
    found = place(work, single, None, machine((needed - 1) / GIB))
    assert (found.plan.checkpointing, found.changes) == (True, ("checkpointing",))


def test_processes_share_the_memory_of_processors_and_each_has_its_own_gpu(work: Home) -> None:
    recipe = Recipe(batch_size=8)
    one, gpu = place(work, recipe, 64, machine(16)), place(work, recipe, 64, with_gpu(40))
    work.settings = work.settings.model_copy(update={"training_processes": 2, "training_library": "trl"})
    two = place(work, recipe, 64, machine(16))
    assert one.route.need is not None
    assert two.route.need == 2 * one.route.need
    assert (two.plan.processes, two.plan.library) == (2, "trl")
    shared = place(work, recipe, 64, with_gpu(40, 9, 30))
    assert shared.route.need == gpu.route.need
    assert [one.index for one in shared.route.more] == [2]
    started = create_backend(work.settings, shared.route)
    assert isinstance(started, ProcessBackend)
    assert started.gpu == "GPU-0,GPU-2"
    with pytest.raises(TrainingError, match="and this machine has one GPU"):
        place(work, recipe, 64, with_gpu(40)).require()
    lowest = two
    while (lower := fall_back(work, lowest, 64, with_gpu(40, 40))) is not None:
        lowest = lower
    assert (lowest.plan.device, lowest.plan.processes) == ("cpu", 2)


def test_what_fits_nowhere_is_refused(work: Home) -> None:
    for recipe in (Recipe(), Recipe(batch_size=1, max_length=1024)):
        with pytest.raises(TrainingError) as refusal:
            place(work, recipe, None, machine(0.1)).require()
        assert refusal.value.cause == "memory"
        assert refusal.value.message.startswith(
            "This training cannot run here: no NVIDIA GPU; the CPUs have 0.1 GiB of memory"
        )
        assert "academy habitat fit" in refusal.value.remedy


def test_less_on_a_gpu_comes_before_the_same_on_processors(work: Home) -> None:
    large = Recipe(batch_size=128, accumulation=1, max_length=1024)
    found = place(work, large, 1024, with_gpu(3))
    assert (found.route.place, found.plan.device) == ("cuda", "cuda")
    assert found.changes
    assert place(work, large, 1024, with_gpu(40)).changes == ()
    none = place(work, large, 1024, with_gpu(0.1))
    assert (none.route.place, none.changes, none.plan) == ("cpu", (), default_plan("cpu"))


def test_after_running_out_of_memory_it_goes_on_lower_until_the_ladder_ends(work: Home) -> None:
    found: Placement | None = place(work, Recipe(batch_size=4, accumulation=1), 64, with_gpu(40))
    assert found is not None
    steps = []
    while found is not None:
        steps.append((found.plan.device, found.recipe.batch_size, found.recipe.four_bit, found.plan.checkpointing))
        found = fall_back(work, found, 64, with_gpu(40))
    assert steps == [
        ("cuda", 4, False, False), ("cuda", 4, False, True), ("cuda", 2, False, True), ("cuda", 1, False, True),
        ("cuda", 1, True, True), ("cpu", 1, True, True),
    ]  # fmt: skip


def test_a_gpu_trains_without_checkpointing_where_there_is_room(work: Home) -> None:
    recipe = Recipe(batch_size=32, accumulation=1, max_length=1024)
    roomy, tight = place(work, recipe, 1024, with_gpu(40)), place(work, recipe, 1024, with_gpu(2))
    assert (roomy.plan.checkpointing, tight.plan.checkpointing) == (False, True)
    assert place(work, recipe, 1024, with_gpu(40), cautious=True).plan.checkpointing
    assert roomy.changes == tight.changes == ()
    for found in (roomy, tight):
        assert found.prediction is not None
        assert found.prediction == found.predictions["cuda"], "what is told is of the plan that is carried out"
        assert found.route.need == found.prediction.total
    assert [fallback.step.change for fallback in roomy.fallbacks].count("checkpointing") == 1
    assert "checkpointing" not in [fallback.step.change for fallback in tight.fallbacks]


def test_on_a_gpu_that_does_not_tell_its_memory_it_begins_whole_and_the_ladder_is_below(work: Home) -> None:
    found = place(work, Recipe(batch_size=128, accumulation=1, max_length=1024), 1024, with_gpu(None))
    found.require()
    assert (found.route.place, found.changes) == ("cuda", ())
    lower = fall_back(work, found, 1024, with_gpu(None))
    assert lower is not None
    assert (lower.plan.device, lower.recipe.batch_size) == ("cuda", 64)


def test_a_base_model_that_cannot_be_predicted_is_trained_all_the_same(work: Home, tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}', encoding="utf-8")
    work.base = work.base.model_copy(update={"path": folder})
    found = place(work, Recipe(), None, machine(1))
    assert (found.route.place, found.prediction) == ("cpu", None)
    assert found.route.sentence.endswith(
        "1.0 GiB free; The memory of a mixture of experts (mixtral) cannot be predicted"
    )


def log(client: Any, base: str, device: str, predicted: float | None, measured: float | None) -> None:
    """A training's run as a home keeps it."""
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    run = client.create_run(experiment, tags={BASE_TAG: base, DEVICE_TAG: device}).info.run_id
    figures = {PREDICTED: predicted, MEASURED: measured}
    client.log_batch(run, metrics=[Metric(name, value, 0, 0) for name, value in figures.items() if value is not None])


def test_earlier_trainings_of_this_base_on_such_a_device_count_and_no_others(mlflow_client: Any) -> None:
    log(mlflow_client, "a" * 64, "cpu", 100, 120)
    log(mlflow_client, "a" * 64, "cpu", 100, 110)
    log(mlflow_client, "a" * 64, "cpu", 100, None)  # it was killed
    log(mlflow_client, "a" * 64, "cpu", None, 100)  # it could not be predicted
    log(mlflow_client, "a" * 64, "cuda", 100, 300)
    log(mlflow_client, "b" * 64, "cpu", 100, 400)
    assert sorted(memory_ratios(mlflow_client, "a" * 64, "cpu")) == [1.1, 1.2]
    assert memory_ratios(mlflow_client, "c" * 64, "cpu") == []


def test_only_the_last_trainings_count(mlflow_client: Any) -> None:
    for measured in range(101, 110):
        log(mlflow_client, "d" * 64, "cpu", 100, measured)
    assert len(memory_ratios(mlflow_client, "d" * 64, "cpu")) == 5


def test_where_nothing_was_trained_mlflow_is_not_asked(work: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Callable[..., Any]] = []
    monkeypatch.setattr("academy.genealogy.tracking.open_mlflow", opened.append)
    assert measured_ratios(work, "cpu") == []
    assert opened == []
