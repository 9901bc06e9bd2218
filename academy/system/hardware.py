"""What this machine has for a training: processors, memory, GPUs by NVML, a Docker engine, the libraries of GPUs.

Nothing here raises: what is not there, or refuses to be asked, is a sentence. No library is imported to see whether
it is there, for some take seconds.
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
"""An engine that says nothing for so long is none."""
GROUPS = Path("/sys/fs/cgroup")
"""Where a container finds its own limits: of the second version of control groups; of the first in `memory`."""


class Gpu(Record):
    """One GPU; what it refuses to tell is None, and `notes` say so."""

    index: int
    name: str
    uuid: str
    memory_total: int | None = None  # bytes
    memory_free: int | None = None  # bytes
    utilisation: int | None = None  # per cent of the last moments
    temperature: int | None = None  # degrees Celsius
    watts: float | None = None
    joules: float | None = None  # since the driver was loaded; GPUs before Volta do not count
    held: bool = False  # by a training of the Academy, in whichever home
    notes: tuple[str, ...] = ()


class Docker(Record):
    """An engine. `version` is empty where none answers; `note` says why, and `remedy` what mends it.

    `gpus`: containers can be given GPUs.
    """

    version: str = ""
    gpus: bool = False
    note: str = ""
    remedy: str = ""


class Inventory(Record):
    """The machine; memory in bytes. `gpu_note` says why there is no GPU, or which of them could not be asked."""

    cpus: int
    memory_total: int
    memory_free: int  # what a new process can get
    gpus: tuple[Gpu, ...]
    gpu_note: str
    docker: Docker
    cuda: str  # of torch as it is installed; empty: it trains on CPUs only
    unsloth: bool
    bitsandbytes: bool


def take_inventory(*, engine: bool = True) -> Inventory:
    """Look at the machine now. Without `engine` Docker is not asked: one that hangs would be waited for."""
    gpus, note = _gpus()
    total, free = _memory(GROUPS)
    return Inventory(
        cpus=len(os.sched_getaffinity(0)), memory_total=total, memory_free=free, gpus=gpus, gpu_note=note,
        docker=_docker() if engine else Docker(note="Docker was not asked"), cuda=_cuda(),
        unsloth=find_spec("unsloth") is not None, bitsandbytes=find_spec("bitsandbytes") is not None,
    )  # fmt: skip


def _memory(groups: Path) -> tuple[int, int]:
    """Total and available, in bytes: the machine's, or this container's where that is less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    said = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    total, free = said["MemTotal"], said.get("MemAvailable", said["MemFree"])
    for limit, used, within in (
        ("memory.max", "memory.current", ""),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_"),
    ):
        most, now = _number(groups / limit), _number(groups / used) or 0
        if most is not None and most < total:
            now -= min(now, _cache((groups / limit).with_name("memory.stat"), within))
            total, free = most, min(free, max(0, most - now))
    return total, free


def _cache(stat: Path, within: str) -> int:
    """Bytes of a control group's memory that hold files: the kernel gives them back before it kills anybody.

    Files in use count too, as in the machine's own MemAvailable, for a base model that was read twice is among them.
    Files of a tmpfs do not: they lie with the processes' memory. `within` is what sums of the groups below begin with.
    """
    try:
        lines = stat.read_text(encoding="ascii").splitlines()
        said = {name: int(size) for name, _, size in (line.partition(" ") for line in lines)}
    except (OSError, ValueError):
        return 0
    return sum(said.get(f"{within}{name}", 0) for name in ("inactive_file", "active_file"))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        return (), f"no NVIDIA GPU ({problem})"
    try:
        count = int(pynvml.nvmlDeviceGetCount())
        found, lost = [], []
        for index in range(count):
            try:
                found.append(_gpu(pynvml, index))
            except pynvml.NVMLError as problem:
                lost.append(f"GPU {index} cannot be asked ({problem})")
    except pynvml.NVMLError as problem:
        return (), f"the NVIDIA driver does not answer ({problem})"
    finally:
        with suppress(pynvml.NVMLError):  # it was lost in the meantime; what it said is still worth telling
            pynvml.nvmlShutdown()
    shown = [gpu for gpu in found if _is_visible(gpu)]
    if len(shown) < len(found):
        lost.append(f"{len(found) - len(shown)} hidden by CUDA_VISIBLE_DEVICES")
    return tuple(shown), "; ".join(lost) if lost else "" if shown else "no NVIDIA GPU"


