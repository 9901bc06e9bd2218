"""The machine's inventory. Sentences describe what is missing, unsupported or lost, and nothing raises."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from academy.habitat.routing import gpus_by_preference
from academy.habitat.run_folder import read_events
from academy.habitat.trainer.events import EventWriter
from academy.sdk.gpu_habitat import GPUHabitat
from academy.system import gpu_lock, hardware
from academy.system.gpu_lock import hold_gpu
from academy.system.hardware import EnergyMeter, take_inventory

GIB = 2**30
MIB = 2**20


class FakeLibrary:
    """Replaces libnvidia-ml.so behind the real pynvml, which calls it by ctypes: same names, arguments, codes.

    `errors`: error codes by function and GPU. `lost_after`: number of calls that succeed before the driver is lost.
    Functions that are not in ANSWERS do not exist, as in old drivers.
    """

    def __init__(self, gpus: int, errors: dict[tuple[str, int], int] | None = None, lost_after: int = 10**9) -> None:
        self.gpus, self.errors, self.lost_after = gpus, errors or {}, lost_after
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name not in ANSWERS:
            raise AttributeError(name)

        def function(*arguments: Any) -> int:
            self.calls += 1
            if self.calls > self.lost_after:
                return int(pynvml.NVML_ERROR_GPU_IS_LOST)
            # the first argument of a GPU's function is its handle
            of_gpu = bool(arguments) and isinstance(arguments[0], pynvml.c_nvmlDevice_t)
            code = self.errors.get((name, _gpu(arguments[0]))) if of_gpu else None
            return code if code is not None else ANSWERS[name](self, *arguments) or pynvml.NVML_SUCCESS

        return function


def _set(pointer: Any, **fields: int) -> None:
    for name, value in fields.items():
        setattr(pointer._obj, name, value)


def _handle(library: FakeLibrary, index: Any, device: Any) -> int | None:
    if index.value >= library.gpus:
        return int(pynvml.NVML_ERROR_INVALID_ARGUMENT)
    # a handle is an opaque pointer; here it is the GPU's number, and NULL is invalid
    ctypes.cast(device, ctypes.POINTER(ctypes.c_void_p))[0] = index.value + 0x1000
    return None


def _gpu(handle: Any) -> int:
    return int(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 0x1000


ANSWERS: dict[str, Callable[..., int | None]] = {
    "nvmlInitWithFlags": lambda library, _flags: None,
    "nvmlShutdown": lambda library: None,
    "nvmlDeviceGetCount_v2": lambda library, count: _set(count, value=library.gpus),
    "nvmlDeviceGetHandleByIndex_v2": _handle,
    "nvmlDeviceGetName": lambda library, handle, text, _n: setattr(text, "value", b"NVIDIA H100 80GB HBM3"),
    "nvmlDeviceGetUUID": lambda library, handle, text, _n: setattr(text, "value", b"GPU-%04d-abcd" % _gpu(handle)),
    "nvmlDeviceGetMemoryInfo": lambda library, handle, memory: _set(
        memory, total=80 * GIB, free=(70 - _gpu(handle)) * GIB, used=10 * GIB
    ),
    "nvmlDeviceGetPowerUsage": lambda library, handle, watts: _set(watts, value=123_456),
    "nvmlDeviceGetTotalEnergyConsumption": lambda library, handle, joules: _set(joules, value=5_000_500),
    "nvmlDeviceGetUtilizationRates": lambda library, handle, rates: _set(rates, gpu=37, memory=5),
    "nvmlDeviceGetTemperature": lambda library, handle, sensor, degrees: _set(degrees, value=41),
    "nvmlErrorString": lambda library, code: None,
}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakeLibrary], None]:
    """Puts a fake library behind pynvml; its GPUs' locks belong to the test."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shared = tmp_path / "lock"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(gpu_lock, "FOLDERS", (shared,))

    def put(fake: FakeLibrary) -> None:
        monkeypatch.setattr(pynvml, "nvmlLib", fake)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    return put


