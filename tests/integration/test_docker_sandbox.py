"""Docker's sandbox on a real engine; skipped without one. The hostile programs are in tests/campaign/hostile.py."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.arena.sandbox import Call, DockerSandbox, Limits, Unavailable, engine, find_sandbox
from academy.arena.sandbox.image import CONTENT, IMAGE, make_image
from academy.arena.suites.base import Reply
from academy.arena.suites.coding import FILE as CODING
from academy.arena.suites.coding import coding
from academy.errors import ExaminationError
from tests.homes import RealHome

LIMITS = Limits(seconds=5.0)
SLEEPY = "import time\ndef f():\n    time.sleep(120)\n"
SLEEPER = f"""
from academy.arena.sandbox import Call, DockerSandbox, Limits
DockerSandbox(Limits(seconds=120)).run({SLEEPY!r}, [Call(function="f")])
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    try:
        found = engine.connect()
    except ExaminationError as problem:
        pytest.skip(f"no Docker engine: {problem}")
    make_image(found)
    yield found
    found.close()


@pytest.fixture(scope="module")
def room(client: Any) -> DockerSandbox:
    return DockerSandbox(LIMITS)


def value(room: DockerSandbox, program: str) -> Any:
    result = room.run(program, [Call(function="f")])
    assert result.ended == "done", result
    assert result.values[0].kind == "value", result
    return result.values[0].value


def ours(client: Any, **label: str) -> list[dict[str, Any]]:
    wanted = [engine.LABEL, *(f"{name}={text}" for name, text in label.items())]
    found: list[dict[str, Any]] = client.api.containers(all=True, filters={"label": wanted})
    return found


