"""What this machine offers a training: CPUs, memory, GPUs (by NVML), a Docker engine, GPU libraries.

Nothing here raises: a sentence says what is missing or cannot be queried. Libraries are detected without importing
them, because some take seconds to import.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from academy.errors import EngineError
from academy.records import Record
from academy.system.docker import connect, problems
from academy.system.gpu_lock import gpu_in_use

T = TypeVar("T")
DOCKER_SECONDS = 10
"""An engine that does not answer within this time counts as missing."""
GROUPS = Path("/sys/fs/cgroup")
"""Where a container finds its own limits: control groups version 2 here, version 1 in its folder `memory`."""


class Gpu(Record):
    """One GPU. A value that it does not report is None, and `notes` say why."""

    index: int
    name: str
    uuid: str
    memory_total: int | None = None  # bytes
    memory_free: int | None = None  # bytes
    utilisation: int | None = None  # per cent, over the last moments
    temperature: int | None = None  # degrees Celsius
    watts: float | None = None
    joules: float | None = None  # since the driver was loaded; GPUs before Volta have no counter
    held: bool = False  # in use by a training of the Academy, in any home
    notes: tuple[str, ...] = ()


class Docker(Record):
    """A Docker engine. If none answers, `version` is empty, `note` says why and `remedy` how to fix it.

    `gpus`: the engine can give GPUs to containers.
    """

    version: str = ""
    gpus: bool = False
    note: str = ""
    remedy: str = ""


class Inventory(Record):
    """The machine; memory in bytes. `gpu_note` says why there is no GPU, or which GPUs could not be queried."""

    cpus: int
    memory_total: int
    memory_free: int  # what a new process can get
    gpus: tuple[Gpu, ...]
    gpu_note: str
    docker: Docker
    cuda: str  # CUDA version of the installed torch; empty: it trains only on CPUs
    unsloth: bool
    bitsandbytes: bool


def take_inventory(*, engine: bool = True) -> Inventory:
    """Query the machine now. Without `engine` Docker is not queried, so a hanging engine costs no time."""
    gpus, note = _gpus()
    total, free = _memory(GROUPS)
    return Inventory(
        cpus=len(os.sched_getaffinity(0)), memory_total=total, memory_free=free, gpus=gpus, gpu_note=note,
        docker=_docker() if engine else Docker(note="Docker was not queried"), cuda=_cuda(),
        unsloth=find_spec("unsloth") is not None, bitsandbytes=find_spec("bitsandbytes") is not None,
    )  # fmt: skip


def _memory(groups: Path) -> tuple[int, int]:
    """Total and available bytes: of the machine, or of this container if that is less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    total, free = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])
    for limit_file, usage_file, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_"),
    ):
        limit, usage = _number(groups / limit_file), _number(groups / usage_file) or 0
        if limit is not None and limit < total:
            usage -= min(usage, _cache((groups / limit_file).with_name("memory.stat"), prefix))
            total, free = limit, min(free, max(0, limit - usage))
    return total, free


def _cache(stat: Path, prefix: str) -> int:
    """Bytes of a control group's memory that cache files: the kernel frees them before it kills a process.

    Active files count, too, as in the machine's own MemAvailable: a base model that was read twice is among them. Files
    of a tmpfs do not: they count as memory of processes. `prefix`: of keys that include the groups below.
    """
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
        sizes = {name: int(size) for name, _, size in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):
        return 0
    return sum(sizes.get(f"{prefix}{name}", 0) for name in ("inactive_file", "active_file"))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # missing, or "max"
        return None


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        return (), f"no NVIDIA GPU ({problem})"
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        gpus, notes = [], []
        for index in range(count):
            try:
                gpus.append(_gpu(pynvml, index))
            except pynvml.NVMLError as problem:
                notes.append(f"GPU {index} cannot be queried ({problem})")
    except pynvml.NVMLError as problem:
        return (), f"the NVIDIA driver does not answer ({problem})"
    finally:
        with suppress(pynvml.NVMLError):  # it failed in the meantime; its earlier answers are still useful
            pynvml.nvmlShutdown()
    visible = [gpu for gpu in gpus if _is_visible(gpu)]
    if len(visible) < len(gpus):
        notes.append(f"{len(gpus) - len(visible)} hidden by CUDA_VISIBLE_DEVICES")
    return tuple(visible), "; ".join(notes) if notes else "" if visible else "no NVIDIA GPU"


