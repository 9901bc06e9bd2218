"""What this machine has: GPUs by NVML, processors and memory. Everything degrades with a sentence."""

from __future__ import annotations

import os
from pathlib import Path

from academy.artifacts import Record


class Gpu(Record):
    """One GPU; memory in bytes."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_free: int


class Hardware(Record):
    """The machine; memory in bytes. `gpu_note` says why there is no GPU where there is none."""

    cpus: int
    memory: int
    gpus: tuple[Gpu, ...]
    gpu_note: str


def inspect() -> Hardware:
    """Look at the machine now."""
    gpus, note = _gpus()
    return Hardware(cpus=len(os.sched_getaffinity(0)), memory=_memory(), gpus=gpus, gpu_note=note)


def _memory() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as problem:
        return (), f"no NVIDIA GPU ({problem})"
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(
                Gpu(
                    index=index,
                    uuid=str(pynvml.nvmlDeviceGetUUID(handle)),
                    name=str(pynvml.nvmlDeviceGetName(handle)),
                    memory_total=int(memory.total),
                    memory_free=int(memory.free),
                )
            )
    finally:
        pynvml.nvmlShutdown()
    return tuple(found), "" if found else "no NVIDIA GPU"
