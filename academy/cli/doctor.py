"""`academy doctor` and `academy init`: what works here, what does not, and the command that mends it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from academy.arena.sandbox import PROBE, Call, DockerSandbox, Unavailable, find_sandbox
from academy.cli.output import emit, say, table
from academy.errors import AcademyError, ExaminationError
from academy.experience.sources.commits import is_repository
from academy.habitat.backends.choice import select_backend
from academy.habitat.backends.container import ContainerChoice
from academy.loop.home import Home
from academy.models.base_model import SEED, SEED_FOLDER, resolve
from academy.records import Record
from academy.settings import Settings, load_settings
from academy.system.docker import ENGINE_REMEDY
from academy.system.hardware import Gpu, Inventory, take_inventory

SCARCE_BYTES = 2 << 30


class Finding(Record):
    """One line of the doctor's report; `needed` tells what the loop cannot do without."""

    name: str
    works: bool
    needed: bool
    found: str
    remedy: str = ""


def run(base_model: str | None, *, as_json: bool) -> None:
    """Look at everything; exit code 2 where something needed does not work."""
    settings = load_settings()
    machine = take_inventory()
    found = [
        _python(), _home(settings), _asked("database", lambda: _database(settings)),
        _asked("base model", lambda: _base(base_model or settings.base_model)), _seed_intact(),
        _asked("MLflow", lambda: _mlflow(settings)), _prefect(settings), _gpu(machine), _cuda(machine),
        _library("unsloth", "TRL and PEFT train", there=machine.unsloth),
        _library("bitsandbytes", "no weights of 4 bits", there=machine.bitsandbytes),
        _docker(machine), _toolkit(machine), _asked("training", lambda: _training(settings, machine)),
        _sandbox(settings), _docker_sandbox(settings), _repository(),
    ]  # fmt: skip
    sound = all(one.works or not one.needed for one in found)
    if as_json:
        emit({"sound": sound, "findings": [one.model_dump(mode="json") for one in found]})
    else:
        table(
            "What works here",
            ("what", "works", "found", "what mends it"),
            [(one.name, "yes" if one.works else "NO" if one.needed else "no", one.found, one.remedy) for one in found],
        )
        say("The loop can run here." if sound else "The loop cannot run here yet.")
    if not sound:
        sys.exit(2)


def create_databases() -> None:
    """Lessons and ledger, MLflow, and Prefect's own."""
    from academy.operations.prefect_server import configure

    home = Home.open()
    configure(home.settings)
    home.mlflow  # noqa: B018  opening it creates it
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PREFECT_CLI_PROMPT": "false"}
    )
    if done.returncode:
        raise AcademyError(
            f"Prefect's database could not be created: {(done.stderr or done.stdout).strip().splitlines()[-1]}",
            f"Look at {home.settings.folder('prefect')}.",
        )
    say(f"Databases are ready in {home.settings.home}.")


def _asked(name: str, question: Callable[[], Finding]) -> Finding:
    try:
        return question()
    except AcademyError as problem:
        return Finding(name=name, works=False, needed=True, found=problem.message, remedy=problem.remedy)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    works = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding(
        name="Python", works=works, needed=True, found=version, remedy="" if works else "Install Python 3.11 or 3.12."
    )


def _home(settings: Settings) -> Finding:
    free = shutil.disk_usage(settings.folder(".")).free
    works = free > SCARCE_BYTES
    return Finding(
        name="home", works=works, needed=False, found=f"{settings.home}, {free / 2**30:.0f} GiB free",
        remedy="" if works else "Free some space, or point ACADEMY_HOME elsewhere.",
    )  # fmt: skip


def _database(settings: Settings) -> Finding:
    home = Home(settings)
    statistics = home.store.get_statistics()
    return Finding(name="database", works=True, needed=True, found=f"{statistics['total_lessons']:,} lessons")


def _base(name: str) -> Finding:
    found = resolve(name)
    return Finding(
        name="base model",
        works=True,
        needed=True,
        found=f"{found.name}, {found.parameters / 1e6:,.1f} M parameters, {found.digest[:12]}",
    )


