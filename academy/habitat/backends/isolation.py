"""What a training's container may do and use. The trial of an image runs under the same rules as a training.

No network, no capabilities, no new privileges, not root, a read-only root file system; limits on memory, CPUs,
processes and logs. Of this machine it sees the Academy's own code and what the caller mounts: all read-only, except
the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from academy.adapters.adapter import FILES, MANIFEST
from academy.border.current_folder import SAFE_PATH
from academy.errors import BaseModelError, EngineError, TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.process import ENVIRONMENT, WAITING
from academy.models.base_model import BaseModel, check
from academy.records import Record
from academy.settings import LEAST_CPUS, LEAST_MEMORY_GIB
from academy.system.docker import problems
from academy.system.hardware import take_inventory
from academy.system.images import find_image

CODE = Path(__file__).parents[2]
"""The Academy's package. It is mounted and not copied, so a trainer is never older than the process that starts it."""
HOME, JOB, RUN = "academy-trainer.home", "academy-trainer.job", "academy-trainer.run"
"""Labels: the home's folder, the order's digest, the run's folder."""
ADAPTERS = "adapters"
"""Folder in the run's folder into which the container writes its adapter."""
INIT_ADAPTER = "/first"
"""Where a container sees the adapter that its training starts from."""
NOBODY = 65534
INHERITED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
"""Another number of threads changes an adapter's last digits, in a container as in a process."""
LEAST_MEMORY = int(LEAST_MEMORY_GIB * 2**30)
SHARE = 0.9
"""Part of the available memory that a training gets by default."""
GPU_REMEDY = "Install nvidia-container-toolkit and restart Docker, or set ACADEMY_ENABLE_GPU=false to train on the CPU."


class Limits(Record):
    """What a training's container may use."""

    memory_bytes: int = Field(ge=LEAST_MEMORY)
    cpus: float = Field(ge=LEAST_CPUS)
    processes: int = Field(1024, ge=16)
    """Processes and threads together."""
    tmp_bytes: int = Field(2**30, ge=2**20)
    """Size of /tmp, which counts as memory."""
    log_bytes: int = Field(2**20, ge=2**10)
    """How much of the end of the trainer's log is kept with the run."""


def limits_here(memory_gib: float | None = None, cpus: float | None = None) -> Limits:
    """The limits that the user set; the others follow from what this machine has free now.

    Raises TrainingError (cause "memory") if that is too little for any container.
    """
    machine = take_inventory(engine=False)
    memory = int(memory_gib * 2**30 if memory_gib else SHARE * machine.memory_free)
    if memory < LEAST_MEMORY:
        raise TrainingError(
            f"{memory / 2**20:,.0f} MiB of memory is too little for a training's container "
            f"(minimum {LEAST_MEMORY / 2**20:,.0f} MiB).",
            "Free some memory, or give it more with ACADEMY_TRAINING_MEMORY_GIB.",
            cause="memory",
        )
    return Limits(memory_bytes=memory, cpus=min(cpus or machine.cpus, machine.cpus))


def container_user() -> int:
    """The user id in containers: ours, so that the files they write are ours; an unprivileged one if we are root."""
    return os.getuid() or NOBODY


def labels(home: Path, order: TrainingOrder | None = None) -> dict[str, str]:
    """Labels of a container: its home and its job. An image's trial has no job."""
    job = {JOB: order.digest, RUN: str(order.folder.resolve())} if order else {}
    return {HOME: str(home.resolve()), **job}


def order_mounts(order: TrainingOrder) -> list[tuple[Path, str, bool]]:
    """What an order's container sees of this machine: source, path inside, writable. Raises TrainingError.

    Of the base model it sees only what the base's digest covers: no code of its own, and no link out of its folder.
    The trainer compares the digest.
    """
    try:
        base_files = [stamp.path for stamp in check(order.base.name, order.base.path)]
    except BaseModelError as problem:
        raise TrainingError(problem.message, problem.remedy, cause="base model") from problem
    mounts = [(path.resolve(), f"/base/{path.relative_to(order.base.path)}", False) for path in base_files]
    mounts.append((order.train_file.resolve(), "/dataset/train.jsonl", False))
    if order.init_adapter is not None:
        mounts += [
            ((order.init_adapter / name).resolve(), f"{INIT_ADAPTER}/{name}", False) for name in (*FILES, MANIFEST)
        ]
    for path, _, _ in mounts:
        if not path.is_file():
            raise TrainingError(f"The file {path} does not exist.", "Run `academy curate` again.", cause="data")
    for path, _, _ in mounts[len(base_files) :]:
        open_to_container(path)
    for path, _, _ in mounts[: len(base_files)]:
        if container_user() != os.getuid() and not path.stat().st_mode & 0o004:
            raise TrainingError(f"The container's user cannot read {path}.", f"Run `chmod a+r {path}`.", cause="order")
    return [*mounts, (order.folder.resolve(), f"/runs/{order.folder.name}", True)]