def _gpu(nvml: Any, index: int) -> Gpu:
    """Query one GPU. Raises NVMLError if it does not even report its name."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    notes = []

    def query(quantity: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError as problem:
            notes.append(f"does not report its {quantity} ({problem})")
            return None

    name, uuid = str(nvml.nvmlDeviceGetName(handle)), str(nvml.nvmlDeviceGetUUID(handle))
    memory = query("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    milliwatts = query("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    millijoules = query("energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return Gpu(
        index=index, name=name, uuid=uuid,
        memory_total=None if memory is None else int(memory.total),
        memory_free=None if memory is None else int(memory.free),
        utilisation=query("utilisation", lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature=query(
            "temperature", lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        watts=None if milliwatts is None else milliwatts / 1000,
        joules=None if millijoules is None else millijoules / 1000,
        held=gpu_in_use(uuid),
        notes=tuple(notes),
    )  # fmt: skip


class EnergyMeter:
    """Measures the joules that the only GPU visible to this process uses, for all processes, from now on.

    None if the GPU has no counter, if this process does not see exactly one GPU, or if the counter was reset meanwhile.
    Nothing here raises, whatever the driver does: a training continues without the figure.
    """

    def __init__(self) -> None:
        self._counter: Callable[[], float] | None = None
        self._before = 0.0
        self._counter = _quietly(_counter_of_the_gpu)
        before = self._value()
        if before is None:
            self._counter = None
        else:
            self._before = before

    def read(self) -> float | None:
        """Joules so far."""
        now = self._value()
        if now is not None and now < self._before:  # the driver was reloaded: the earlier use is unknown
            self._counter = now = None
        return None if now is None else now - self._before

    def _value(self) -> float | None:
        return _quietly(self._counter) if self._counter else None


def _counter_of_the_gpu() -> Callable[[], float] | None:
    """A function that reads the joules of the only visible GPU since its driver was loaded."""
    import pynvml

    gpus, _ = _gpus()
    if len(gpus) != 1 or gpus[0].joules is None:
        return None
    pynvml.nvmlInit()  # as long as this process lives
    handle = pynvml.nvmlDeviceGetHandleByIndex(gpus[0].index)
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


def _quietly(question: Callable[[], T]) -> T | None:
    try:
        return question()
    except Exception:  # noqa: BLE001 - a training is more important than this figure
        return None


def driver_version() -> str:
    """The version of NVIDIA's driver; empty if unknown."""
    return _quietly(_driver_version) or ""


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _is_visible(gpu: Gpu) -> bool:
    """Whether torch sees it, too: NVML ignores CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return any(name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name)) for name in names)


def _docker() -> Docker:
    try:
        client = connect(DOCKER_SECONDS)
        try:
            info = client.info()
        finally:
            client.close()
    except EngineError as problem:
        return Docker(note=problem.message.rstrip("."), remedy=problem.remedy)
    except problems() as problem:
        note = f"The Docker engine does not describe itself ({type(problem).__name__})"
        return Docker(note=note, remedy="See `docker info` and the engine's log.")
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or []]
    gpus = "nvidia" in (info.get("Runtimes") or {}) or any("nvidia.com/gpu" in device for device in devices)
    return Docker(version=str(info.get("ServerVersion") or "unknown"), gpus=gpus)


def _cuda() -> str:
    """The CUDA version that torch was built for, from its version file: importing torch takes over a second."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else ""