def _seed_intact() -> Finding:
    from academy.store.files import digest_of_file

    lines = (SEED_FOLDER / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    altered = [name for digest, name in map(str.split, lines) if digest_of_file(SEED_FOLDER / name) != digest]
    return Finding(
        name="seed model",
        works=not altered,
        needed=False,
        found=f"altered: {', '.join(altered)}" if altered else f"{len(lines)} files checked",
        remedy=f"Install the package again, or use a base model other than '{SEED}'." if altered else "",
    )


def _mlflow(settings: Settings) -> Finding:
    from academy.genealogy.tracking import open_mlflow

    open_mlflow(settings)
    return Finding(name="MLflow", works=True, needed=True, found=settings.tracking_uri)


def _prefect(settings: Settings) -> Finding:
    from academy.operations.prefect_server import running

    url = running(settings)
    return Finding(
        name="Prefect server", works=bool(url), needed=False, found=url or "none is running; evolve starts its own",
        remedy="" if url else "`make pages` keeps one running, with its pages.",
    )  # fmt: skip


def _gpu(machine: Inventory) -> Finding:
    if not machine.gpus:
        return Finding(
            name="GPU", works=False, needed=False,
            found=f"{machine.gpu_note}: training runs on {machine.cpus} CPUs, "
            f"{machine.memory_free / 2**30:.1f} of {machine.memory_total / 2**30:.1f} GiB of memory free",
            remedy="The seed model needs none; for larger models install the NVIDIA driver; nvidia-smi then lists it.",
        )  # fmt: skip
    said = [_about(gpu) for gpu in machine.gpus] + [machine.gpu_note] * bool(machine.gpu_note)
    return Finding(
        name="GPU", works=True, needed=False, found="; ".join(said),
        remedy="nvidia-smi shows what the driver says." if machine.gpu_note else "",
    )  # fmt: skip


def _about(gpu: Gpu) -> str:
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
        remedy="Trainings would not use the GPU: pip install --force-reinstall torch, from the index for its CUDA."
        if machine.gpus else "",
    )  # fmt: skip


def _library(name: str, without: str, *, there: bool) -> Finding:
    return Finding(
        name=name, works=there, needed=False, found="installed" if there else f"not installed: {without}",
        remedy="" if there else "On a GPU host: pip install -c constraints.txt '.[gpu]'",
    )  # fmt: skip


def _toolkit(machine: Inventory) -> Finding:
    works = machine.docker.gpus
    return Finding(
        name="GPUs in containers", works=works, needed=False,
        found=f"Docker {machine.docker.version} can give them"
        if works
        else machine.docker.note or f"Docker {machine.docker.version} has no NVIDIA runtime",
        remedy="" if works else "On a GPU host install nvidia-container-toolkit, then: nvidia-ctk runtime configure "
        "--runtime=docker && systemctl restart docker",
    )  # fmt: skip


def _docker(machine: Inventory) -> Finding:
    there = machine.docker.version
    return Finding(
        name="Docker", works=bool(there), needed=False, found=f"engine {there}" if there else machine.docker.note,
        remedy="" if there else f"Only containers need it. {ENGINE_REMEDY}",
    )  # fmt: skip


def _training(settings: Settings, machine: Inventory) -> Finding:
    """Where trainings run. A container that was asked for is tried, and needed: nothing takes its place."""
    chosen = select_backend(settings, machine)
    if chosen.refusal:
        return Finding(
            name="training", works=False, needed=True, found=chosen.refusal.message, remedy=chosen.refusal.remedy
        )
    if not isinstance(chosen, ContainerChoice):
        because = f", for: {chosen.container_problem}" if chosen.container_problem else ""
        return Finding(name="training", works=True, needed=True, found=f"{chosen.location}{because}")
    image, proof = chosen.image, chosen.trial
    versions = f"torch {proof.versions['torch']}, trl {proof.versions['trl']}"
    found = f"{chosen.location}, {image.digest[:19]}: {versions}, tried on {chosen.trial_device}"
    return Finding(name="training", works=True, needed=True, found=found)


def _docker_sandbox(settings: Settings) -> Finding:
    try:
        sandbox = DockerSandbox(image=settings.sandbox_image)
        ran = sandbox.run(PROBE, [Call(function="probe")])
    except ExaminationError as problem:
        return Finding(
            name="Docker sandbox", works=False, needed=False, found=problem.message, remedy=problem.remedy,
        )  # fmt: skip
    swept = f"; {sandbox.removed} left-over containers removed" if sandbox.removed else ""
    return Finding(
        name="Docker sandbox", works=ran.ended == "done", needed=False, remedy="",
        found=f"{sandbox.image.name}, {sandbox.image.digest[:19]}: a program ended as {ran.ended}{swept}",
    )  # fmt: skip


def _sandbox(settings: Settings) -> Finding:
    found = find_sandbox(settings.sandbox, image=settings.sandbox_image)
    if isinstance(found, Unavailable):
        return Finding(
            name="sandbox", works=False, needed=False, found=found.because,
            remedy="Only the coding suite needs one: install bubblewrap and libseccomp2.",
        )  # fmt: skip
    return Finding(
        name="sandbox", works=True, needed=False, found=f"{found.name}: {', '.join(found.active_limits)}"
    )  # fmt: skip


def _repository() -> Finding:
    there = is_repository(Path.cwd())
    return Finding(
        name="git history",
        works=there,
        needed=False,
        found="this folder's repository" if there else "no repository here: commits are left out",
        remedy="" if there else "Give one with --repo.",
    )
