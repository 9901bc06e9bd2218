"""Harmless programs in the sandbox. The hostile ones are only in tests/campaign/hostile.py."""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from academy.arena.sandbox import BubblewrapSandbox, Call, DockerSandbox, Limits, Sandbox, Unavailable, find_sandbox
from academy.arena.sandbox.answer import RunOutput, request
from academy.arena.sandbox.container import take_frames
from academy.arena.sandbox.harness import ITEMS, plain
from academy.arena.sandbox.memory import PREFIX, find_cgroups
from academy.arena.sandbox.records import Value
from academy.errors import ExaminationError

QUICK = Limits(seconds=1.0, cpu_seconds=2)
NONCE = "n0"


@pytest.fixture(scope="module", params=["bubblewrap", "docker"])
def room(request: pytest.FixtureRequest) -> Sandbox:
    sandbox = find_sandbox(request.param, QUICK)
    if isinstance(sandbox, Unavailable):
        pytest.skip(f"no {request.param} sandbox: {sandbox.because}")
    return sandbox


def values(room: Sandbox, program: str, *calls: Call) -> list[tuple[str, Any]]:
    result = room.run(program, calls)
    assert result.ended == "done", result
    return [(value.kind, value.value) for value in result.values]


def test_sandbox_returns_plain_values_and_names_of_exceptions(room: Sandbox) -> None:
    program = """
import asyncio, dataclasses
@dataclasses.dataclass
class Point:
    x: int
seen = []
def add(a, b): return a + b
def fail(kind): raise {"v": ValueError("no"), "exit": SystemExit(3), "stop": KeyboardInterrupt()}[kind]
def remember(x): seen.append(x); return seen
def later():
    async def work(): return 7
    return asyncio.run(work())
"""
    calls = [Call(function="add", args=(1, 2)), Call(function="add", args=("gr", "üße 🎓")),
             Call(function="add", args=([1.5, None], [True, {"k": []}])), Call(function="fail", args=("v",)),
             Call(function="fail", args=("exit",)), Call(function="fail", args=("stop",)),
             Call(function="remember", args=(1,)), Call(function="remember", args=(2,)),
             Call(function="absent"), Call(function="later"), Call(function="Point", args=(1,))]  # fmt: skip
    assert values(room, program, *calls) == [
        ("value", 3), ("value", "grüße 🎓"), ("value", [1.5, None, True, {"k": []}]), ("raised", "ValueError"),
        ("raised", "SystemExit"), ("raised", "KeyboardInterrupt"), ("value", [1]), ("value", [1, 2]),
        ("raised", "NameError"), ("value", 7), ("not plain", None),
    ]  # fmt: skip


def test_sandbox_returns_no_value_that_is_not_plain(room: Sandbox) -> None:
    program = """
class Same(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def deep(n):
    made = []
    for _ in range(n): made = [made]
    return made
GIVEN = [Same(3), (1, 2), {1: 2}, {"a": {3}}, float("nan"), float("inf"), b"x", 1j, object, (n for n in [1]),
         10 ** 4200, "\\ud800", deep(40), [0] * 30000, {"x" * 70000: 1}]
def give(n): return GIVEN[n]
"""
    given = values(room, program, *(Call(function="give", args=(n,)) for n in range(15)))
    assert given == [("not plain", None)] * 15


@pytest.mark.parametrize(
    ("program", "stderr"),
    [("def f(:", "SyntaxError"), ("raise ValueError('early')", "ValueError: early"), ("import os; os._exit(0)", "")],
)
def test_program_that_ends_before_its_calls_has_crashed(room: Sandbox, program: str, stderr: str) -> None:
    result = room.run(program, [Call(function="f")])
    assert (result.ended, result.values) == ("crashed", ())
    assert result.stderr.startswith(stderr)


def test_sandbox_limits_cpu_time_and_wall_clock_time(room: Sandbox) -> None:
    assert room.run("def f():\n    while True: pass", [Call(function="f")]).ended == "time"
    assert room.run("import time\ntime.sleep(60)", []).ended == "time"


def test_sandbox_discards_stdout_and_ends_a_flood_of_stderr(room: Sandbox) -> None:
    program = "import sys\ndef f(n):\n    print('x' * n)\n    sys.stderr.write('\\x1b[31m' + 'y' * n)\n    return n"
    result = room.run(program, [Call(function="f", args=(9_000,))])
    assert (result.ended, result.values[0].value, len(result.stderr), result.stderr[:6]) == (
        "done",
        9_000,
        500,
        "\ufffd[31my",
    )
    assert room.run(program, [Call(function="f", args=(10**6,))]).ended == "output"
    quiet = "def f(n):\n    for _ in range(n): print('x' * 1000)\n    return n"
    assert values(room, quiet, Call(function="f", args=(5_000,))) == [("value", 5_000)]


