"""Checks what works on this machine: each finding says what was found, and the command that fixes it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from academy.arena.sandbox import PROBE, Call, DockerSandbox, Unavailable, find_sandbox
from academy.border.masking import mask
from academy.errors import AcademyError, EngineError, ExaminationError
from academy.experience.git.repository import refusal_of
from academy.habitat.backends.choice import select_backend
from academy.habitat.backends.container import ContainerChoice
from academy.habitat.backends.isolation import GPU_REMEDY, visible_gpus
from academy.loop.home import Home
from academy.models.base_model import SEED, altered_seed_files, resolve
from academy.operations.prefect_server import running
from academy.records import Record
from academy.settings import Settings
from academy.settings_file import FILE_VARIABLE
from academy.settings_report import describe_settings
from academy.system.docker import ENGINE_REMEDY, connect
from academy.system.hardware import Gpu, Inventory, take_inventory
from academy.system.installation import install_remedy

SCARCE_BYTES = 2 << 30
CUDA_IMAGE_SECONDS = 60


class Finding(Record):
    """One check. `needed`: the loop cannot run where this does not work."""

    name: str
    works: bool
    needed: bool
    found: Annotated[str, AfterValidator(mask)]
    remedy: Annotated[str, AfterValidator(mask)] = ""


def diagnose(settings: Settings, base_model: str | None = None) -> tuple[Finding, ...]:
    """Check everything, with this base model or the one of the settings."""
    machine = take_inventory()
    return (
        _python(), _settings(settings), _home(settings), _checked("database", lambda: _database(settings)),
        _checked("base model", lambda: _base(base_model or settings.base_model)), _seed_intact(),
        _checked("MLflow", lambda: _mlflow(settings)), _prefect(settings), check_gpu(machine), _cuda(machine),
        _library("unsloth", "TRL and PEFT train instead", installed=machine.unsloth),
        _library("bitsandbytes", "4-bit weights are not available", installed=machine.bitsandbytes),
        _docker(machine), check_toolkit(settings, machine),
        _checked("training", lambda: check_training(settings, machine)), _sandbox(settings), _docker_sandbox(settings),
        _repository(),
    )  # fmt: skip


def is_sound(findings: tuple[Finding, ...]) -> bool:
    """Whether everything that the loop needs works."""
    return all(finding.works or not finding.needed for finding in findings)


def _checked(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except AcademyError as problem:
        return Finding(name=name, works=False, needed=True, found=problem.message, remedy=problem.remedy)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    works = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding(
        name="Python", works=works, needed=True, found=version, remedy="" if works else "Install Python 3.11 or 3.12."
    )


def _settings(settings: Settings) -> Finding:
    report = describe_settings(settings)
    parts = [*(report.files or ("no file",)), *report.variables]
    return Finding(
        name="settings", works=not report.unread, needed=False,
        found=", ".join(parts) + (f"; not read: {report.unread}" if report.unread else ""),
        remedy=f"If you trust the file, set {FILE_VARIABLE}={report.unread}." if report.unread else "",
    )  # fmt: skip


def _home(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.folder(".")).free
    works = free > SCARCE_BYTES
    return Finding(
        name="home", works=works, needed=False, found=f"{settings.home}, {free / 2**30:.0f} GiB free",
        remedy="" if works else "Free some space, or set ACADEMY_HOME to another folder.",
    )  # fmt: skip


def _database(settings: Settings) -> Finding:
    statistics = Home(settings).store.get_statistics()
    return Finding(name="database", works=True, needed=True, found=f"{statistics['total_lessons']:,} lessons")


def _base(name: str) -> Finding:
    base = resolve(name)
    return Finding(
        name="base model",
        works=True,
        needed=True,
        found=f"{base.name}, {base.parameters / 1e6:,.1f} M parameters, {base.digest[:12]}",
    )


def _seed_intact() -> Finding:
    names = altered_seed_files()
    return Finding(
        name="seed model",
        works=not names,
        needed=False,
        found=f"altered: {', '.join(names)}" if names else "all files checked",
        remedy=f"Install the package again, or use a base model other than '{SEED}'." if names else "",
    )


def _mlflow(settings: Settings) -> Finding:
    from academy.genealogy.tracking import open_mlflow

    open_mlflow(settings)
    return Finding(name="MLflow", works=True, needed=True, found=settings.tracking_uri)


def _prefect(settings: Settings) -> Finding:
    url = running(settings)
    return Finding(
        name="Prefect server", works=bool(url), needed=False, found=url or "not running; evolve starts its own",
        remedy="" if url else "`make pages` keeps one running, with its pages.",
    )  # fmt: skip


def check_gpu(machine: Inventory) -> Finding:
    """The GPUs of a machine with their memory, load and temperature; or what trains instead."""
    if not machine.gpus:
        return Finding(
            name="GPU", works=False, needed=False,
            found=f"{machine.gpu_note}: training runs on {machine.cpus} CPUs, "
            f"{machine.memory_free / 2**30:.1f} of {machine.memory_total / 2**30:.1f} GiB of memory free",
            remedy="The seed model does not need a GPU. For larger models install the NVIDIA driver; nvidia-smi then "
            "lists the GPU.",
        )  # fmt: skip
    lines = [_describe(gpu) for gpu in machine.gpus] + [machine.gpu_note] * bool(machine.gpu_note)
    return Finding(
        name="GPU", works=True, needed=False, found="; ".join(lines),
        remedy="Run nvidia-smi to see what the driver reports." if machine.gpu_note else "",
    )  # fmt: skip


def _describe(gpu: Gpu) -> str:
    free = (
        f"{gpu.memory_free / 2**30:.0f} of {gpu.memory_total / 2**30:.0f} GiB free"
        if gpu.memory_free is not None and gpu.memory_total is not None
        else ""
    )
    figures = [
        free,
        f"{gpu.utilisation} % busy" if gpu.utilisation is not None else "",
        f"{gpu.temperature} degrees" if gpu.temperature is not None else "",
        f"{gpu.watts:.0f} W" if gpu.watts is not None else "",
        "used by a training" if gpu.held else "",
        *gpu.notes,
    ]
    return f"{gpu.index}: {gpu.name} ({', '.join(filter(None, figures))})"


def _cuda(machine: Inventory) -> Finding:
    if machine.cuda:
        return Finding(name="CUDA", works=True, needed=False, found=f"torch is built for CUDA {machine.cuda}")
    return Finding(
        name="CUDA", works=False, needed=False, found="torch is built for CPUs",
        remedy=f"Trainings do not use the GPU. Run: {sys.executable} -m pip install --force-reinstall torch, from an "
        "index that has torch for the CUDA of your driver." if machine.gpus else "",
    )  # fmt: skip


def _library(name: str, without: str, *, installed: bool) -> Finding:
    remedy = install_remedy("gpu")
    return Finding(
        name=name, works=installed, needed=False, found="installed" if installed else f"not installed: {without}",
        remedy="" if installed else f"On a GPU host, {remedy[0].lower()}{remedy[1:]}",
    )  # fmt: skip


def check_toolkit(settings: Settings, machine: Inventory) -> Finding:
    """Whether containers get GPUs: what the engine says, or what a container of DOCKER_CUDA_IMAGE sees."""
    works = machine.docker.gpus
    if works and settings.cuda_image:
        return _try_cuda_image(settings.cuda_image)
    return Finding(
        name="GPUs in containers", works=works, needed=False,
        found=f"Docker {machine.docker.version} supports them"
        if works
        else machine.docker.note or f"Docker {machine.docker.version} has no NVIDIA runtime",
        remedy="" if works else "On a GPU host install nvidia-container-toolkit, then run: nvidia-ctk runtime "
        "configure --runtime=docker && systemctl restart docker",
    )  # fmt: skip


def _try_cuda_image(name: str) -> Finding:
    try:
        with closing(connect(CUDA_IMAGE_SECONDS)) as client:
            gpus = visible_gpus(client, name)
    except EngineError as problem:
        return Finding(
            name="GPUs in containers", works=False, needed=False, found=problem.message, remedy=problem.remedy
        )
    return Finding(
        name="GPUs in containers", works=bool(gpus), needed=False,
        found=f"a container of {name} sees {'; '.join(gpus) or 'none'}", remedy="" if gpus else GPU_REMEDY,
    )  # fmt: skip


def _docker(machine: Inventory) -> Finding:
    version = machine.docker.version
    return Finding(
        name="Docker", works=bool(version), needed=False, found=f"engine {version}" if version else machine.docker.note,
        remedy="" if version else f"Only containers need it. {ENGINE_REMEDY}",
    )  # fmt: skip


def check_training(settings: Settings, machine: Inventory) -> Finding:
    """Where trainings run. A container that the settings ask for is tried, and needed: nothing replaces it."""
    backend = select_backend(settings, machine)
    if backend.refusal:
        return Finding(
            name="training", works=False, needed=True, found=backend.refusal.message, remedy=backend.refusal.remedy
        )
    if not isinstance(backend, ContainerChoice):
        because = f" because: {backend.container_problem}" if backend.container_problem else ""
        return Finding(name="training", works=True, needed=True, found=f"{backend.location}{because}")
    trial = backend.trial
    versions = f"torch {trial.versions['torch']}, trl {trial.versions['trl']}"
    details = f"{backend.location}, {backend.image.digest[:19]}: {versions}, tried on {backend.trial_device}"
    return Finding(name="training", works=True, needed=True, found=details)


def _docker_sandbox(settings: Settings) -> Finding:
    try:
        sandbox = DockerSandbox(image=settings.sandbox_image)
        trial = sandbox.run(PROBE, [Call(function="probe")])
    except ExaminationError as problem:
        return Finding(
            name="Docker sandbox", works=False, needed=False, found=problem.message, remedy=problem.remedy,
        )  # fmt: skip
    cleanup = f"; {sandbox.removed} left-over containers removed" if sandbox.removed else ""
    return Finding(
        name="Docker sandbox", works=trial.ended == "done", needed=False, remedy="",
        found=f"{sandbox.image.name}, {sandbox.image.digest[:19]}: a test program ended as {trial.ended}{cleanup}",
    )  # fmt: skip


def _sandbox(settings: Settings) -> Finding:
    sandbox = find_sandbox(settings.sandbox, image=settings.sandbox_image)
    if isinstance(sandbox, Unavailable):
        return Finding(
            name="sandbox", works=False, needed=False, found=sandbox.because,
            remedy="Only the coding suite needs one: install bubblewrap and libseccomp2.",
        )  # fmt: skip
    return Finding(
        name="sandbox", works=True, needed=False, found=f"{sandbox.name}: {', '.join(sandbox.active_limits)}"
    )  # fmt: skip


def _repository() -> Finding:
    refusal = refusal_of(Path.cwd())
    return Finding(
        name="git history",
        works=refusal is None,
        needed=False,
        found=f"commits are skipped: {refusal.message}" if refusal else "this folder's repository",
        remedy=refusal.remedy if refusal else "",
    )