def _gpu(nvml: Any, index: int) -> Gpu:
    """All that one GPU tells. Raises NVMLError where not even its name is told."""
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    notes = []

    def ask(what: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except nvml.NVMLError as problem:
            notes.append(f"does not tell its {what} ({problem})")
            return None

    name, uuid = str(nvml.nvmlDeviceGetName(handle)), str(nvml.nvmlDeviceGetUUID(handle))
    memory = ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    milliwatts = ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    millijoules = ask("energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
    return Gpu(
        index=index, name=name, uuid=uuid,
        memory_total=None if memory is None else int(memory.total),
        memory_free=None if memory is None else int(memory.free),
        utilisation=ask("utilisation", lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        temperature=ask(
            "temperature", lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        ),
        watts=None if milliwatts is None else milliwatts / 1000,
        joules=None if millijoules is None else millijoules / 1000,
        held=gpu_in_use(uuid),
        notes=tuple(notes),
    )  # fmt: skip


class EnergyMeter:
    """Joules that the only GPU this process sees used since this object was made, whoever worked on it.

    None where it has no such counter, where several GPUs or none are seen, and where the counter began again meanwhile.
    Nothing here raises, whatever the driver does: a training goes on without the figure.
    """

    def __init__(self) -> None:
        self._counter: Callable[[], float] | None = None
        self._before = 0.0
        self._counter = _quietly(_counter_of_the_gpu)
        before = self._counted()
        if before is None:
            self._counter = None
        else:
            self._before = before

    def read(self) -> float | None:
        """Joules so far."""
        now = self._counted()
        if now is not None and now < self._before:  # the driver was loaded again: what was used before is not known
            self._counter = now = None
        return None if now is None else now - self._before

    def _counted(self) -> float | None:
        return _quietly(self._counter) if self._counter else None


def _counter_of_the_gpu() -> Callable[[], float] | None:
    """Asks for the joules of the only GPU that this process sees, since its driver was loaded."""
    import pynvml

    gpus, _ = _gpus()
    if len(gpus) != 1 or gpus[0].joules is None:
        return None
    pynvml.nvmlInit()  # for as long as this process lives
    handle = pynvml.nvmlDeviceGetHandleByIndex(gpus[0].index)
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000


def _quietly(question: Callable[[], T]) -> T | None:
    try:
        return question()
    except Exception:  # noqa: BLE001 - a training is worth more than this figure
        return None


def driver_version() -> str:
    """The version of NVIDIA's driver; empty where none tells it."""
    return _quietly(_driver_version) or ""


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        return str(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _is_visible(gpu: Gpu) -> bool:
    """Whether torch would see it too: NVML does not know of CUDA_VISIBLE_DEVICES."""
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return True
    names = [name.strip() for name in wanted.split(",")]
    return any(name == str(gpu.index) or (name.startswith("GPU-") and gpu.uuid.startswith(name)) for name in names)


def _docker() -> Docker:
    try:
        client = connect(DOCKER_SECONDS)
        try:
            told = client.info()
        finally:
            client.close()
    except EngineError as problem:
        return Docker(note=problem.message.rstrip("."), remedy=problem.remedy)
    except problems() as problem:
        note = f"The Docker engine does not tell about itself ({type(problem).__name__})"
        return Docker(note=note, remedy="Look at `docker info` and at the engine's log.")
    devices = [str(one.get("ID", "")) for one in told.get("DiscoveredDevices") or []]
    gpus = "nvidia" in (told.get("Runtimes") or {}) or any("nvidia.com/gpu" in one for one in devices)
    return Docker(version=str(told.get("ServerVersion") or "unknown"), gpus=gpus)


def _cuda() -> str:
    """The CUDA that torch was built for, from its version file: to import torch would take a second and a half."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return ""
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else ""