def test_sandbox_limits_memory_files_and_processes(room: Sandbox) -> None:
    program = """
import os, threading
def allocate(n): return len(bytearray(n))
def fill(folder, n):
    with open(folder + "/file", "wb") as stream: stream.write(bytes(n))
def fork(n):
    made = []
    try:
        for _ in range(n):
            child = os.fork()
            if not child:
                import time; time.sleep(5); os._exit(0)
            made.append(child)
    finally:
        for child in made: os.kill(child, 9)
    return len(made)
"""
    limits = Limits(seconds=3.0, memory_bytes=100 * 2**20, processes=6, file_bytes=2**20)
    small = BubblewrapSandbox(limits) if room.name == "bubblewrap" else DockerSandbox(limits)
    assert small.run(program, [Call(function="allocate", args=(200 * 2**20,))]).ended == "memory"
    assert values(small, program, Call(function="allocate", args=(2**20,))) == [("value", 2**20)]
    calls = [Call(function="fill", args=("/home", 2**21)), Call(function="fill", args=("/etc", 1))]
    calls += [Call(function="fork", args=(3,)), Call(function="fork", args=(20,))]
    assert values(small, program, *calls) == [
        ("raised", "OSError"), ("raised", "OSError"), ("value", 3), ("raised", "BlockingIOError")
    ]  # fmt: skip


def test_bubblewrap_layers_are_active(room: Sandbox) -> None:
    if room.name != "bubblewrap":
        pytest.skip("bubblewrap only")
    program = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
def look():
    sockets = []
    libc.socket(1, 1, 0)
    return {"caps": sum(libc.prctl(23, n, 0, 0, 0) == 1 for n in range(41)), "no new": libc.prctl(39, 0, 0, 0, 0),
            "seccomp": libc.prctl(21, 0, 0, 0, 0), "socket": ctypes.get_errno(), "root": sorted(os.listdir("/")),
            "uid": os.getuid(), "groups": os.getgroups(), "environ": sorted(os.environ), "net": os.path.exists("/sys"),
            "core": resource.getrlimit(resource.RLIMIT_CORE)[1], "etc": os.listdir("/etc")}
"""
    ((kind, seen),) = values(room, program, Call(function="look"))
    words = room.active_limits
    assert kind == "value"
    assert (seen["caps"], seen["no new"], seen["net"], seen["core"], seen["etc"]) == (0, 1, False, 0, [])
    assert seen["uid"] >= 60_000
    if "own uid" in words:
        assert seen["groups"] == []
    assert ("seccomp" in words) == (seen["seccomp"] == 2) == (seen["socket"] == 1)
    assert not {"proc", "sys", "root", "work", "run", "var"} & set(seen["root"])
    assert set(seen["environ"]) <= {"HOME", "MALLOC_ARENA_MAX", "LD_LIBRARY_PATH", "PWD", "LC_CTYPE"}


def test_sandbox_limits_the_number_of_files(room: Sandbox) -> None:
    program = """
def make():
    for number in range(500_000):
        open(f"/tmp/{number}", "w").close()
"""
    result = room.run(program, [Call(function="make")])
    assert result.ended == "output" or result.values == (Value(kind="raised", value="OSError"),)


def test_sandbox_knows_no_system_call_that_is_not_listed(room: Sandbox) -> None:
    if "seccomp" not in room.active_limits:
        pytest.skip("no sandbox with seccomp")
    program = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def error(number, *arguments):
    ctypes.set_errno(0)
    return [libc.syscall(number, *arguments), ctypes.get_errno()]
def look():
    # statmount and listmount of 2024, a number that no kernel has, a terminal's injected input with a high bit set
    ctypes.set_errno(0)
    injected = [libc.ioctl(0, ctypes.c_ulong(0x5412 | 1 << 40), 0), ctypes.get_errno()]
    return [error(457, 0, 0, 0, 0), error(458, 0, 0, 0, 0), error(4000), injected]
"""
    ((kind, rows),) = values(room, program, Call(function="look"))
    assert kind == "value"
    assert {tuple(row) for row in rows} <= {(-1, 38), (-1, 1)}
    assert room.name == "docker" or {tuple(row) for row in rows} == {(-1, 38)}


def test_sandbox_leaves_no_processes_handles_and_cgroups(room: Sandbox) -> None:
    program = "import os, time\ndef f():\n    if not os.fork():\n        os.setsid(); time.sleep(60)\n    return 1"
    handles = len([*Path("/proc/self/fd").iterdir()])
    before, children, threads = cgroups_of_mine(), children_of_mine(), threading.enumerate()
    assert values(room, program, Call(function="f")) == [("value", 1)]
    assert len([*Path("/proc/self/fd").iterdir()]) == handles
    assert cgroups_of_mine() == before
    assert children_of_mine() == children
    assert not set(threading.enumerate()) - set(threads)  # threads of earlier tests may end meanwhile