def open_to_container(path: Path) -> None:
    """Let the container's user read a file of the home, which is closed to others."""
    if container_user() != os.getuid():
        os.chown(path, -1, NOBODY)
        path.chmod(0o640)


def order_inside(order: TrainingOrder) -> TrainingOrder:
    """The order with the container's paths; its digest is the same."""
    runs = Path("/runs")
    return order.model_copy(
        update={
            "base": BaseModel(name=order.base.name, path=Path("/base"), digest=order.base.digest),
            "train_file": Path("/dataset/train.jsonl"),
            "runs": runs,
            "adapters": runs / order.folder.name / ADAPTERS,
            "init_adapter": order.init_adapter and Path(INIT_ADAPTER),
        }
    )


def container_options(
    client: Any,
    command: Sequence[str],
    limits: Limits,
    container_labels: dict[str, str],
    *,
    gpu: str,
    mounts: Sequence[tuple[Path, str, bool]] = (),
) -> dict[str, Any]:
    """A container's options for the Docker SDK. A mount is source, path inside, writable.

    `gpu`: UUID of the only GPU that it sees; empty: none.
    """
    from docker.types import DeviceRequest, LogConfig, Mount

    all_mounts = [(CODE, "/academy/academy", False), *mounts]
    user = f"{container_user()}:{os.getgid() if os.getuid() else NOBODY}"
    host = client.api.create_host_config(
        network_mode="none",
        ipc_mode="private",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        privileged=False,
        # GPU libraries load the kernels that they compile from there
        tmpfs={"/tmp": f"rw,{'exec' if gpu else 'noexec'},nosuid,nodev,size={limits.tmp_bytes},mode=1777"},  # noqa: S108
        mounts=[Mount(target, str(source), type="bind", read_only=not write) for source, target, write in all_mounts],
        mem_limit=limits.memory_bytes,
        memswap_limit=limits.memory_bytes,
        pids_limit=limits.processes,
        nano_cpus=int(limits.cpus * 10**9),
        device_requests=[DeviceRequest(device_ids=[gpu], capabilities=[["gpu"]])] if gpu else None,
        log_config=LogConfig(type="json-file", config={"max-size": str(2 * limits.log_bytes), "max-file": "2"}),
        init=False,
    )
    threads = {"OMP_NUM_THREADS": str(max(1, int(limits.cpus)))} if limits.cpus < len(os.sched_getaffinity(0)) else {}
    from_parent = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return {
        "command": ["python3", *command],
        "entrypoint": "",
        "hostname": "trainer",
        "labels": container_labels,
        "user": user,
        "working_dir": "/tmp",  # noqa: S108 - the container's own
        "environment": {
            **ENVIRONMENT,
            **WAITING,
            **threads,  # a container does not see its CPU limit, and too many threads would wait for each other
            **from_parent,
            "PYTHONPATH": "/academy",
            "PYTHONDONTWRITEBYTECODE": "1",
            SAFE_PATH: "1",
            "HF_HUB_OFFLINE": "1",
            "HOME": "/tmp",  # noqa: S108 - the container's own
            "USER": "academy",  # the user id has no name there, and libraries ask for one
        },
        "use_config_proxy": False,  # a proxy's address may contain a password
        "healthcheck": {"test": ["NONE"]},
        "host_config": host,
    }


def visible_gpus(client: Any, image: str) -> tuple[str, ...]:
    """The GPUs that a container of this image sees, as nvidia-smi lists them. Raises EngineError; fetches nothing."""
    from docker.types import DeviceRequest

    digest = find_image(client, image, f"Fetch it (docker pull {image}), or remove DOCKER_CUDA_IMAGE.").digest
    try:
        output = client.containers.run(
            digest, ["nvidia-smi", "-L"], entrypoint="", network_mode="none", remove=True,
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])],
        )  # fmt: skip
    except problems() as problem:
        text = str(getattr(problem, "explanation", None) or problem).strip()
        raise EngineError(f"A container of {image} cannot use a GPU: {text[:300]}.", GPU_REMEDY) from problem
    return tuple(output.decode(errors="replace").splitlines())


def explain(problem: Exception) -> tuple[str, str, str]:
    """Message, remedy and cause for an engine that cannot start a container."""
    text = str(getattr(problem, "explanation", None) or problem).strip()
    if "device driver" in text or "nvidia" in text.lower():
        return "The training needs a GPU, and the Docker engine cannot give containers one.", GPU_REMEDY, "gpu"
    if "executable file not found" in text:
        return (
            "The training image has no python3 on its PATH.",
            "Name another image with ACADEMY_TRAINING_IMAGE.",
            "image",
        )
    return f"Docker failed: {text[:300]}", "See `docker info` and the engine's log.", "engine"
