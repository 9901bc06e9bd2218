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
def home(tmp_path: Path) -> Home:
    """A home of its own, with the seed model."""
    return Home(Settings().model_copy(update={"home": tmp_path}))


def test_a_placement_has_the_predicted_figures(home: Home) -> None:
    found = place(home, Recipe(batch_size=8), 64, machine(16))
    assert found.prediction is not None
    assert found.route.place == "cpu"
    assert found.route.need == found.prediction.total
    found.require()


def test_a_usable_gpu_is_the_first_device(home: Home) -> None:
    gpu = Gpu(index=0, name="H100", uuid="GPU-1", memory_total=80 * GIB, memory_free=80 * GIB)
    here = machine(16).model_copy(update={"gpus": (gpu,), "cuda": "13.0"})
    assert first_device(home, here) == "cuda"
    assert first_device(home, machine(16)) == "cpu"
    assert first_device(home, here.model_copy(update={"cuda": ""})) == "cpu"
    home.settings = home.settings.model_copy(update={"enable_gpu": False})
    assert first_device(home, here) == "cpu"


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


def test_a_training_that_does_not_fit_starts_at_a_fallback_step(home: Home) -> None:
    large = Recipe(batch_size=128, accumulation=1, max_length=1024)
    found = place(home, large, 1024, machine(4))
    assert found.route.place == "cpu"
    assert found.route.need is not None
    assert found.route.need <= 4 * GIB
    assert found.recipe.batch_size * found.recipe.accumulation == 128
    assert found.changes[-1].startswith(f"batches of {found.recipe.batch_size}, ")
    assert found.sentence.endswith(found.changes[-1])
    assert found.prediction is not None
    assert found.prediction.total == found.route.need
    higher = place(home, large.model_copy(update={"batch_size": 2 * found.recipe.batch_size}), 1024, machine(4))
    assert higher.changes  # it is the highest that fits
    found.require()


def test_a_training_waits_for_a_gpu_that_another_one_holds(home: Home) -> None:
    gpu = Gpu(index=0, name="H100", uuid="GPU-0", memory_total=80 * GIB, memory_free=GIB, held=True)
    busy = machine(16).model_copy(update={"gpus": (gpu,), "cuda": "12.8"})
    found = place(home, Recipe(batch_size=8), 64, busy)
    with pytest.raises(TrainingError) as refusal:
        found.require()
    assert refusal.value.cause == "gpu"
    assert str(refusal.value) == (
        "This training has to wait: GPU 0 (H100) is used by another training. "
        "Wait until it ends, or set ACADEMY_ENABLE_GPU=false to train on the CPUs."
    )
    free = busy.model_copy(update={"gpus": (gpu.model_copy(update={"held": False, "memory_free": 70 * GIB}),)})
    assert place(home, Recipe(batch_size=8), 64, free).route.gpu is not None


def test_checkpointing_is_a_fallback_step_on_the_cpu_too(home: Home) -> None:
    single = Recipe(batch_size=1, max_length=1024)
    needed = place(home, single, None, machine(16)).route.need
    assert needed is not None
    found = place(home, single, None, machine((needed - 1) / GIB))
    assert (found.plan.checkpointing, found.changes) == (True, ("checkpointing",))


def test_processes_share_cpu_memory_and_have_a_gpu_each(home: Home) -> None:
    recipe = Recipe(batch_size=8)
    one, gpu = place(home, recipe, 64, machine(16)), place(home, recipe, 64, with_gpu(40))
    home.settings = home.settings.model_copy(update={"training_processes": 2, "training_library": "trl"})
    two = place(home, recipe, 64, machine(16))
    assert one.route.need is not None
    assert two.route.need == 2 * one.route.need
    assert (two.plan.processes, two.plan.library) == (2, "trl")
    shared = place(home, recipe, 64, with_gpu(40, 9, 30))
    assert shared.route.need == gpu.route.need
    assert [one.index for one in shared.route.more] == [2]
    started = create_backend(home.settings, shared.route)
    assert isinstance(started, ProcessBackend)
    assert started.gpu == "GPU-0,GPU-2"
    with pytest.raises(TrainingError, match="and this machine has one GPU"):
        place(home, recipe, 64, with_gpu(40)).require()
    lowest = two
    while (lower := fall_back(home, lowest, 64, with_gpu(40, 40))) is not None:
        lowest = lower
    assert (lowest.plan.device, lowest.plan.processes) == ("cpu", 2)