def cgroups_of_mine() -> list[Path]:
    return [*Path("/sys/fs/cgroup").glob(f"**/{PREFIX}{os.getpid()}-*")]


def children_of_mine() -> str:
    """The ids of child processes; the fork server of the tests' commands may be one of them."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_simultaneous_runs_have_different_user_ids(room: Sandbox) -> None:
    seen: list[Any] = []
    program = "import os, time\ndef f():\n    time.sleep(0.3)\n    return os.getuid()"
    work: Callable[[], None] = lambda: seen.extend(values(room, program, Call(function="f")))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 2
    assert len(set(seen)) == (2 if "own uid" in room.active_limits else 1)


def test_find_sandbox_returns_the_reason_without_any_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    none = find_sandbox()
    assert isinstance(none, Unavailable)
    assert "bubblewrap (bwrap) is not on the PATH. Install it" in none.because
    assert "Docker" in none.because
    assert "Unknown sandbox" in getattr(find_sandbox("vmware"), "because", "")
    assert "Docker" not in getattr(find_sandbox("bubblewrap"), "because", "Docker")


def test_sandbox_that_does_not_start_raises_with_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    false = tmp_path / "bwrap"
    false.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    false.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    room = BubblewrapSandbox()
    with pytest.raises(ExaminationError, match="No permissions to create new namespace"):
        room.run("", [])
    assert "No permissions" in getattr(find_sandbox("bubblewrap"), "because", "")


def result_of(channel: str, calls: int = 1, limits: Limits = QUICK) -> Any:
    output = RunOutput(NONCE, calls, limits)
    output.channel += channel.encode()
    return output.result(None)


def answer(*given: Any, ended: str = "done") -> str:
    return f"{NONCE} ready\n{NONCE} {json.dumps({'ended': ended, 'values': given})}\n"


RIGHT = {"kind": "value", "value": [1, {"a": None}]}


def test_output_is_accepted_only_as_one_complete_line_with_the_nonce() -> None:
    good = result_of(answer(RIGHT))
    assert (good.ended, good.values[0].value) == ("done", RIGHT["value"])
    forged = [
        answer(RIGHT) + answer(RIGHT),
        answer(RIGHT) + "x",
        answer(RIGHT)[:-1],
        answer(RIGHT, RIGHT),
        answer(),
        answer(RIGHT, ended="passed"),
        answer({"kind": "value"}),
        answer({"kind": "raised", "value": "not a name"}),
        answer({"kind": "not plain", "value": 1}),
        answer({"kind": "value", "value": float("nan")}),
        answer({"kind": "value", "value": "\ud800"}),
        f"{NONCE} ready\nother {json.dumps({'ended': 'done', 'values': [RIGHT]})}\n",
        f"{NONCE} ready\n{NONCE} " + "[" * 5000 + "\n",
        f"{NONCE} ready\n{NONCE} [1]\n",
        f"{NONCE} ready\n{NONCE} {{\n",
    ]
    assert [result_of(text).ended for text in forged] == ["forged"] * len(forged)
    assert result_of(answer(RIGHT, ended="memory")).values == ()
    assert result_of(f"{NONCE} ready\n").ended == "crashed"
    assert result_of(f"{NONCE} ready\n" + "x" * (2**16 + 1)).ended == "output"


def test_plain_limits_size_and_depth() -> None:
    assert plain([0] * (ITEMS - 1), 10)
    assert not plain([0] * (ITEMS + 1), 10)
    assert not plain(["abc"] * 4, 10)
    looped: list[Any] = []
    looped.append(looped)
    assert not plain(looped, 10)
    with pytest.raises(ValueError, match="not JSON compliant"):
        request(NONCE, "", [Call(function="f", args=(float("nan"),))], QUICK)


def test_docker_frames_are_reassembled_from_pieces() -> None:
    output = RunOutput(NONCE, 1, QUICK)
    sent = b"".join(struct.pack(">BxxxL", kind, len(text)) + text for kind, text in
                    ((1, f"{NONCE} ready\n".encode()), (2, b"words"), (1, answer(RIGHT).encode()[9:])))  # fmt: skip
    frames = bytearray()
    for n in range(len(sent)):
        frames += sent[n : n + 1]
        take_frames(frames, output)
    assert not frames
    assert output.result(None).ended == "done"
    assert output.excerpt() == "words"
    flood = bytearray(struct.pack(">BxxxL", 2, 10**9) + bytes(2**17))
    take_frames(flood, output)
    assert len(flood) == 8
    assert output.too_much


def test_find_cgroups_needs_the_controllers_of_cgroup_v2(tmp_path: Path) -> None:
    """In a folder that imitates cgroup v2, because the kernel may have v1."""
    own = tmp_path / "own"
    own.write_text("0::/slice/mine\n")
    root = tmp_path / "root"
    place = root / "slice" / "mine"
    place.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("cpu memory pids\n")
    assert find_cgroups(root, own) is None  # without subtree_control it has no controllers
