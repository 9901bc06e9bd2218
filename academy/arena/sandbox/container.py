"""A sandbox of a Docker engine: a container for each program, far slower than bubblewrap.

No network, a root that cannot be written, no capabilities, no new privileges, another user, bounds on memory, processes
and time of the processor, Docker's own seccomp profile. The interpreter is the image's; nothing is pulled.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from academy.arena.sandbox.answer import SOURCE, Heard, request
from academy.arena.sandbox.records import Call, Ended, Limits, Ran
from academy.errors import ExaminationError

IMAGE = "python:3.11-slim"
LABEL = "academy-sandbox"
USER = "60001:60001"
START_SECONDS = 60.0
ENGINE_SECONDS = 30
CHUNK = 2**16
STDOUT, STDERR = 1, 2


class DockerSandbox:
    """A Sandbox. Raises ExaminationError where there is no engine or no image."""

    name = "docker"

    def __init__(self, limits: Limits | None = None, image: str = IMAGE, client: Any = None) -> None:
        self.limits = limits or Limits()
        self.image = image
        self._client = client or _engine()
        try:
            self._client.images.get(image)
        except Exception as problem:
            raise ExaminationError(
                f"The Docker engine has no image {image}.", f"Fetch it first: docker pull {image}."
            ) from problem

    @property
    def limits_in_force(self) -> tuple[str, ...]:
        """What contains a program here, in words."""
        return ("namespaces", "rlimits", "docker's seccomp", "cgroup", "other uid")

    def run(self, program: str, calls: Sequence[Call]) -> Ran:
        """Run a program and call its functions. Raises ExaminationError where the engine itself fails."""
        nonce = secrets.token_hex(16)
        heard = Heard(nonce, len(calls), self.limits)
        try:
            container = self._client.containers.create(self.image, **self._settings())
        except Exception as problem:
            raise ExaminationError(f"Docker made no container: {problem}", "Look at `docker info`.") from problem
        try:
            stream = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            try:
                line = getattr(stream, "_sock", stream)
                container.start()
                ended = self._follow(line, request(nonce, program, calls, self.limits), heard)
            finally:
                stream.close()  # first of all: an engine that still feeds a reader is slow to remove
            if ended is None:
                ended = _ended_by_engine(container)
        except Exception as problem:
            raise ExaminationError(f"Docker failed: {problem}", "Look at `docker info`.") from problem
        finally:
            with suppress(Exception):
                container.remove(force=True, v=True)
        if not heard.ready:
            raise ExaminationError(f"The container did not start: {heard.said()}", "Look at `docker info`.")
        return heard.ran(ended)

    def _settings(self) -> dict[str, Any]:
        limits = self.limits
        writable = f"rw,noexec,nosuid,nodev,size={limits.file_bytes},mode=1777"
        return {
            "command": ["python3", "-I", "-S", "-B", "-X", "utf8", "-c", SOURCE],
            "entrypoint": "",
            "labels": {LABEL: "1"},
            "stdin_open": True,
            "tty": False,
            "network_mode": "none",
            "ipc_mode": "private",
            "read_only": True,
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "privileged": False,
            "user": USER,
            "working_dir": "/home",
            "environment": {"HOME": "/home", "MALLOC_ARENA_MAX": "1"},
            "tmpfs": {"/tmp": writable, "/home": writable},  # noqa: S108 - the container's own
            "shm_size": 2**16,
            "mem_limit": limits.memory_bytes,
            "memswap_limit": limits.memory_bytes,
            "pids_limit": limits.processes + 2,
            "nano_cpus": 10**9,
            "log_config": {"Type": "none", "Config": {}},
            "init": False,
        }

    def _follow(self, line: socket.socket, order: bytes, heard: Heard) -> Ended | None:
        """Send the request and take the frames apart: 8 bytes (stream, 3 zeros, length) and so many bytes."""
        line.setblocking(False)
        until, begun = time.monotonic() + START_SECONDS, False
        rest, frames = memoryview(order), bytearray()
        while (left := until - time.monotonic()) > 0:
            readable, writable, _ = select.select([line], [line] if rest else [], [], left)
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


def _engine() -> Any:
    try:
        import docker
    except ImportError as problem:
        raise ExaminationError("The Docker SDK is not installed.", "pip install 'the-academy[docker]'.") from problem
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    silent = ExaminationError(f"No Docker engine answers at {host}.", "Start one, or set DOCKER_HOST to one that runs.")
    if host.startswith("unix://") and not Path(host.removeprefix("unix://")).is_socket():
        raise silent
    try:
        client = docker.from_env(timeout=ENGINE_SECONDS)
        client.ping()
    except Exception as problem:
        raise silent from problem
    return client


def _ended_by_engine(container: Any) -> Ended | None:
    """Whether the engine ended it for want of memory; it may take a moment to say so."""
    container.wait(timeout=ENGINE_SECONDS)
    container.reload()
    return "memory" if container.attrs.get("State", {}).get("OOMKilled") else None
