"""The container backend without an engine: what it rejects, what a container sees, and what it publishes.

Trainings in real containers are in tests/integration/test_container_training.py.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from academy.errors import TrainingError
from academy.habitat.backends import container, isolation
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.choice import create_backend
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.backends.isolation import Limits
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.order_paths import refuse_outside
from academy.habitat.routing import Route
from academy.habitat.run_folder import read_events
from academy.models.base_model import SEED_FOLDER, BaseModel, resolve
from academy.settings import LEAST_CPUS, LEAST_MEMORY_GIB, load_settings
from academy.system import hardware
from academy.system.hardware import Gpu
from tests.orders import order_of

GPU = Gpu(index=0, name="H100", uuid="GPU-0")
LIMITS = Limits(memory_bytes=2**30, cpus=1)


@pytest.fixture
def order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingOrder:
    """An order without a Docker engine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    home = tmp_path / "home"
    home.mkdir()
    (home / "train.jsonl").write_text('{"instruction": "a", "input": "", "output": "b"}\n')
    return order_of(home)


def refusal(order: TrainingOrder, home: Path) -> tuple[str, str]:
    (event,) = ContainerBackend(home, limits=LIMITS).train(order)
    assert event.phase == "failed"
    assert event.n == 1
    assert "\n" not in event.message
    return event.cause, event.message


def test_an_order_without_an_engine_fails_with_the_remedy(order: TrainingOrder, tmp_path: Path) -> None:
    cause, message = refusal(order, tmp_path / "home")
    assert cause == "engine"
    assert "No Docker engine answers at unix://" in message
    assert "apt-get install docker.io" in message


@pytest.mark.parametrize("name", ["runs", "adapters", "train_file"])
def test_a_path_outside_the_home_is_refused_before_anything_is_written(
    order: TrainingOrder, tmp_path: Path, name: str
) -> None:
    outside = tmp_path / "elsewhere"
    cause, message = refusal(order.model_copy(update={name: outside}), tmp_path / "home")
    assert cause == "order"
    assert f"names {outside}, which is outside" in message
    assert not outside.exists()
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["train.jsonl"]


def test_a_link_out_of_the_home_is_refused(order: TrainingOrder, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}\n")
    link = tmp_path / "home" / "link.jsonl"
    link.symlink_to(tmp_path / "secret")
    assert refusal(order.model_copy(update={"train_file": link}), tmp_path / "home")[0] == "order"


