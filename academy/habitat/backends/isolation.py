"""What a training's container may do and use: the same for a training and for the trial of its image.

No network, no capabilities, no new privileges, not root, a root that cannot be written; bounds on memory, processors,
processes and logs. What it sees of this machine is the Academy's own code, and what the caller mounts, read-only but
for the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.process import ENVIRONMENT, WAITING
from academy.records import Record
from academy.settings import LEAST_CPUS, LEAST_MEMORY_GIB
from academy.system.hardware import take_inventory

CODE = Path(__file__).parents[2]
"""The Academy's package. It is mounted and not copied, so that a trainer is never older than who starts it."""
HOME, JOB, RUN = "academy-trainer.home", "academy-trainer.job", "academy-trainer.run"
"""Labels: the home's folder, the order's digest, the run's folder."""
NOBODY = 65534
INHERITED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
"""Another number of threads gives an adapter of other last digits, in a container as in a process."""
LEAST_MEMORY = int(LEAST_MEMORY_GIB * 2**30)
SHARE = 0.9
"""Of the memory that is available on this machine, what a training gets where nothing is said."""
GPU = "Install nvidia-container-toolkit and start Docker again, or set ACADEMY_ENABLE_GPU=false to train on the CPU."


class Limits(Record):
    """What a training's container may use."""

    memory_bytes: int = Field(ge=LEAST_MEMORY)
    cpus: float = Field(ge=LEAST_CPUS)
    processes: int = Field(1024, ge=16)
    """Processes and threads together."""
    tmp_bytes: int = Field(2**30, ge=2**20)
    """Of /tmp, which counts as memory."""
    log_bytes: int = Field(2**20, ge=2**10)
    """Of the trainer's own log, kept with the run: its end."""


def limits_here(memory_gib: float | None = None, cpus: float | None = None) -> Limits:
    """What a person fixed, and of the rest what this machine has to give now.

    Raises TrainingError (cause "memory") where that is too little for any container.
    """
    machine = take_inventory(engine=False)
    memory = int(memory_gib * 2**30 if memory_gib else SHARE * machine.memory_free)
    if memory < LEAST_MEMORY:
        raise TrainingError(
            f"{memory / 2**20:,.0f} MiB of memory are too few for a training's container, "
            f"which needs {LEAST_MEMORY / 2**20:,.0f} MiB to start at all.",
            "Free some memory, or give it more with ACADEMY_TRAINING_MEMORY_GIB.",
            cause="memory",
        )
    return Limits(memory_bytes=memory, cpus=min(cpus or machine.cpus, machine.cpus))


def user() -> int:
    """Whose rights a container has: ours, so that what it writes is ours; nobody's where we are root."""
    return os.getuid() or NOBODY


def labels(home: Path, order: TrainingOrder | None = None) -> dict[str, str]:
    """On every container: whose it is, and which job's. An image's trial has no job."""
    job = {JOB: order.digest, RUN: str(order.folder.resolve())} if order else {}
    return {HOME: str(home.resolve()), **job}


def settings(
    client: Any,
    command: Sequence[str],
    limits: Limits,
    labelled: dict[str, str],
    *,
    gpu: str,
    mounts: Sequence[tuple[Path, str, bool]] = (),
) -> dict[str, Any]:
    """The engine's words for a container. A mount is a source here, a place there, and whether it may be written.

    `gpu` is the uuid of the only GPU that it sees; empty: none.
    """
    from docker.types import DeviceRequest, LogConfig, Mount

    bound = [(CODE, "/academy/academy", False), *mounts]
    who = f"{user()}:{os.getgid() if os.getuid() else NOBODY}"
    host = client.api.create_host_config(
        network_mode="none",
        ipc_mode="private",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        privileged=False,
        # kernels that a GPU's libraries compile are loaded from there
        tmpfs={"/tmp": f"rw,{'exec' if gpu else 'noexec'},nosuid,nodev,size={limits.tmp_bytes},mode=1777"},  # noqa: S108
        mounts=[Mount(place, str(source), type="bind", read_only=not written) for source, place, written in bound],
        mem_limit=limits.memory_bytes,
        memswap_limit=limits.memory_bytes,
        pids_limit=limits.processes,
        nano_cpus=int(limits.cpus * 10**9),
        device_requests=[DeviceRequest(device_ids=[gpu], capabilities=[["gpu"]])] if gpu else None,
        log_config=LogConfig(type="json-file", config={"max-size": str(2 * limits.log_bytes), "max-file": "2"}),
        init=False,
    )
    threads = {"OMP_NUM_THREADS": str(max(1, int(limits.cpus)))} if limits.cpus < len(os.sched_getaffinity(0)) else {}
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {
        "command": ["python3", *command],
        "entrypoint": "",
        "hostname": "trainer",
        "labels": labelled,
        "user": who,
        "working_dir": "/tmp",  # noqa: S108 - the container's own
        "environment": {
            **ENVIRONMENT,
            **WAITING,
            **threads,  # a bound on processors is not seen inside, and too many threads would wait for each other
            **inherited,
            "PYTHONPATH": "/academy",
            "PYTHONDONTWRITEBYTECODE": "1",
            "HF_HUB_OFFLINE": "1",
            "HOME": "/tmp",  # noqa: S108 - the container's own
            "USER": "academy",  # the number has no name there, and libraries ask for one
        },
        "use_config_proxy": False,  # a proxy's address may hold a password
        "healthcheck": {"test": ["NONE"]},
        "host_config": host,
    }


def in_words(problem: Exception) -> tuple[str, str, str]:
    """What an engine that starts no container says, as a sentence, its remedy and a class of cause."""
    said = str(getattr(problem, "explanation", None) or problem).strip()
    if "device driver" in said or "nvidia" in said.lower():
        return "A GPU was asked for, and the Docker engine can give containers none.", GPU, "gpu"
    if "executable file not found" in said:
        return "The training image has no python3 on its PATH.", "Name another with ACADEMY_TRAINING_IMAGE.", "image"
    return f"Docker failed: {said[:300]}", "Look at `docker info` and at the engine's log.", "engine"
