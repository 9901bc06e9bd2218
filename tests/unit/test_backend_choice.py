"""The backend of a home: a selected backend that cannot train is refused by plan and start alike; `auto` falls back.

A fake engine on loopback answers the real client; `DOCKER_HOST` may also point to no engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from academy.cli.habitat import fit
from academy.cli.trainer import trainer
from academy.cli.training import decide
from academy.errors import TrainingError
from academy.habitat.backends.choice import create_backend, find_route, select_backend
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.backends.image import IMAGE
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import GIB
from academy.habitat.routing import Need, next_fallback
from academy.loop.home import Home
from academy.loop.place import first_device, place
from academy.operations.doctor import check_toolkit, check_training
from academy.professor.recipe import Recipe
from academy.sdk.gpu_habitat import GPUHabitat
from academy.settings import Settings, load_settings
from academy.system.hardware import Docker, Gpu, Inventory
from tests.plugins import install_plugin
from tests.servers.docker import DIGEST, VERSIONS, Engine, serving

UNKNOWN = Need(cuda=None, cpu=None, reason="not predicted")
TOLD = Docker(version="29.0", gpus=True)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with serving(Engine(images={IMAGE: DIGEST}, gpus=True)) as found:
        monkeypatch.setenv("DOCKER_HOST", found.host)
        yield found


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    return f"No Docker engine answers at unix://{tmp_path}/none.sock"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """The settings of a home with the user's values."""

    def read(**said: str) -> Settings:
        monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
        for name, value in said.items():
            monkeypatch.setenv(f"ACADEMY_{name.upper()}", value)
        return load_settings()

    return read


def machine(**changes: Any) -> Inventory:
    """A machine with a GPU, an engine that gives it to containers, and all libraries in this Python."""
    gpu = Gpu(index=0, name="H100", uuid="GPU-0", memory_total=80 * GIB, memory_free=70 * GIB)
    facts: dict[str, Any] = {
        "cpus": 4, "memory_total": 32 * GIB, "memory_free": 16 * GIB, "gpus": (gpu,), "gpu_note": "", "docker": TOLD,
        "cuda": "13.0", "unsloth": True, "bitsandbytes": True,
    }  # fmt: skip
    return Inventory(**{**facts, **changes})


def test_the_default_backend_is_a_process_and_queries_no_engine(
    settings: Callable[..., Settings], engine: Engine
) -> None:
    found = select_backend(settings())
    assert (found.backend, found.container_problem, found.refusal) == ("process", "", None)
    assert found.machine.docker.note == "Docker was not queried"
    assert isinstance(create_backend(settings(), find_route(settings(), found, UNKNOWN)), ProcessBackend)
    assert engine.tried == []


def test_a_selected_container_is_refused_without_an_engine_by_plan_and_start(
    settings: Callable[..., Settings], no_engine: str
) -> None:
    here = settings(training_backend="container")
    way = find_route(here, select_backend(here), UNKNOWN)
    assert (way.place, way.backend) == ("", "container")
    with pytest.raises(TrainingError) as refused:
        create_backend(here, way)
    assert refused.value.cause == "engine"
    with pytest.raises(TrainingError) as before:
        place(Home(here), Recipe(), 64).require()
    assert str(before.value) == str(refused.value)
    assert str(refused.value).startswith(f"{no_engine}. Start one (systemctl start docker")


def test_auto_uses_a_process_and_says_why(settings: Callable[..., Settings], no_engine: str, tmp_path: Path) -> None:
    here = settings(training_backend="auto", enable_gpu="false")
    found = place(Home(here), Recipe(batch_size=1), 64)
    found.require()
    assert found.route.backend == "process"
    assert found.sentence.endswith(f" free; in a process instead of a container: {no_engine}")
    assert isinstance(create_backend(here, found.route), ProcessBackend)


