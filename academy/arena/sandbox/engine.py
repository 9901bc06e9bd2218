"""A Docker engine as the sandbox uses it, and what killed users of it left there."""

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
"""On every container: that it is ours, which process made it, and until when it may last (seconds since 1970)."""


def connect() -> Any:
    """A client of the engine at DOCKER_HOST. Raises ExaminationError where none answers."""
    try:
        return engine.connect()
    except EngineError as problem:
        raise ExaminationError(problem.message, problem.remedy) from problem


def owner() -> str:
    """This process, as no other one was ever called: the machine's start, the space of process numbers, the number."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').readlink()}/{os.getpid()}/{_started(os.getpid())}"


def sweep(client: Any, now: float | None = None) -> int:
    """Remove the containers whose maker on this machine is gone, or whose time is over; says how many.

    One that another removes at the same time is no matter, and one that the engine keeps is found again.
    """
    removed = 0
    for found in client.api.containers(all=True, filters={"label": LABEL}):
        if _forsaken(found.get("Labels") or {}, time.time() if now is None else now):
            with suppress(*problems()):
                client.api.remove_container(found["Id"], force=True, v=True)
                removed += 1
    return removed


def _forsaken(labels: dict[str, str], now: float) -> bool:
    until = labels.get(UNTIL, "")
    if not until.isdecimal() or int(until) < now:
        return True
    *place, process, started = labels.get(OWNER, "").split("/")
    return place == owner().split("/")[:-2] and _started(int(process)) != started


def _started(process: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none, or only its remains."""
    try:
        words = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]