def test_a_home_folder_on_another_disk_is_allowed(order: TrainingOrder, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home" / "adapters").symlink_to(tmp_path / "disk")
    refuse_outside(order, tmp_path / "home")
    (tmp_path / "home" / "adapters").unlink()
    with pytest.raises(TrainingError, match="is outside"):
        refuse_outside(order.model_copy(update={"adapters": tmp_path / "disk"}), tmp_path / "home")


def test_an_order_inside_a_container_keeps_its_digest(order: TrainingOrder) -> None:
    inside = isolation.order_inside(order)
    assert inside.digest == order.digest
    assert not [path for path in (inside.base.path, inside.train_file, inside.folder) if str(path).startswith("/tmp")]  # noqa: S108
    targets = {place for _, place, _ in isolation.order_mounts(order)}
    assert {str(inside.train_file), str(inside.folder), f"{inside.base.path}/model.safetensors"} <= targets
    assert TrainingOrder.model_validate_json(inside.model_dump_json()) == inside


def test_mounts_are_read_only_except_the_run_and_contain_no_model_code(order: TrainingOrder, tmp_path: Path) -> None:
    base = tmp_path / "models--me--seed" / "snapshots" / "main"
    shutil.copytree(SEED_FOLDER, base)
    (base / "code").mkdir()
    (base / "code" / "modeling_evil.py").write_text("raise SystemExit")
    blob = tmp_path / "models--me--seed" / "blobs" / "1234"
    blob.parent.mkdir()
    (base / "tokenizer.json").rename(blob)
    (base / "tokenizer.json").symlink_to(blob)  # as in the cache of a model hub
    found = isolation.order_mounts(order.model_copy(update={"base": resolve(str(base))}))
    assert [place for _, place, written in found if written] == [f"/runs/{order.folder.name}"]
    assert not [place for _, place, _ in found if place.endswith(".py")]
    assert (blob, "/base/tokenizer.json", False) in found


def test_a_base_model_with_code_of_its_own_is_refused(order: TrainingOrder, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(SEED_FOLDER, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    ordered = BaseModel(name="evil", path=base, digest="1" * 64)
    cause, message = refusal(order.model_copy(update={"base": ordered}), tmp_path / "home")
    assert cause == "base model"
    assert "needs its own code" in message


@pytest.mark.skipif(os.getuid() != 0, reason="root only: its containers run as another user")
def test_an_unreadable_file_of_the_base_model_is_named(order: TrainingOrder, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(SEED_FOLDER, base)
    (base / "config.json").chmod(0o600)
    ordered = order.model_copy(update={"base": BaseModel(name="closed", path=base, digest="1" * 64)})
    cause, message = refusal(ordered, tmp_path / "home")
    assert cause == "order"
    assert f"chmod a+r {base / 'config.json'}" in message


@pytest.mark.skipif(os.getuid() != 0, reason="root only: its containers run as another user")
def test_closed_dataset_of_the_home_is_opened_for_the_container_only(order: TrainingOrder) -> None:
    order.train_file.chmod(0o600)
    isolation.order_mounts(order)
    state = order.train_file.stat()
    assert (state.st_gid, stat.S_IMODE(state.st_mode)) == (isolation.NOBODY, 0o640)


def test_invalid_or_linked_event_files_are_refused(order: TrainingOrder, tmp_path: Path) -> None:
    order.folder.mkdir(parents=True)
    events = order.folder / "events.jsonl"
    events.write_text("no event\n")
    with pytest.raises(TrainingError, match="cannot be read"):
        list(read_events(events))
    events.unlink()
    events.symlink_to(order.train_file)
    with pytest.raises(TrainingError, match="is a symbolic link"):
        list(read_events(events))


def test_a_log_keeps_its_end_and_follows_no_link(tmp_path: Path) -> None:
    container._append_log(tmp_path, b"first attempt\n", 20)
    container._append_log(tmp_path, b"second attempt\n", 20)
    assert (tmp_path / "trainer.log").read_bytes() == b"tempt\nsecond attempt\n"[-20:]
    (tmp_path / "trainer.log").unlink()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "trainer.log").symlink_to(tmp_path / "secret")
    container._append_log(tmp_path, b"third attempt\n", 20)
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "trainer.log").read_bytes() == b"third attempt\n"


def test_settings_choose_and_limit_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    on_cpus, on_gpu = Route(place="cpu", sentence=""), Route(place="cuda", gpu=GPU, sentence="")
    usual = create_backend(load_settings(), on_cpus)
    assert isinstance(usual, ProcessBackend)
    assert (usual.silence, usual.gpu) == (900, "")
    monkeypatch.setenv("ACADEMY_TRAINING_SILENCE_MINUTES", "0.5")
    native = create_backend(load_settings(), on_gpu)
    assert isinstance(native, ProcessBackend)
    assert (native.silence, native.gpu) == (30, "GPU-0")
    monkeypatch.setenv("ACADEMY_TRAINING_IMAGE", "unsloth/unsloth@sha256:" + "0" * 64)
    monkeypatch.setenv("ACADEMY_TRAINING_MEMORY_GIB", "1.5")
    monkeypatch.setenv("ACADEMY_TRAINING_CPUS", "1")
    found = create_backend(load_settings(), on_cpus.model_copy(update={"backend": "container"}))
    assert isinstance(found, ContainerBackend)
    assert found.image.startswith("unsloth/unsloth@sha256:")
    assert (found.limits.memory_bytes, found.limits.cpus) == (3 * 2**29, 1)
    assert (found.silence, found.gpu) == (30, "")
    with_gpu = create_backend(load_settings(), on_gpu.model_copy(update={"backend": "container"}))
    assert isinstance(with_gpu, ContainerBackend)
    assert with_gpu.gpu == "GPU-0"


def test_limits_reject_too_little_memory_for_any_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    least = isolation.limits_here(LEAST_MEMORY_GIB, LEAST_CPUS)
    assert (least.memory_bytes, least.cpus) == (64 * 2**20, 0.01)
    (tmp_path / "memory.max").write_text(str(60 * 2**20))  # the memory limit of a small container
    monkeypatch.setattr(hardware, "GROUPS", tmp_path)
    with pytest.raises(TrainingError) as refused:
        isolation.limits_here()
    assert refused.value.cause == "memory"
    assert refused.value.message.startswith("54 MiB of memory is too little for a training's container")
    assert isolation.limits_here(1).memory_bytes == 2**30  # the user's value counts


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "gpu"),
        ("nvidia-container-cli: initialization error", "gpu"),
        ('exec: "python3": executable file not found in $PATH', "image"),
        ("no space left on device", "engine"),
    ],
)
def test_engine_errors_get_a_cause(said: str, cause: str) -> None:
    assert isolation.explain(OSError(said))[2] == cause


def test_a_process_ends_with_its_stdin() -> None:
    program = (
        "import time; from academy.system.processes import end_with_stdin; end_with_stdin(); print(1, flush=True); "
    )
    with subprocess.Popen(
        [sys.executable, "-c", program + "time.sleep(60)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == b"1\n"
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=10) == 1