def test_an_inventory_lists_every_gpu_with_its_figures(library: Callable[[FakeLibrary], None]) -> None:
    """With a fake library behind the real pynvml: the test needs no GPU, and proves nothing about real ones."""
    library(FakeLibrary(2))
    machine = take_inventory()
    first, second = machine.gpus
    assert (first.index, first.name, first.uuid) == (0, "NVIDIA H100 80GB HBM3", "GPU-0000-abcd")
    assert (first.memory_total, first.memory_free) == (80 * GIB, 70 * GIB)
    assert (first.utilisation, first.temperature) == (37, 41)
    assert (first.watts, first.joules) == (123.456, 5000.5)
    assert (second.index, second.uuid, second.memory_free) == (1, "GPU-0001-abcd", 69 * GIB)
    assert (first.notes, machine.gpu_note) == ((), "")


def test_a_gpu_without_an_energy_counter_reports_the_rest(library: Callable[[FakeLibrary], None]) -> None:
    """With the fake library: GPUs before Volta have no such counter."""
    library(FakeLibrary(2, {("nvmlDeviceGetTotalEnergyConsumption", 1): pynvml.NVML_ERROR_NOT_SUPPORTED}))
    first, second = take_inventory().gpus
    assert first.joules is not None
    assert second.joules is None
    assert second.watts == 123.456
    assert second.notes == ("does not report its energy (Not Supported)",)


def counter(monkeypatch: pytest.MonkeyPatch, *millijoules: int) -> None:
    """The values of the fake counter, call by call."""
    values = iter(millijoules)
    name = "nvmlDeviceGetTotalEnergyConsumption"
    monkeypatch.setitem(ANSWERS, name, lambda library, handle, joules: _set(joules, value=next(values)))


