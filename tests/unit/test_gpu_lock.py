"""One training per GPU on the whole host, by the kernel's locks, tested with the UUID of a GPU that does not exist."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.backends.isolation import Limits
from academy.habitat.backends.process import ProcessBackend
from academy.system import gpu_lock
from academy.system.gpu_lock import gpu_in_use, gpu_lock_file, hold_gpu
from tests.orders import order_of

UUID = "GPU-00000000-test"
HOLDER = """
import sys, time
from pathlib import Path
from academy.system import gpu_lock
gpu_lock.FOLDERS = (Path(sys.argv[1]),)
with gpu_lock.hold_gpu(sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that all users share."""
    folder = tmp_path / "lock"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(gpu_lock, "FOLDERS", (tmp_path / "none", tmp_path, folder))
    return folder


@pytest.fixture
def hold(shared: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts another process that locks a GPU."""
    made: list[subprocess.Popen[bytes]] = []

    def start(uuid: str = UUID) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(shared), uuid], stdout=subprocess.PIPE)
        made.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in made:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def order(tmp_path: Path) -> TrainingOrder:
    home = tmp_path / "home"
    home.mkdir()
    (home / "train.jsonl").write_text("{}\n")
    return order_of(home)


def test_a_gpu_lock_is_held_until_its_process_dies(hold: Callable[..., subprocess.Popen[bytes]]) -> None:
    assert not gpu_in_use(UUID)
    holder = hold()
    assert gpu_in_use(UUID)
    with pytest.raises(TrainingError, match=f"Another training is using the GPU {UUID}") as refusal, hold_gpu(UUID):
        pass
    assert refusal.value.cause == "gpu"
    with hold_gpu("GPU-another"):
        assert gpu_in_use("GPU-another")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not gpu_in_use(UUID)
    with hold_gpu(UUID), pytest.raises(TrainingError, match="Another training"), hold_gpu(UUID):
        pass


@pytest.mark.parametrize("kind", ["process", "container"])
def test_both_backends_refuse_a_gpu_in_use(
    hold: Callable[..., subprocess.Popen[bytes]], order: TrainingOrder, kind: str
) -> None:
    hold()
    limits = Limits(memory_bytes=2**30, cpus=1)
    home = order.runs.parent
    backend = ProcessBackend(gpu=UUID) if kind == "process" else ContainerBackend(home, gpu=UUID, limits=limits)
    (event,) = backend.train(order)
    assert (event.phase, event.cause) == ("failed", "gpu")
    assert event.message.startswith(f"Another training is using the GPU {UUID}. Wait until it ends")
    assert not (order.folder / "order.json").exists()  # nothing was started


def test_a_training_locks_its_gpu_only_while_it_runs(order: TrainingOrder) -> None:
    backend = ProcessBackend(gpu=UUID)
    events = backend.train(order)
    assert next(events).phase == "started"
    assert gpu_in_use(UUID)
    assert backend.cancel(order)
    *_, last = events
    assert last.cause == "cancelled"
    assert not gpu_in_use(UUID)


def test_only_regular_files_are_locked(shared: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    place = gpu_lock_file(UUID)
    assert place.parent == shared
    place.symlink_to(secret)
    with pytest.raises(TrainingError, match="is a symbolic link") as refusal, hold_gpu(UUID):
        pass
    assert refusal.value.cause == "gpu"
    assert not gpu_in_use(UUID)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(TrainingError, match="is not a regular file"), hold_gpu(UUID):
        pass
    assert secret.read_text() == "secret"


def test_a_uuid_cannot_name_a_path_outside_the_lock_folder(shared: Path) -> None:
    assert gpu_lock_file("../../etc/passwd").parent == shared


def test_a_lock_file_is_readable_by_all_users_with_any_umask(shared: Path) -> None:
    before = os.umask(0o077)
    try:
        with hold_gpu(UUID):
            assert gpu_lock_file(UUID).stat().st_mode & 0o777 == 0o444
    finally:
        os.umask(before)
    assert [path.name for path in shared.iterdir()] == [f"academy-{UUID}.lock"]


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("flock"), reason="root only")
def test_a_lock_is_shared_between_users(shared: Path) -> None:
    def held_as_nobody() -> str:
        program = f"exec 9< {gpu_lock_file(UUID).name}; flock -n 9 && echo yes || echo no"
        done = subprocess.run(["sh", "-c", program], user=65534, group=65534, extra_groups=[], cwd=shared,
                              capture_output=True, text=True, check=False)  # fmt: skip
        return done.stdout.strip() or done.stderr

    with hold_gpu(UUID):
        assert held_as_nobody() == "no"
    assert held_as_nobody() == "yes"