def wait_for(what: Any, seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < until:
        time.sleep(0.05)
    assert found
    return found


def test_docker_layers_are_active(room: DockerSandbox) -> None:
    program = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
def read(path):
    try:
        with open(path) as stream: return stream.read()
    except OSError: return ""
def f():
    libc.socket(1, 1, 0)
    return {"caps": sum(libc.prctl(23, n, 0, 0, 0) == 1 for n in range(41)), "no new": libc.prctl(39, 0, 0, 0, 0),
            "seccomp": libc.prctl(21, 0, 0, 0, 0), "socket": ctypes.get_errno(), "root": sorted(os.listdir("/")),
            "ids": [os.getuid(), os.getgid()], "groups": os.getgroups(), "environ": sorted(os.environ),
            "core": resource.getrlimit(resource.RLIMIT_CORE)[1], "programs": os.listdir("/python/bin"),
            "processes": [n for n in os.listdir("/proc") if n.isdigit()], "sys": os.listdir("/sys"),
            "details": "".join(map(read, ["/proc/cmdline", "/proc/meminfo", "/proc/version", "/etc/resolv.conf"])),
            "files": [(folder, n) for folder in ("/dev/pts", "/dev/mqueue", "/proc/sys") for n in os.listdir(folder)]}
"""
    seen = value(room, program)
    assert (seen["caps"], seen["no new"], seen["seccomp"], seen["socket"], seen["core"]) == (0, 1, 2, 1, 0)
    assert seen["ids"][0] == seen["ids"][1] > 60_000
    assert set(seen["groups"]) <= {seen["ids"][0]}
    assert not {"bin", "usr", "root", "var", "work"} & set(seen["root"])
    assert seen["programs"] == ["python3"]
    assert set(seen["environ"]) <= {"HOME", "HOSTNAME", "LC_CTYPE", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "PATH"}
    assert seen["processes"] == ["1"]
    assert (seen["sys"], seen["details"], seen["files"]) == ([], "", [])


def test_image_contains_the_current_python(client: Any, room: DockerSandbox) -> None:
    assert value(room, "import sys\ndef f(): return list(sys.version_info[:3])") == list(sys.version_info[:3])
    found = client.images.get(IMAGE)
    assert room.image.digest == found.id
    assert f"image {found.id}" in room.active_limits
    assert len(found.labels[CONTENT]) == 64
    assert make_image(client).digest == found.id  # the same files: nothing is created again


def test_image_may_be_named_by_its_digest(room: DockerSandbox) -> None:
    assert value(DockerSandbox(LIMITS, room.image.digest), "def f(): return 1") == 1


def test_missing_image_and_image_with_volumes_are_rejected(client: Any) -> None:
    none = find_sandbox("docker", image="academy-none@sha256:" + "0" * 64)
    assert isinstance(none, Unavailable)
    assert "has no image academy-none@sha256" in none.because
    assert "academy sandbox --make-image" in none.because
    empty = io.BytesIO()
    tarfile.open(fileobj=empty, mode="w").close()
    client.api.import_image(empty.getvalue(), repository="academy-test-volumes", tag="x", changes=["VOLUME /data"])
    try:
        with pytest.raises(ExaminationError, match=r"declares volumes [(]/data[)]"):
            DockerSandbox(LIMITS, "academy-test-volumes:x")
    finally:
        client.images.remove("academy-test-volumes:x")


def test_container_logs_nothing_and_is_removed(client: Any, room: DockerSandbox) -> None:
    ended: list[str] = []
    program = (
        "import os, time\ndef f():\n    os.write(2, b'x' * 1000)\n    os.fork() or os.setsid()\n    time.sleep(60)\n"
    )
    running = threading.Thread(target=lambda: ended.append(room.run(program, [Call(function="f")]).ended))
    running.start()
    try:
        (one,) = wait_for(
            lambda: [c for c in ours(client, **{engine.OWNER: engine.owner()}) if c["State"] == "running"]
        )
        details = client.api.inspect_container(one["Id"])
    finally:
        running.join()
    assert ended == ["time"]
    assert details["HostConfig"]["LogConfig"]["Type"] == "none"
    assert not details["LogPath"]
    assert details["Image"] == room.image.digest
    assert not ours(client, **{engine.OWNER: engine.owner()})


def test_container_of_a_killed_process_is_removed_by_the_next_sandbox(client: Any) -> None:
    thread = threading.Thread(target=lambda: DockerSandbox(LIMITS).run(SLEEPY, [Call(function="f")]))
    with subprocess.Popen([sys.executable, "-c", SLEEPER], env={**os.environ, "PYTHONWARNINGS": "ignore"}) as killed:
        (left,) = wait_for(lambda: [c["Id"] for c in ours(client) if f"/{killed.pid}/" in c["Labels"][engine.OWNER]
                                    and c["State"] == "running"])  # fmt: skip
        killed.send_signal(signal.SIGKILL)
    thread.start()
    try:
        (mine,) = wait_for(lambda: [c["Id"] for c in ours(client, **{engine.OWNER: engine.owner()})])
        wait_for(lambda: left not in [c["Id"] for c in ours(client)])  # by the sandbox that was created last
        DockerSandbox(LIMITS)
        assert mine in [c["Id"] for c in ours(client)]  # not the container of a running process
    finally:
        thread.join()


def test_expired_container_of_any_process_is_removed(client: Any) -> None:
    made = {}
    for seconds in (-1, 600):
        labels = {engine.LABEL: "1", engine.OWNER: "another/machine/1/1", engine.UNTIL: str(int(time.time()) + seconds)}
        made[seconds] = client.api.create_container(IMAGE, ["python3"], labels=labels)["Id"]
    try:
        assert engine.sweep(client) >= 1
        there = [c["Id"] for c in ours(client)]
        assert (made[-1] in there, made[600] in there) == (False, True)
    finally:
        client.api.remove_container(made[600])


def test_sandbox_closes_its_connections(room: DockerSandbox) -> None:
    for _ in range(5):  # the client keeps a limited number of connections
        value(room, "def f(): return 1")
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(3):
        value(room, "def f(): return 1")
    assert len([*Path("/proc/self/fd").iterdir()]) <= before


@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=pytest.mark.campaign)])
def test_coding_references_pass_and_mutants_fail(room: DockerSandbox, all_of_them: bool) -> None:
    suite = coding(room)
    rows = {row["id"]: row for row in map(orjson.loads, CODING.read_bytes().splitlines())}
    for number, question in enumerate(suite.questions()):
        if all_of_them or number % 20 == 0:
            assert suite.grade(question, suite.control_answer(question, right=True)) == 1, question.id
            mutant = rows[question.id]["mutants"][number % 3]
            assert suite.grade(question, Reply(text=f"```python\n{mutant}\n```")) == 0, (question.id, mutant)


def test_commands_show_the_docker_sandbox(client: Any, tmp_path: Path) -> None:
    home = RealHome(tmp_path / "home")
    shown = home.run("sandbox", "--make-image", "--json", ACADEMY_SANDBOX="docker").json
    assert shown["sandbox"] == "docker"
    assert shown["made"] == shown["image"]
    assert shown["image"]["digest"] == client.images.get(IMAGE).id
    found = {one["name"]: one for one in home.run("doctor", "--json").json["findings"]}
    assert found["Docker sandbox"]["works"]
    assert shown["image"]["digest"][:19] in found["Docker sandbox"]["found"]


def test_missing_engine_is_reported_with_the_remedy(tmp_path: Path) -> None:
    nowhere = {"ACADEMY_SANDBOX": "docker", "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    ended = RealHome(tmp_path / "home").run("sandbox", **nowhere)
    assert ended.code == 2
    assert "No Docker engine answers at unix://" in ended.err
    assert "apt-get install docker.io" in ended.err
