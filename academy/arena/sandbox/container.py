"""A sandbox of a Docker engine: a container for each program, far slower than bubblewrap.

No network, a root that cannot be written, no capabilities, no new privileges, a user number of its own, bounds on
memory, processes and time of the processor, and the refusals of seccomp.py in place of Docker's own. What a container
shows of its machine in /proc, /sys, /dev and /etc is hidden. The interpreter is the image's; nothing is pulled, nothing
is logged. Containers of a killed process are removed when a sandbox is made the next time.
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
from academy.arena.sandbox.answer import SOURCE, Heard, request
from academy.arena.sandbox.image import IMAGE, find_image
from academy.arena.sandbox.records import Call, Ended, Limits, Ran
from academy.arena.sandbox.seccomp import docker_profile
from academy.arena.sandbox.users import own_uid
from academy.errors import ExaminationError

START_SECONDS = 60.0
GRACE_SECONDS = 120
"""Beyond starting and running, until a container counts as forsaken whoever made it."""
EXTRA_PROCESSES = 24
"""Threads of what starts the container; what the program may have is bounded by its user number."""
FILES = 4096
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
"""What tells of the machine, or of the container: a program sees an empty file or folder in its place."""
HOW = "Look at `docker info` and at the engine's log."


class DockerSandbox:
    """A Sandbox. Raises ExaminationError where there is no engine or no image that serves."""

    name = "docker"

    def __init__(self, limits: Limits | None = None, image: str = "") -> None:
        self.limits = limits or Limits()
        self._client = engine.connect()
        self._profile = docker_profile()
        try:
            self.image = find_image(self._client, image or IMAGE)
            self.removed = engine.sweep(self._client)
        except engine.problems() as problem:
            raise ExaminationError(f"Docker failed: {problem}", HOW) from problem
        except ExaminationError:
            self._client.close()
            raise

    @property
    def limits_in_force(self) -> tuple[str, ...]:
        """What contains a program here, in words."""
        return ("namespaces", "rlimits", "seccomp", "cgroup", "own uid", f"image {self.image.digest}")

    def run(self, program: str, calls: Sequence[Call]) -> Ran:
        """Run a program and call its functions. Raises ExaminationError where the engine itself fails."""
        nonce = secrets.token_hex(16)
        heard = Heard(nonce, len(calls), self.limits)
        order = request(nonce, program, calls, self.limits)
        try:
            with own_uid() as uid, self._container(uid) as name:
                with self._line(name) as line:
                    self._client.api.start(name)
                    ended = self._follow(line, order, heard)
                if ended is None:
                    ended = self._ended_by_engine(name)
        except engine.problems() as problem:
            raise ExaminationError(f"Docker failed: {problem}", HOW) from problem
        if not heard.ready:
            raise ExaminationError(f"The container did not start: {heard.said() or ended}", HOW)
        return heard.ran(ended)

    @contextmanager
    def _container(self, uid: int) -> Iterator[str]:
        """A container that is not started yet, and is removed at the end with what runs in it."""
        name = self._client.api.create_container(self.image.digest, **self._settings(uid))["Id"]
        try:
            yield name
        finally:
            with suppress(*engine.problems()):  # one that stays is found by its label
                self._client.api.remove_container(name, force=True, v=True)

    @contextmanager
    def _line(self, name: str) -> Iterator[socket.socket]:
        """The container's stdin, stdout and stderr. It is closed before the container is removed: an engine that
        still feeds a reader is slow to remove.
        """
        params = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = self._client.api.attach_socket(name, params=params)
        try:
            yield getattr(stream, "_sock", stream)
        finally:
            stream._response.close()  # the connection's owner: closing the stream alone would leave the connection

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
            "use_config_proxy": False,  # a proxy's address may hold a password
            "healthcheck": {"test": ["NONE"]},
            "host_config": self._host(uid),
        }

    def _host(self, uid: int) -> dict[str, Any]:
        limits = self.limits
        # its own, for runc gives a folder that the image has the mode that it has there, whatever is asked for
        writable = f"rw,noexec,nosuid,nodev,size={limits.file_bytes},nr_inodes={FILES},mode=1777,uid={uid},gid={uid}"
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
        host["MaskedPaths"] = list(HIDDEN)  # the SDK has no word for it
        return host

    def _follow(self, line: socket.socket, order: bytes, heard: Heard) -> Ended | None:
        """Send the request and take the frames apart: 8 bytes (stream, 3 zeros, length) and so many bytes."""
        line.setblocking(False)
        until, begun = time.monotonic() + START_SECONDS, False
        rest, frames = memoryview(order), bytearray()
        while (left := until - time.monotonic()) > 0:
            readable, writable = _ready(line, left, write=bool(rest))
            if writable:
                with suppress(BlockingIOError):
                    rest = rest[line.send(rest[:CHUNK]) :]
            if readable:
                chunk = line.recv(CHUNK)
                if not chunk:
                    return None
                frames += chunk
                take_frames(frames, heard)
                if heard.too_much or len(frames) > 16 * CHUNK:
                    return "output"
            if heard.ready and not begun:
                until, begun = time.monotonic() + self.limits.seconds, True
        return "time"

    def _ended_by_engine(self, name: str) -> Ended | None:
        """Whether the engine ended it for want of memory; it may take a moment to say so."""
        self._client.api.wait(name, timeout=engine.ENGINE_SECONDS)
        state = self._client.api.inspect_container(name)["State"]
        return "memory" if state.get("OOMKilled") else None


def take_frames(frames: bytearray, heard: Heard) -> None:
    """Move whole frames from the bytes received to where they belong; what is not whole stays."""
    while len(frames) >= 8:
        stream, length = struct.unpack(">BxxxL", frames[:8])
        room = len(frames) - 8
        if room < length and len(frames) < CHUNK:
            return
        taken = min(room, length)
        (heard.channel if stream == STDOUT else heard.stderr).extend(frames[8 : 8 + taken])
        if taken < length:  # a long frame, in pieces: what is left of it gets a head of its own
            frames[: 8 + taken] = struct.pack(">BxxxL", stream, length - taken)
            return
        del frames[: 8 + taken]


def _ready(line: socket.socket, seconds: float, write: bool) -> tuple[bool, bool]:
    """Whether a line can be read or is at its end, and written; poll, for select knows no handle above 1,023."""
    waiting = select.poll()
    waiting.register(line, select.POLLIN | (select.POLLOUT if write else 0))
    found = sum(event for _, event in waiting.poll(1000 * seconds))
    return bool(found & ~select.POLLOUT), bool(found & select.POLLOUT)
