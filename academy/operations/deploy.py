"""Creates the work pools and deploys prefect.yaml on the running Prefect server."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from academy.border.current_folder import environment
from academy.errors import HomeError, InputError
from academy.habitat.routing import POOLS
from academy.operations.prefect_rules import CHECKOUT, DEPLOYMENTS, POOL
from academy.operations.prefect_server import alive, configure, make_pools, running, use_own_server
from academy.operations.prefect_settings import import_prefect
from academy.records import Record
from academy.settings import Settings


class Deployed(Record):
    """What was deployed, and the command that starts a worker with a GPU for this home."""

    deployments: tuple[str, ...]
    worker_command: str


def deploy(settings: Settings) -> Deployed:
    """Deploy everything; repeating it changes nothing.

    Raises HomeError where no server answers or it rejects the deployments, InputError outside a checkout.
    """
    configure(settings)
    url = running(settings)
    if not url or not alive(url):
        raise HomeError("No Prefect server is running.", "Start one with `make pages`, or set PREFECT_API_URL.")
    if "PREFECT_API_URL" not in os.environ:
        use_own_server(settings, url)
    os.environ["ACADEMY_HOME"] = str(settings.home.resolve())
    if not (CHECKOUT / "prefect.yaml").is_file():
        raise InputError("The flows have no prefect.yaml beside them.", "Deploy from a checkout of the project.")
    import_prefect(settings)
    make_pools(url, [POOL, *POOLS.values()])
    _prefect(CHECKOUT, "--no-prompt", "deploy", "--all")
    return Deployed(
        deployments=DEPLOYMENTS,
        worker_command=worker_command(settings),
    )


def worker_command(settings: Settings) -> str:
    """What to type for one more worker of this home, in any folder."""
    home = shlex.quote(str(settings.home.resolve()))
    # Prefect reads settings in the folder where it starts, and in the home `data` would be another home
    return (
        f"cd {home} && ACADEMY_HOME={home} PYTHONSAFEPATH=1 {shlex.quote(sys.executable)} "
        f"-m academy.operations.prefect_worker --pool {POOLS['cuda']} --name gpu-{settings.home_id}"
    )


def _prefect(folder: Path, *arguments: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=folder, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if process.returncode:
        lines = [line for line in (process.stderr or process.stdout).strip().splitlines() if line.strip()]
        raise HomeError(
            f"Prefect rejected the command: {lines[-1] if lines else ' '.join(arguments)}",
            "Read the Prefect server's log.",
        )
