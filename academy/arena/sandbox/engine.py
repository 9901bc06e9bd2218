"""The Docker engine of the sandbox, and the containers that killed processes left there."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from academy.errors import EngineError, ExaminationError
from academy.system import docker as engine
from academy.system.docker import ENGINE_SECONDS, problems

__all__ = ["ENGINE_SECONDS", "LABEL", "OWNER", "UNTIL", "connect", "owner", "problems", "sweep"]

LABEL, OWNER, UNTIL = "academy-sandbox", "academy-sandbox.owner", "academy-sandbox.until"
"""Labels on every container: that it belongs to the sandbox, its process, and its last second (since 1970)."""


def connect() -> Any:
    """A client of the engine at DOCKER_HOST. Raises ExaminationError where no engine answers."""
    try:
        return engine.connect()
    except EngineError as problem:
        raise ExaminationError(problem.message, problem.remedy) from problem


def owner() -> str:
    """A unique name of this process: boot id, PID namespace, PID, start time."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}/{os.getpid()}/{_start_of(os.getpid())}"


def sweep(client: Any, now: float | None = None) -> int:
    """Remove containers whose process on this machine has ended or whose time is over; returns how many.

    A container that another process removes first is ignored; one that the engine keeps is removed the next time.
    """
    count = 0
    for container in client.api.containers(all=True, filters={"label": LABEL}):
        if _is_abandoned(container.get("Labels") or {}, time.time() if now is None else now):
            with suppress(*problems()):
                client.api.remove_container(container["Id"], force=True, v=True)
                count += 1
    return count


def _is_abandoned(labels: dict[str, str], now: float) -> bool:
    until = labels.get(UNTIL, "")
    if not until.isdecimal() or int(until) < now:
        return True
    *machine, process, start = labels.get(OWNER, "").split("/")
    return machine == owner().split("/")[:-2] and _start_of(int(process)) != start


def _start_of(process: int) -> str:
    """The start time of a process in kernel ticks; empty where it does not exist or is a zombie."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]