def test_an_energy_meter_measures_the_counters_growth(
    library: Callable[[FakeLibrary], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the fake library; the first call is the inventory's."""
    library(FakeLibrary(1))
    counter(monkeypatch, 5_000, 6_000, 6_500, 9_000)
    meter = EnergyMeter()
    assert [meter.read(), meter.read()] == [0.5, 3.0]


def test_an_energy_meter_stops_after_a_counter_reset(
    library: Callable[[FakeLibrary], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(FakeLibrary(1))
    counter(monkeypatch, 5_000, 6_000, 100, 7_000)
    meter = EnergyMeter()
    assert [meter.read(), meter.read()] == [None, None]


def test_an_energy_meter_needs_exactly_one_gpu_with_a_counter(
    library: Callable[[FakeLibrary], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(FakeLibrary(1, {("nvmlDeviceGetTotalEnergyConsumption", 0): pynvml.NVML_ERROR_NOT_SUPPORTED}))
    assert EnergyMeter().read() is None
    library(FakeLibrary(2))
    assert EnergyMeter().read() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0001-abcd")
    assert EnergyMeter().read() == 0.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert EnergyMeter().read() is None


@pytest.mark.parametrize("calls", range(25))
def test_an_energy_meter_survives_a_lost_driver(library: Callable[[FakeLibrary], None], calls: int) -> None:
    library(FakeLibrary(1, lost_after=calls))
    assert EnergyMeter().read() in (0.0, None)


def test_an_energy_meter_survives_invalid_driver_answers(
    library: Callable[[FakeLibrary], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is not valid text, and a counter that raises an unexpected error."""
    library(FakeLibrary(1))
    counter(monkeypatch, 5_000, 6_000)  # the third call raises StopIteration
    assert EnergyMeter().read() is None
    monkeypatch.setitem(ANSWERS, "nvmlDeviceGetName", lambda library, handle, text, _n: setattr(text, "value", b"\xff"))
    assert EnergyMeter().read() is None


def test_trainer_events_contain_the_energy_so_far(
    library: Callable[[FakeLibrary], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library(FakeLibrary(1))
    counter(monkeypatch, 5_000, 6_000, 7_000, 9_000)
    events = EventWriter(tmp_path / "events.jsonl")
    events.write("started")
    events.meter = EnergyMeter().read
    events.write("step", step=1, steps=2, loss=1.0)
    events.write("done")
    assert [event.energy for event in read_events(tmp_path / "events.jsonl")] == [None, 1.0, 3.0]


def test_a_gpu_in_use_by_a_training_is_marked(library: Callable[[FakeLibrary], None]) -> None:
    library(FakeLibrary(2))
    with hold_gpu("GPU-0001-abcd"):
        assert [gpu.held for gpu in take_inventory(engine=False).gpus] == [False, True]
        assert gpus_by_preference(take_inventory(engine=False).gpus)[0].index == 0
    with hold_gpu("GPU-0000-abcd"):
        assert gpus_by_preference(take_inventory(engine=False).gpus)[0].index == 1


def test_a_job_from_python_ignores_a_gpu_that_torch_cannot_use(
    library: Callable[[FakeLibrary], None], tmp_path: Path
) -> None:
    """With the fake library: another training may use that GPU while this one trains on the CPUs."""
    if hardware._cuda():
        pytest.skip("torch is built for CUDA")
    library(FakeLibrary(1))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"instruction": "a", "input": "", "output": "b"}\n' * 50)
    habitat = GPUHabitat(home=tmp_path / "home")
    with hold_gpu("GPU-0000-abcd"):
        name = habitat.run_training_job(rows, "seed", tmp_path / "out")["job_name"]
        assert habitat.get_training_status(name)["status"] == "running"
        habitat.cleanup_job(name)
    order = json.loads(next((tmp_path / "home").glob("runs/*/order.json")).read_bytes())
    assert order["plan"]["device"] == "cpu"


def test_a_gpu_that_cannot_be_queried_hides_no_other(library: Callable[[FakeLibrary], None]) -> None:
    library(FakeLibrary(3, {("nvmlDeviceGetName", 1): pynvml.NVML_ERROR_GPU_IS_LOST}))
    machine = take_inventory()
    assert [gpu.index for gpu in machine.gpus] == [0, 2]
    assert machine.gpu_note == "GPU 1 cannot be queried (GPU is lost)"


@pytest.mark.parametrize("calls", range(22))
def test_a_driver_lost_during_a_query_is_reported(library: Callable[[FakeLibrary], None], calls: int) -> None:
    """With the fake library: after `calls` calls every further one fails."""
    intact = FakeLibrary(2)
    library(intact)
    complete = take_inventory()
    library(FakeLibrary(2, lost_after=calls))
    machine = take_inventory()
    if calls >= intact.calls - 1:  # the last call only shuts the driver down
        assert (machine.gpus, machine.gpu_note) == (complete.gpus, "")
        return
    reasons = [machine.gpu_note, *(note for gpu in machine.gpus for note in gpu.notes)]
    assert "GPU is lost" in "; ".join(reasons)
    for gpu, expected in zip(machine.gpus, complete.gpus, strict=False):
        figures = gpu.model_dump(exclude={"notes"})
        assert all(value in (None, getattr(expected, name)) for name, value in figures.items())
        assert len(gpu.notes) == sum(value is None for value in (
            gpu.memory_total, gpu.watts, gpu.joules, gpu.utilisation, gpu.temperature,
        ))  # fmt: skip
    if calls < 2:
        assert machine.gpus == ()


def test_gpus_hidden_by_cuda_visible_devices_are_omitted(
    library: Callable[[FakeLibrary], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    library(FakeLibrary(3))
    for variable, expected in (("1", [1]), ("0,2", [0, 2]), ("GPU-0002", [2]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        machine = take_inventory()
        assert [gpu.index for gpu in machine.gpus] == expected
        assert "hidden by CUDA_VISIBLE_DEVICES" in machine.gpu_note


def test_this_machines_inventory_is_consistent() -> None:
    """With the real machine, whatever it has."""
    machine = take_inventory()
    assert machine.cpus >= 1
    assert 0 < machine.memory_free <= machine.memory_total
    if not machine.gpus:
        assert "no NVIDIA GPU" in machine.gpu_note or "driver" in machine.gpu_note
    assert bool(machine.docker.version) != bool(machine.docker.note)


def test_the_cuda_version_equals_torchs_own() -> None:
    import torch

    assert hardware._cuda() == (torch.version.cuda or "")


@pytest.mark.parametrize("host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "nonsense://x"])
def test_a_missing_docker_engine_is_described(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    docker = take_inventory().docker
    assert (docker.version, docker.gpus) == ("", False)
    assert host in docker.note


def test_the_doctor_describes_gpus(library: Callable[[FakeLibrary], None]) -> None:
    """With the fake library: the sentence that users read."""
    from academy.operations.doctor import check_gpu

    library(FakeLibrary(2, {("nvmlDeviceGetTemperature", 0): pynvml.NVML_ERROR_NOT_SUPPORTED}))
    with hold_gpu("GPU-0001-abcd"):
        result = check_gpu(take_inventory())
    assert result.works
    assert result.found == (
        "0: NVIDIA H100 80GB HBM3 (70 of 80 GiB free, 37 % busy, 123 W, "
        "does not report its temperature (Not Supported)); "
        "1: NVIDIA H100 80GB HBM3 (69 of 80 GiB free, 37 % busy, 41 degrees, 123 W, used by a training)"
    )


def group(folder: Path, **files: int | str) -> Path:
    """A control group's files as the kernel writes them; `__` stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")
    return folder


# a pod of 1 GiB that read its base model: nine tenths of its memory cache files
SECOND = f"anon {64 * MIB}\nfile {960 * MIB}\nshmem {32 * MIB}\ninactive_file {512 * MIB}\nactive_file {384 * MIB}"
FIRST = (
    f"cache {MIB}\ninactive_file {MIB}\nactive_file {MIB}\nhierarchical_memory_limit {GIB}\n"
    f"total_inactive_file {512 * MIB}\ntotal_active_file {384 * MIB}"
)


def test_cached_files_of_a_container_count_as_free_memory(tmp_path: Path) -> None:
    """Otherwise a pod that read a large base model would have no memory for a training."""
    second = group(tmp_path / "2", memory__max=GIB, memory__current=1020 * MIB, memory__stat=SECOND)
    assert hardware._memory(second) == (GIB, (1024 - 1020 + 512 + 384) * MIB)
    first = group(
        tmp_path / "1/memory", memory__limit_in_bytes=GIB, memory__usage_in_bytes=1020 * MIB, memory__stat=FIRST
    )
    assert hardware._memory(first.parent) == (GIB, (1024 - 1020 + 512 + 384) * MIB)


@pytest.mark.parametrize("stat", ["", "inactive_file many", "inactive_file"])
def test_a_containers_memory_limit_counts_without_statistics(tmp_path: Path, stat: str) -> None:
    folder = group(tmp_path, memory__max=GIB, memory__current=GIB // 4)
    assert hardware._memory(folder) == (GIB, 3 * GIB // 4)
    assert hardware._memory(group(folder, memory__stat=stat)) == (GIB, 3 * GIB // 4)


def test_a_container_without_a_limit_has_the_machines_memory(tmp_path: Path) -> None:
    total, free = hardware._memory(tmp_path)
    unlimited = group(tmp_path, memory__max="max", memory__current=GIB)
    assert hardware._memory(unlimited)[0] == total
    assert 0 < free <= total
    large = group(tmp_path, memory__max=2 * total)  # the value of version 1 for "unlimited"
    assert hardware._memory(large)[0] == total


def test_cached_files_never_exceed_used_memory(tmp_path: Path) -> None:
    """Usage and cache are read one after the other and may not match."""
    folder = group(tmp_path, memory__max=GIB, memory__current=256 * MIB, memory__stat=SECOND)
    assert hardware._memory(folder) == (GIB, GIB)
