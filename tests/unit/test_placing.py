"""A home's trainings: what they took corrects what the next is expected to take; what cannot fit is refused before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Metric

from academy.errors import TrainingError
from academy.genealogy.tracking import BASE_TAG, DEVICE_TAG, EXPERIMENT, MEASURED, PREDICTED, memory_ratios
from academy.habitat.fit import GIB
from academy.habitat.hardware import Docker, Gpu, Inventory
from academy.placing import first_device, measured_ratios, place
from academy.professor import Recipe
from academy.settings import Settings
from academy.workplace import Workplace


def machine(free: float) -> Inventory:
    """Two CPUs with so many GiB free."""
    return Inventory(
        cpus=2, memory_total=32 * GIB, memory_free=int(free * GIB), gpus=(), gpu_note="no NVIDIA GPU",
        docker=Docker(note="no engine"), cuda="", unsloth=False, bitsandbytes=False,
    )  # fmt: skip


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    """A home of its own, with the seed model."""
    return Workplace(Settings().model_copy(update={"home": tmp_path}))


def test_a_training_that_fits_is_told_with_its_figures(work: Workplace) -> None:
    found = place(work, Recipe(batch_size=8), 64, machine(16))
    assert found.prediction is not None
    assert found.route.place == "cpu"
    assert found.route.need == found.prediction.total
    found.require()


def test_a_gpu_is_tried_first_where_it_may_be_used(work: Workplace) -> None:
    gpu = Gpu(index=0, name="H100", uuid="GPU-1", memory_total=80 * GIB, memory_free=80 * GIB)
    here = machine(16).model_copy(update={"gpus": (gpu,), "cuda": "13.0"})
    assert first_device(work, here) == "cuda"
    assert first_device(work, machine(16)) == "cpu"
    assert first_device(work, here.model_copy(update={"cuda": ""})) == "cpu"
    work.settings = work.settings.model_copy(update={"enable_gpu": False})
    assert first_device(work, here) == "cpu"


def test_a_training_that_cannot_fit_is_refused_with_what_would_fit(work: Workplace) -> None:
    large = Recipe(batch_size=128, accumulation=1, max_length=1024)
    found = place(work, large, 1024, machine(4))
    assert found.route.place == ""
    with pytest.raises(TrainingError) as refusal:
        found.require()
    assert refusal.value.cause == "memory"
    assert refusal.value.message.startswith(
        "This training fits nowhere here: no NVIDIA GPU; 4.0 GiB of memory are free"
    )
    assert "With --batch-size " in refusal.value.remedy
    size = int(refusal.value.remedy.split()[2])
    assert place(work, large.model_copy(update={"batch_size": size}), 1024, machine(4)).route.place == "cpu"


def test_where_no_batch_is_small_enough_the_remedy_is_another(work: Workplace) -> None:
    for recipe in (Recipe(), Recipe(batch_size=1, max_length=1024)):
        with pytest.raises(TrainingError) as refusal:
            place(work, recipe, None, machine(0.1)).require()
        assert "--batch-size" not in refusal.value.remedy
    single = Recipe(batch_size=1, max_length=1024)
    needed = place(work, single, None, machine(16)).route.need
    assert needed is not None
    # checkpointing would fit, but the trainer does not use it on processors
    with pytest.raises(TrainingError) as refusal:
        place(work, single, None, machine((needed - 1) / GIB)).require()
    assert "--batch-size" not in refusal.value.remedy
    assert "academy habitat fit" in refusal.value.remedy


def test_a_base_model_that_cannot_be_predicted_is_trained_all_the_same(work: Workplace, tmp_path: Path) -> None:
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


def test_where_nothing_was_trained_mlflow_is_not_asked(work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Callable[..., Any]] = []
    monkeypatch.setattr("academy.genealogy.tracking.open_mlflow", opened.append)
    assert measured_ratios(work, "cpu") == []
    assert opened == []
