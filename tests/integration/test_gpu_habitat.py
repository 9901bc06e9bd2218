"""Training jobs from Python under the documents' names, in processes: started, followed, finished, cleaned up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from academy.adapters.adapter import open_adapter, read_adapter
from academy.errors import BaseModelError, InputError
from academy.loop.home import Home
from academy.loop.named_versions import activate_adapter, get_version
from academy.loop.trainings import list_trainings
from academy.loop.verify import verify_files
from academy.sdk.gpu_habitat import GPUHabitat
from academy.system.hardware import take_inventory
from tests.topics import TOPICS


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dataset") / "dataset.jsonl"
    rows = [{"instruction": topic, "input": "", "output": answer} for topic, answer in TOPICS.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_documents_example_ends_with_an_adapter_and_a_warning_under_50_examples(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    habitat = GPUHabitat(enable_gpu=True, home=tmp_path / "home")
    job_info = habitat.run_training_job(
        dataset_path=str(dataset),
        base_model="seed",
        output_dir=str(tmp_path / "training_0"),
        lora_rank=16,
        learning_rate=2e-4,
        num_epochs=3,
    )
    name = job_info["job_name"]
    assert (job_info["backend"], job_info["container_id"]) == ("process", None)
    assert re.fullmatch(r"training_\d{8}_\d{6}", name)
    assert "has 32 examples (recommended minimum 50)" in caplog.text
    status = habitat.get_training_status(name)
    assert status["status"] == "running"
    assert "started order" in status["logs"]
    with pytest.raises(InputError, match="is already running"):
        habitat.run_training_job(dataset, "seed", tmp_path / "training_0", num_epochs=3)
    with pytest.raises(InputError, match="Another process runs"):
        GPUHabitat(home=tmp_path / "home").cleanup_job(name)

    lines = list(habitat.stream_job_logs(name))
    assert [line["line"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines == sorted(lines, key=lambda line: str(line["time"]))
    assert lines[-1]["text"].startswith("done")
    status = habitat.get_training_status(name)
    assert (status["status"], status["error"]) == ("finished", None)
    assert status["step"] == status["steps"] > 0
    assert status["loss"] > 0
    assert status["progress"]["percent"] == 100
    assert status["progress"]["best_loss"] <= status["progress"]["average_loss"]
    adapter = read_adapter(tmp_path / "training_0" / "adapter")
    assert str(adapter.path) == status["adapter_path"]
    home = Home.open(home=tmp_path / "home")
    assert open_adapter(adapter.path).check_signature(home.keys)
    (run,) = home.mlflow.search_runs([home.mlflow.get_experiment_by_name("academy").experiment_id])
    assert (run.info.status, run.data.tags["academy.job"]) == ("FINISHED", name)
    assert run.data.metrics["loss"] == pytest.approx(status["loss"])
    assert 0 <= run.data.metrics["accuracy"] <= 1
    assert run.data.metrics["grad_norm"] > 0
    (training,) = list_trainings(home.settings)
    assert (training.job, training.progress.status) == (name, "finished")
    assert get_version(home, activate_adapter(home, name, by="a test").version).run == run.info.run_id
    assert verify_files(home, (name,))[0].ok
    assert adapter.manifest.recipe.rank == 16

    later = GPUHabitat(home=tmp_path / "home")  # a program that starts afterwards
    same = later.get_training_status(name)
    assert (same["status"], same["loss"]) == ("finished", status["loss"])
    assert same["progress"] == status["progress"]
    assert read_adapter(Path(same["adapter_path"])).digest == adapter.digest
    later.cleanup_job(name)
    assert later.get_training_status(name)["status"] == "finished"
    repeated = later.run_training_job(dataset, "seed", tmp_path / "training_1", learning_rate=2e-4)
    assert repeated["job_name"] == name  # the same order is the same job
    with pytest.raises(InputError, match="already contains something else"):
        later.run_training_job(dataset, "seed", tmp_path / "training_0", num_epochs=4)


@pytest.mark.parametrize("folder", ["/dev/null/out", "/dev/null/deep/out"])
def test_an_output_folder_that_cannot_be_created_is_refused_before_the_training(
    dataset: Path, tmp_path: Path, folder: str
) -> None:
    habitat = GPUHabitat(home=tmp_path / "home")
    with pytest.raises(InputError, match="Choose another output_dir"):
        habitat.run_training_job(dataset, "seed", folder, num_epochs=1)
    assert not list((tmp_path / "home").glob("runs/*"))


def test_cleanup_cancels_a_running_job_and_leaves_no_checkpoint(dataset: Path, tmp_path: Path) -> None:
    habitat = GPUHabitat(home=tmp_path / "home")
    name = habitat.run_training_job(dataset, "seed", tmp_path / "out", num_epochs=20)["job_name"]
    habitat.cleanup_job(name)
    status = habitat.get_training_status(name)
    assert status["status"] == "cancelled"
    assert "was cancelled" in status["error"]
    later = GPUHabitat(home=tmp_path / "home").get_training_status(name)  # a program that starts afterwards
    assert (later["status"], later["error"]) == ("cancelled", status["error"])
    assert status["adapter_path"] is None
    assert not list((tmp_path / "home").glob("runs/*/checkpoints"))
    assert not (tmp_path / "out").exists()


def test_invalid_arguments_are_refused_before_anything_starts(dataset: Path, tmp_path: Path) -> None:
    habitat = GPUHabitat(enable_gpu=False, home=tmp_path / "home")
    with pytest.raises(InputError, match=r"none\.jsonl does not exist"):
        habitat.run_training_job(tmp_path / "none.jsonl", "seed", tmp_path / "out")
    with pytest.raises(BaseModelError, match="The base model folder"):
        habitat.run_training_job(dataset, "/nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="rank is 1000"):
        habitat.run_training_job(dataset, "seed", tmp_path / "out", lora_rank=1000)
    for name in ("training_0000", "0000", "training_20260101_000000", "training_../adapters"):
        with pytest.raises(InputError, match="Unknown job"):
            habitat.get_training_status(name)
    assert not list((tmp_path / "home").glob("runs/*"))


def test_the_gpus_are_those_of_the_driver(tmp_path: Path) -> None:
    gpus = GPUHabitat(home=tmp_path / "home").get_gpu_info()
    assert [gpu["uuid"] for gpu in gpus] == [gpu.uuid for gpu in take_inventory().gpus]
    assert all(gpu["memory_total"] >= gpu["memory_free"] > 0 for gpu in gpus)
