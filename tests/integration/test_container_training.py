"""Trainings in real containers, and how each of them ends. Skipped if no engine answers.

All of one order, whose adapter has the same bytes wherever and however often interrupted it is trained.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from academy.adapters.adapter import read_adapter
from academy.errors import EngineError
from academy.habitat.backends import image, isolation
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.container import ContainerBackend, sweep
from academy.habitat.backends.isolation import Limits
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.run_folder import EVENTS, read_events
from academy.habitat.runs import cancel_run, is_followed
from academy.home.identity import claim_home
from academy.professor.recipe import Recipe
from academy.sdk.gpu_habitat import GPUHabitat
from academy.system import docker as engine
from academy.system import gpu_lock
from tests.homes import RealHome
from tests.orders import order_of, topic_rows, write_rows
from tests.topics import write_topics

LIMITS = Limits(memory_bytes=4 * 2**30, cpus=2)
RECIPE = Recipe(rank=8, alpha=16, epochs=5, learning_rate=5e-3, batch_size=4, accumulation=1, max_length=128)
STARTER = """
import sys
from pathlib import Path
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.container import ContainerBackend
for event in ContainerBackend(Path(sys.argv[2])).train(TrainingOrder.model_validate_json(sys.argv[1])):
    print(event.phase, flush=True)
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    try:
        found = engine.connect(1200)
    except EngineError as problem:
        pytest.skip(f"no Docker engine: {problem}")
    image.make_image(found)
    yield found
    found.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows as a dataset."""
    place = tmp_path_factory.mktemp("home")
    claim_home(place)
    write_rows(place / "train.jsonl", topic_rows(8))
    return place


def ordered(home: Path, name: str) -> TrainingOrder:
    """The order of these tests; its files are in a folder of this name."""
    return order_of(home / name, home / "train.jsonl", recipe=RECIPE)


def ours(client: Any, home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": f"{isolation.HOME}={home}"})
    return found


def until(events: Iterator[TrainingEvent], phase: str) -> None:
    for event in events:
        assert event.phase != "failed", event
        if event.phase == phase:
            return


def wait_for(what: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found
    return found


@pytest.fixture(scope="module")
def native(client: Any, home: Path) -> Iterator[Future[TrainingEvent]]:
    """The result of the same order in an uninterrupted process, trained in parallel with the containers."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(lambda: list(ProcessBackend().train(ordered(home, "native")))[-1])


