"""A sandbox of a Docker engine: a container for each program, much slower than bubblewrap.

No network, a read-only root, no capabilities, no new privileges, a user id of its own, limits on memory, processes and
CPU time, and the filter of seccomp.py in place of Docker's own. The files in /proc, /sys, /dev and /etc that show
details of the machine are hidden. The interpreter is the image's; nothing is pulled, nothing is logged. Containers of a
killed process are removed when the next sandbox is created.
"""

from __future__ import annotations

import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from academy.arena.sandbox import engine
from academy.arena.sandbox.answer import SOURCE, RunOutput, request
from academy.arena.sandbox.image import IMAGE, find_image
from academy.arena.sandbox.records import Call, Ended, Limits, RunResult
from academy.arena.sandbox.seccomp import docker_profile
from academy.arena.sandbox.users import own_uid
from academy.errors import ExaminationError

START_SECONDS = 60.0
GRACE_SECONDS = 120
"""Added to the time for starting and running, before a container counts as abandoned by any process."""
EXTRA_PROCESSES = 24
"""Threads of the container runtime; the program itself is limited through its user id."""
CHUNK = 2**16
STDOUT = 1
HIDDEN = (
    *("/sys", "/dev/pts", "/dev/mqueue", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv"),
    *("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/machine-id"),
    *(f"/proc/{name}" for name in """
        acpi asound buddyinfo bus cgroups cmdline config.gz consoles cpuinfo crypto devices diskstats dma driver
        dynamic_debug execdomains fb filesystems fs interrupts iomem ioports irq kallsyms kcore key-users keys kmsg
        kpagecgroup kpagecount kpageflags latency_stats loadavg locks mdstat meminfo misc modules mtrr pagetypeinfo
        partitions pressure sched_debug schedstat scsi slabinfo softirqs stat swaps sys sysrq-trigger sysvipc timer_list
        timer_stats tty uptime version version_signature vmallocinfo vmstat zoneinfo
    """.split()),  # noqa: SIM905 - a line for each dozen
)  # fmt: skip
"""Paths with details of the machine or the container: a program sees an empty file or folder instead."""
REMEDY = "Check `docker info` and the engine's log."


class DockerSandbox:
    """A Sandbox. Raises ExaminationError without an engine or a suitable image."""

    name = "docker"

    def __init__(self, limits: Limits | None = None, image: str = "") -> None:
        self.limits = limits or Limits()
        self._client = engine.connect()
        self._profile = docker_profile()
        try:
            self.image = find_image(self._client, image or IMAGE)
            self.removed = engine.sweep(self._client)
        except engine.problems() as problem:
            raise ExaminationError(f"Docker failed: {problem}", REMEDY) from problem
        except ExaminationError:
            self._client.close()
            raise

    @property
    def active_limits(self) -> tuple[str, ...]:
        """The containment that is in force, in words."""
        return ("namespaces", "rlimits", "seccomp", "cgroup", "own uid", f"image {self.image.digest}")

    def run(self, program: str, calls: Sequence[Call]) -> RunResult:
        """Run a program and call its functions. Raises ExaminationError where the engine itself fails."""
        nonce = secrets.token_hex(16)
        output = RunOutput(nonce, len(calls), self.limits)
        stdin = request(nonce, program, calls, self.limits)
        try:
            with own_uid() as uid, self._container(uid) as name:
                with self._line(name) as line:
                    self._client.api.start(name)
                    ending = self._follow(line, stdin, output)
                if ending is None:
                    ending = self._ended_by_engine(name)
        except engine.problems() as problem:
            raise ExaminationError(f"Docker failed: {problem}", REMEDY) from problem
        if not output.ready:
            raise ExaminationError(f"The container did not start: {output.excerpt() or ending}", REMEDY)
        return output.result(ending)

    @contextmanager
    def _container(self, uid: int) -> Iterator[str]:
        """A created container that is not started; it is removed at the end with its processes."""
        name = self._client.api.create_container(self.image.digest, **self._settings(uid))["Id"]
        try:
            yield name
        finally:
            with suppress(*engine.problems()):  # the next sandbox finds a remaining one by its label
                self._client.api.remove_container(name, force=True, v=True)

    @contextmanager
    def _line(self, name: str) -> Iterator[socket.socket]:
        """The container's stdin, stdout and stderr. It is closed before the container is removed, because removing is
        slow while the engine still serves a reader.
        """
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = self._client.api.attach_socket(name, params=params)
        try:
            yield getattr(stream, "_sock", stream)
        finally:
            stream._response.close()  # it owns the connection: closing the stream alone would leave it open

    def _settings(self, uid: int) -> dict[str, Any]:
        until = int(time.time() + START_SECONDS + self.limits.seconds + GRACE_SECONDS)
        return {
            "command": ["python3", "-I", "-S", "-B", "-X", "utf8", "-c", SOURCE],
            "entrypoint": "",
            "hostname": "sandbox",
            "labels": {engine.LABEL: "1", engine.OWNER: engine.owner(), engine.UNTIL: str(until)},
            "stdin_open": True,
            "tty": False,
            "user": f"{uid}:{uid}",
            "working_dir": "/home",
            "environment": {"HOME": "/home", "MALLOC_ARENA_MAX": "1"},
            "use_config_proxy": False,  # a proxy's address may contain a password
            "healthcheck": {"test": ["NONE"]},
            "host_config": self._host(uid),
        }

    def _host(self, uid: int) -> dict[str, Any]:
        limits = self.limits
        # owned by the user id, because runc keeps the mode of a folder that exists in the image
        writable = (
            f"rw,noexec,nosuid,nodev,size={limits.file_bytes},nr_inodes={limits.files},mode=1777,uid={uid},gid={uid}"
        )
        host: dict[str, Any] = self._client.api.create_host_config(
            network_mode="none",
            ipc_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true", f"seccomp={self._profile}"],
            privileged=False,
            tmpfs={"/tmp": writable, "/home": writable},  # noqa: S108 - the container's own
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            pids_limit=limits.processes + EXTRA_PROCESSES,
            nano_cpus=10**9,
            log_config={"Type": "none", "Config": {}},
            init=False,
        )
        host["MaskedPaths"] = list(HIDDEN)  # the SDK has no option for it
        return host

    def _follow(self, line: socket.socket, stdin: bytes, output: RunOutput) -> Ended | None:
        """Send the request and parse the frames: 8 bytes (stream, 3 zeros, length), then `length` bytes."""
        line.setblocking(False)
        deadline, is_started = time.monotonic() + START_SECONDS, False
        rest, frames = memoryview(stdin), bytearray()
        while (seconds := deadline - time.monotonic()) > 0:
            readable, writable = _ready(line, seconds, write=bool(rest))
            if writable:
                with suppress(BlockingIOError):
                    rest = rest[line.send(rest[:CHUNK]) :]
            if readable:
                chunk = line.recv(CHUNK)
                if not chunk:
                    return None
                frames += chunk
                take_frames(frames, output)
                if output.too_much or len(frames) > 16 * CHUNK:
                    return "output"
            if output.ready and not is_started:
                deadline, is_started = time.monotonic() + self.limits.seconds, True
        return "time"

    def _ended_by_engine(self, name: str) -> Ended | None:
        """Whether the engine killed the container for its memory; the engine may report it with a delay."""
        self._client.api.wait(name, timeout=engine.ENGINE_SECONDS)
        state = self._client.api.inspect_container(name)["State"]
        return "memory" if state.get("OOMKilled") else None


def take_frames(frames: bytearray, output: RunOutput) -> None:
    """Move complete frames from the received bytes to their streams; an incomplete one stays."""
    while len(frames) >= 8:
        stream, length = struct.unpack(">BxxxL", frames[:8])
        room = len(frames) - 8
        if room < length and len(frames) < CHUNK:
            return
        size = min(room, length)
        (output.channel if stream == STDOUT else output.stderr).extend(frames[8 : 8 + size])
        if size < length:  # a long frame comes in pieces: its rest gets a new header
            frames[: 8 + size] = struct.pack(">BxxxL", stream, length - size)
            return
        del frames[: 8 + size]


def _ready(line: socket.socket, seconds: float, write: bool) -> tuple[bool, bool]:
    """Whether a line is readable or at its end, and writable. poll, because select fails for handles above 1,023."""
    poller = select.poll()
    poller.register(line, select.POLLIN | (select.POLLOUT if write else 0))
    events = sum(event for _, event in poller.poll(1000 * seconds))
    return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)