def test_auto_uses_a_container_where_possible(
    settings: Callable[..., Settings], engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    here = settings(training_backend="auto", enable_gpu="false")
    found = select_backend(here)
    assert (found.backend, found.container_problem) == ("container", "")
    assert isinstance(create_backend(here, find_route(here, found, UNKNOWN)), ContainerBackend)
    trainer()
    assert f"Trainings run in containers of {IMAGE}." in capsys.readouterr().out
    engine.images.clear()
    assert select_backend(here).container_problem == f"The Docker engine has no image {IMAGE}"
    trainer()
    said = " ".join(capsys.readouterr().out.split())
    assert said == f"Trainings run in processes of this machine because: The Docker engine has no image {IMAGE}."


@pytest.mark.parametrize(
    ("spoiled", "cause", "message"),
    [
        ("image", "engine", f"The Docker engine has no image {IMAGE}."),
        ("trial", "image", f"The image {IMAGE} cannot train: "),
        ("processes", "gpu", "Several processes cannot share a training in a container."),
        ("memory", "memory", "29 MiB of memory is too little for a training's container"),
    ],
)
def test_a_plan_is_refused_for_the_same_reasons_as_a_start(
    settings: Callable[..., Settings], engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    spoiled: str, cause: str, message: str,
) -> None:  # fmt: skip
    if spoiled == "image":
        engine.images.clear()
    elif spoiled == "trial":
        engine.says = {}
    elif spoiled == "memory":
        (tmp_path / "memory.max").write_text(str(32 * 2**20))
        monkeypatch.setattr("academy.system.hardware.GROUPS", tmp_path)
    here = settings(training_backend="container", training_processes="2" if spoiled == "processes" else "1")
    with pytest.raises(TrainingError) as refused:
        place(Home(here), Recipe(), 64).require()
    assert refused.value.cause == cause
    assert refused.value.message.startswith(message)
    assert refused.value.remedy
    assert select_backend(here.model_copy(update={"training_backend": "auto"})).backend == "process"


def test_four_bit_support_is_that_of_the_image(settings: Callable[..., Settings], engine: Engine) -> None:
    here = settings(training_backend="container")
    without = select_backend(here, machine())
    assert (without.machine.bitsandbytes, without.machine.unsloth) == (False, False)
    plan = place(Home(here), Recipe(batch_size=1), 64, machine()).plan.model_copy(update={"checkpointing": True})
    fallback = next_fallback(Recipe(batch_size=1), plan, without.machine)
    assert fallback is not None
    assert fallback.plan.device == "cpu"
    engine.on_gpu = {"gpu": "H100", "versions": {**VERSIONS, "bitsandbytes": "0.48.2", "unsloth": "2026.10"}}
    engine.images[IMAGE] = "sha256:" + "cd" * 32  # another image
    found = select_backend(here, machine(bitsandbytes=False, unsloth=False))
    assert (found.machine.bitsandbytes, found.machine.unsloth) == (True, True)
    steps = place(Home(here), Recipe(batch_size=1), 64, machine(bitsandbytes=False)).fallbacks
    assert "4-bit base weights" in [fallback.step.change for fallback in steps]


def test_a_gpu_that_containers_cannot_use_means_cpus_with_the_reason(
    settings: Callable[..., Settings], engine: Engine
) -> None:
    here = settings(training_backend="container")
    engine.on_gpu = {"gpu": "H100", "fault": "AcceleratorError: CUDA error: no kernel image"}
    found = place(Home(here), Recipe(batch_size=1), 64, machine())
    assert (found.route.place, found.plan.device, found.route.gpu) == ("cpu", "cpu", None)
    assert f"(The image {IMAGE} cannot use the H100: AcceleratorError" in found.sentence
    assert first_device(Home(here), machine()) == "cpu"
    engine.on_gpu = {"gpu": "H100"}
    assert place(Home(here), Recipe(batch_size=1), 64, machine()).route.place == "cuda"
    assert first_device(Home(here), machine()) == "cuda"
    engine.tried.clear()
    held = machine(gpus=(machine().gpus[0].model_copy(update={"held": True}),))
    engine.images[IMAGE] = "sha256:" + "ef" * 32  # an image that was never tried
    select_backend(here, held)
    assert engine.tried == [False], "the memory of a GPU in use may be full"


def test_a_containers_memory_limit_decides_its_placement(settings: Callable[..., Settings], engine: Engine) -> None:
    here = settings(training_backend="container", training_memory_gib="0.5")
    found = place(Home(here), Recipe(batch_size=1), 64, machine(gpus=(), gpu_note="no NVIDIA GPU"))
    assert "the CPUs have 0.5 GiB of memory free (about " in found.sentence
    with pytest.raises(TrainingError, match=r"cannot run here: no NVIDIA GPU; the CPUs have 0\.5 GiB of memory"):
        found.require()


def test_doctor_shows_where_trainings_run(settings: Callable[..., Settings], engine: Engine) -> None:
    native = check_training(settings(), machine())
    assert (native.works, native.found) == (True, "in processes of this machine")
    inside = check_training(settings(training_backend="container"), machine())
    assert inside.found == f"in containers of {IMAGE}, {DIGEST[:19]}: torch 2.13.0, trl 1.14.2, tried on H100"
    gone = machine(docker=Docker(note="No Docker engine answers at x", remedy="Start one."))
    missing = check_training(settings(), gone)
    assert (missing.works, missing.needed) == (False, True)
    assert (missing.found, missing.remedy) == ("No Docker engine answers at x.", "Start one.")
    instead = check_training(settings(training_backend="auto"), gone)
    assert (instead.works, instead.found) == (
        True, "in processes of this machine because: No Docker engine answers at x",
    )  # fmt: skip


def test_read_only_commands_show_the_refusal(
    settings: Callable[..., Settings], no_engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings(training_backend="container")
    decide(force=True)
    fit(length=64)
    said = " ".join(capsys.readouterr().out.split())
    refusal = f"it would be refused: {no_engine}. Start one (systemctl start docker; apt-get install docker.io), or set"
    assert f"But {refusal}" in said
    assert f"I{refusal[1:]}" in said
    assert " train on" not in said


def test_a_trial_on_the_cpu_names_the_reason(settings: Callable[..., Settings], engine: Engine) -> None:
    here = settings(training_backend="container")
    assert select_backend(here, machine()).trial_device == "H100"
    held = machine(gpus=(machine().gpus[0].model_copy(update={"held": True}),))
    assert select_backend(here, held).trial_device == "the CPU (trainings use the GPUs)"
    assert select_backend(here, machine(gpus=(), gpu_note="no NVIDIA GPU")).trial_device == "the CPU (no NVIDIA GPU)"
    engine.images[IMAGE] = "sha256:" + "cd" * 32
    engine.on_gpu = {"gpu": ""}
    assert select_backend(here, machine()).trial_device == f"the CPU (The image {IMAGE} sees no GPU)"
    assert not select_backend(here, machine(docker=Docker(version="29.0"))).can_use_gpus


def test_job_from_python_fails_with_the_same_error(
    settings: Callable[..., Settings], no_engine: str, tmp_path: Path
) -> None:
    settings(training_backend="container")
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    job = GPUHabitat(enable_gpu=False, home=tmp_path / "home")
    with pytest.raises(TrainingError, match="No Docker engine answers") as refused:
        job.run_training_job(rows, "seed", tmp_path / "out")
    assert refused.value.cause == "engine"
    assert not list((tmp_path / "home").glob("runs/*"))


def test_an_unknown_backend_is_refused_with_the_known_names(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.backends", "cluster", "Backend = None\n", "Backend")
    unknown = settings(training_backend="proces")
    with pytest.raises(TrainingError) as refused:
        create_backend(unknown, find_route(unknown, select_backend(unknown), UNKNOWN))
    assert refused.value.message == "ACADEMY_TRAINING_BACKEND=proces is not a training backend."
    assert refused.value.remedy == (
        "Set it to auto, process, container or cluster, or install the package that adds proces."
    )


def test_a_backend_whose_package_does_not_import_is_refused(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.backends", "cluster", "import no_such_module\n", "Backend")
    refusal = select_backend(settings(training_backend="cluster")).refusal
    assert refusal is not None
    assert refusal.message.startswith("The backend 'cluster' cannot be loaded from outside_package:Backend")


def test_an_added_backend_decides_about_gpus_itself(
    settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from academy.habitat.backends.base import BackendChoice\n"
        "class Backend:\n"
        "    @classmethod\n"
        "    def inspect(cls, settings, machine):\n"
        "        return BackendChoice(backend='', machine=machine, gpu_problem='the cluster has no GPUs')\n"
    )
    install_plugin(tmp_path, monkeypatch, "academy.backends", "cluster", code, "Backend")
    here = settings(training_backend="cluster")
    choice = select_backend(here, machine())
    assert (choice.backend, choice.location, choice.can_use_gpus) == ("cluster", "in the backend cluster", False)
    way = find_route(here, choice, UNKNOWN)
    assert (way.place, way.backend) == ("cpu", "cluster")
    assert "(the cluster has no GPUs)" in way.sentence


def test_doctor_asks_a_container_of_the_cuda_image_for_its_gpus(
    settings: Callable[..., Settings], engine: Engine
) -> None:
    engine.images["nvidia/cuda:12"] = DIGEST
    engine.lists = b"GPU 0: H100\n"
    finding = check_toolkit(settings(cuda_image="nvidia/cuda:12"), machine())
    assert (finding.works, finding.found) == (True, "a container of nvidia/cuda:12 sees GPU 0: H100")
    assert engine.tried == [True]
    engine.exit_code = 9
    finding = check_toolkit(settings(), machine())
    assert not finding.works
    assert "cannot use a GPU" in finding.found
    assert "nvidia-container-toolkit" in finding.remedy


def test_doctor_never_fetches_a_missing_cuda_image(settings: Callable[..., Settings], engine: Engine) -> None:
    finding = check_toolkit(settings(cuda_image="nvidia/cuda:12"), machine())
    assert (finding.works, finding.needed) == (False, False)
    assert finding.found == "The Docker engine has no image nvidia/cuda:12."
    assert "docker pull nvidia/cuda:12" in finding.remedy
    assert engine.tried == []