def test_a_container_trains_the_same_bytes_in_isolation(client: Any, home: Path, native: Future[TrainingEvent]) -> None:
    order, backend = ordered(home, "done"), ContainerBackend(home, limits=LIMITS)
    events = backend.train(order)
    first = next(events)
    told = client.api.inspect_container(backend.container_id(order))
    heard = [first, *events]
    beside = native.result()

    host = told["HostConfig"]
    assert (host["NetworkMode"], host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (
        "none", True, ["ALL"], False,
    )  # fmt: skip
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert told["Config"]["User"].split(":")[0] not in ("", "0")
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (2**32, 2**32, 2 * 10**9)
    assert host["PidsLimit"] == LIMITS.processes
    assert host["LogConfig"]["Config"]["max-size"] == str(2 * LIMITS.log_bytes)
    assert [one["Target"] for one in host["Mounts"] if not one.get("ReadOnly")] == [f"/runs/{order.folder.name}"]
    assert told["Config"]["Labels"].items() >= isolation.labels(home, order).items()
    assert order.folder.name in told["Name"]

    assert heard[-1].phase == "done", heard[-1]
    assert [event.n for event in heard] == list(range(1, len(heard) + 1))
    assert beside.phase == "done"
    assert (heard[-1].adapter, heard[-1].loss) == (beside.adapter, beside.loss)
    adapter = read_adapter(order.adapters / beside.adapter[:16], base_digest=order.base.digest, digest=beside.adapter)
    other = read_adapter(ordered(home, "native").adapters / beside.adapter[:16])
    assert adapter.manifest == other.manifest  # with canaries, threads and versions
    assert adapter.path.stat().st_uid == os.getuid()
    assert not ours(client, home)
    assert list(backend.train(order))[-1] == heard[-1]  # finished before: nothing is trained
    assert (order.folder / "trainer.log").stat().st_size <= LIMITS.log_bytes


@pytest.mark.campaign
def test_a_cancelled_container_continues_to_the_same_bytes(
    client: Any, home: Path, native: Future[TrainingEvent]
) -> None:
    order, backend = ordered(home, "cancelled"), ContainerBackend(home, limits=LIMITS)
    assert not backend.cancel(order)
    events = backend.train(order)
    until(events, "checkpoint")
    began = time.monotonic()
    assert backend.cancel(order)
    *_, last = events
    assert time.monotonic() - began < 10
    assert (last.phase, last.cause) == ("failed", "cancelled")
    assert not ours(client, home)
    assert list(order.folder.glob("checkpoints/checkpoint-*/trainer_state.json"))
    *_, last = backend.train(order)
    assert (last.phase, last.adapter) == ("done", native.result().adapter)


@pytest.mark.campaign
def test_a_container_is_cancelled_from_another_process(client: Any, home: Path) -> None:
    order, backend = ordered(home, "by-file"), ContainerBackend(home, limits=LIMITS)
    events = backend.train(order)
    until(events, "step")
    told: list[TrainingEvent] = []
    reader = threading.Thread(target=lambda: told.extend(events))
    reader.start()
    found = cancel_run(order.folder)
    reader.join()
    assert (found.status, told[-1].cause) == ("cancelled", "cancelled")
    assert not ours(client, home)
    assert not is_followed(order.folder)


def test_a_killed_trainer_is_reported(client: Any, home: Path) -> None:
    order, backend = ordered(home, "killed"), ContainerBackend(home, limits=LIMITS)
    events = backend.train(order)
    until(events, "started")
    client.api.kill(backend.container_id(order))
    *_, last = events
    assert (last.phase, last.cause) == ("failed", "killed")
    assert "ended with code 137" in last.message
    assert not ours(client, home)


def test_a_container_out_of_memory_has_that_cause(client: Any, home: Path) -> None:
    ContainerBackend(home, limits=LIMITS).try_image()
    backend = ContainerBackend(home, limits=Limits(memory_bytes=160 * 2**20, cpus=2))
    *_, last = backend.train(ordered(home, "memory"))
    assert (last.phase, last.cause) == ("failed", "memory")
    assert "needed more than its 0.2 GiB of memory" in last.message
    assert not ours(client, home)


def test_a_hung_trainer_is_stopped(client: Any, home: Path) -> None:
    order, backend = ordered(home, "hung"), ContainerBackend(home, limits=LIMITS, silence=3)
    events = backend.train(order)
    until(events, "started")
    client.api.kill(backend.container_id(order), "SIGSTOP")
    began = time.monotonic()
    *_, last = events
    assert time.monotonic() - began < 10
    assert (last.phase, last.cause) == ("failed", "killed")
    assert "showed no activity for 3 s and was stopped" in last.message
    assert not ours(client, home)


def test_a_missing_gpu_is_reported(client: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "nvidia" in client.info().get("Runtimes", {}):
        pytest.skip("the engine has GPUs")
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(gpu_lock, "FOLDERS", (tmp_path,))  # no GPU of this machine is locked
    *_, last = ContainerBackend(home, gpu="GPU-none", limits=LIMITS).train(ordered(home, "gpu"))
    assert (last.phase, last.cause) == ("failed", "gpu")
    assert "The training needs a GPU, and the Docker engine cannot give containers one." in last.message
    assert "nvidia-container-toolkit" in last.message
    assert not ours(client, home)


@pytest.mark.campaign
def test_an_orphaned_container_is_removed_by_the_next_start(client: Any, home: Path) -> None:
    order = ordered(home, "orphan")
    other = ordered(home, "other")
    ContainerBackend(home, limits=LIMITS).try_image()
    command = [sys.executable, "-W", "ignore", "-c", STARTER, order.model_dump_json(), str(home)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as starter:
        wait_for(lambda: list(read_events(order.folder / EVENTS)))
        (one,) = [c["Id"] for c in ours(client, home) if c["State"] == "running"]
        assert sweep(client, home, other) == 0
        starter.send_signal(signal.SIGKILL)
    wait_for(lambda: [c["Id"] for c in ours(client, home) if c["State"] == "exited"] == [one], seconds=10)
    events = ContainerBackend(home, limits=LIMITS).train(order)
    until(events, "started")  # of the killed process
    until(events, "started")
    (another,) = [c["Id"] for c in ours(client, home)]
    assert another != one
    events.close()  # type: ignore[attr-defined]  # a caller that stops reading
    assert not ours(client, home)


def test_a_missing_or_unusable_image_is_refused(client: Any, home: Path) -> None:
    *_, last = ContainerBackend(home, "academy-none:x", limits=LIMITS).train(ordered(home, "none"))
    assert (last.phase, last.cause) == ("failed", "image")
    assert "has no image academy-none:x. Make it: academy trainer --make-image." in last.message
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    client.api.import_image(empty.getvalue(), repository="academy-test-empty", tag="x")
    try:
        *_, last = ContainerBackend(home, "academy-test-empty:x", limits=LIMITS).train(ordered(home, "empty"))
    finally:
        client.images.remove("academy-test-empty:x")
    assert (last.phase, last.cause) == ("failed", "image")
    assert "no python3" in last.message
    assert not ours(client, home)


@pytest.mark.campaign
def test_the_commands_train_in_a_container_or_say_why_not(client: Any, tmp_path: Path) -> None:
    there = RealHome(tmp_path / "home")
    container = {"ACADEMY_TRAINING_BACKEND": "container", "ACADEMY_ENABLE_GPU": "false"}
    told = there.run("trainer", "--make-image", "--json", **container).json
    assert told["made"]["digest"] == told["image"]["digest"] == told["proof"]["image"]
    assert told["proof"]["versions"]["torch"]
    assert told["proof"]["gpu"] == ""
    found = {one["name"]: one for one in there.run("doctor", "--json", **container).json["findings"]}
    assert found["training"]["works"]
    assert told["image"]["digest"][:19] in found["training"]["found"]

    assert there.run("lessons", "import", write_topics(tmp_path / "topics.jsonl")).code == 0
    train = ("train", "--epochs", "1", "--batch-size", "16", "--json")
    nowhere = there.run(*train, DOCKER_HOST=f"unix://{tmp_path}/none.sock", **container)
    assert nowhere.code == 2
    assert nowhere.err.count("No Docker engine answers at unix://") == 1
    assert "Traceback" not in nowhere.err
    assert there.state().failed_tags == 0  # it was refused before it started
    assert not there.events()  # no other backend was used
    done = there.run(*train, **container)
    assert done.code == 0, done.err
    assert done.json["adapter"]["version"] == "1"
    assert there.state().failed_tags == 0
    assert there.state().versions[0][2] == done.json["adapter"]["digest"]
    assert not ours(client, there.path)


def test_a_job_from_python_runs_in_a_container(
    client: Any, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACADEMY_TRAINING_BACKEND", "container")
    habitat = GPUHabitat(enable_gpu=False, home=tmp_path / "own")
    job = habitat.run_training_job(home / "train.jsonl", "seed", tmp_path / "job", learning_rate=5e-3, num_epochs=1)
    assert [one["Id"] for one in ours(client, tmp_path / "own")] == [job["container_id"]]
    assert habitat.get_training_status(job["job_name"])["status"] == "running"
    habitat.cleanup_job(job["job_name"])
    assert habitat.get_training_status(job["job_name"])["status"] == "cancelled"
    assert not ours(client, tmp_path / "own")