def test_a_training_that_fits_on_no_device_is_refused(home: Home) -> None:
    for recipe in (Recipe(), Recipe(batch_size=1, max_length=1024)):
        with pytest.raises(TrainingError) as refusal:
            place(home, recipe, None, machine(0.1)).require()
        assert refusal.value.cause == "memory"
        assert refusal.value.message.startswith(
            "This training cannot run here: no NVIDIA GPU; the CPUs have 0.1 GiB of memory"
        )
        assert "academy habitat fit" in refusal.value.remedy


def test_a_fallback_step_on_a_gpu_comes_before_the_whole_training_on_the_cpu(home: Home) -> None:
    large = Recipe(batch_size=128, accumulation=1, max_length=1024)
    found = place(home, large, 1024, with_gpu(3))
    assert (found.route.place, found.plan.device) == ("cuda", "cuda")
    assert found.changes
    assert place(home, large, 1024, with_gpu(40)).changes == ()
    none = place(home, large, 1024, with_gpu(0.1))
    assert (none.route.place, none.changes, none.plan) == ("cpu", (), default_plan("cpu"))


def test_a_training_out_of_memory_falls_back_until_no_step_is_left(home: Home) -> None:
    found: Placement | None = place(home, Recipe(batch_size=4, accumulation=1), 64, with_gpu(40))
    assert found is not None
    steps = []
    while found is not None:
        steps.append((found.plan.device, found.recipe.batch_size, found.recipe.four_bit, found.plan.checkpointing))
        found = fall_back(home, found, 64, with_gpu(40))
    assert steps == [
        ("cuda", 4, False, False), ("cuda", 4, False, True), ("cuda", 2, False, True), ("cuda", 1, False, True),
        ("cuda", 1, True, True), ("cpu", 1, True, True),
    ]  # fmt: skip


def test_a_gpu_with_room_trains_without_checkpointing(home: Home) -> None:
    recipe = Recipe(batch_size=32, accumulation=1, max_length=1024)
    roomy, tight = place(home, recipe, 1024, with_gpu(40)), place(home, recipe, 1024, with_gpu(2))
    assert (roomy.plan.checkpointing, tight.plan.checkpointing) == (False, True)
    assert place(home, recipe, 1024, with_gpu(40), cautious=True).plan.checkpointing
    assert roomy.changes == tight.changes == ()
    for found in (roomy, tight):
        assert found.prediction is not None
        assert found.prediction == found.predictions["cuda"], "the prediction is of the plan that is carried out"
        assert found.route.need == found.prediction.total
    assert [fallback.step.change for fallback in roomy.fallbacks].count("checkpointing") == 1
    assert "checkpointing" not in [fallback.step.change for fallback in tight.fallbacks]


def test_a_gpu_of_unknown_memory_starts_whole_with_fallback_steps(home: Home) -> None:
    found = place(home, Recipe(batch_size=128, accumulation=1, max_length=1024), 1024, with_gpu(None))
    found.require()
    assert (found.route.place, found.changes) == ("cuda", ())
    lower = fall_back(home, found, 1024, with_gpu(None))
    assert lower is not None
    assert (lower.plan.device, lower.recipe.batch_size) == ("cuda", 64)


def test_a_base_model_without_a_prediction_is_placed(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "experts"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mixtral", "num_local_experts": 8}', encoding="utf-8")
    home.base = home.base.model_copy(update={"path": folder})
    found = place(home, Recipe(), None, machine(1))
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


def test_memory_ratios_are_of_this_base_model_and_device(mlflow_client: Any) -> None:
    log(mlflow_client, "a" * 64, "cpu", 100, 120)
    log(mlflow_client, "a" * 64, "cpu", 100, 110)
    log(mlflow_client, "a" * 64, "cpu", 100, None)  # it was killed
    log(mlflow_client, "a" * 64, "cpu", None, 100)  # it could not be predicted
    log(mlflow_client, "a" * 64, "cuda", 100, 300)
    log(mlflow_client, "b" * 64, "cpu", 100, 400)
    assert sorted(memory_ratios(mlflow_client, "a" * 64, "cpu")) == [1.1, 1.2]
    assert memory_ratios(mlflow_client, "c" * 64, "cpu") == []


def test_memory_ratios_are_of_the_last_five_trainings(mlflow_client: Any) -> None:
    for measured in range(101, 110):
        log(mlflow_client, "d" * 64, "cpu", 100, measured)
    assert len(memory_ratios(mlflow_client, "d" * 64, "cpu")) == 5


def test_mlflow_is_not_opened_before_the_first_training(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Callable[..., Any]] = []
    monkeypatch.setattr("academy.genealogy.tracking.open_mlflow", opened.append)
    assert measured_ratios(home, "cpu") == []
    assert opened == []
