"""Creates the databases of a home: the Academy's own, MLflow's and Prefect's."""

from __future__ import annotations

import os
import subprocess
import sys

from academy.errors import HomeError
from academy.loop.home import Home
from academy.operations.prefect_server import configure


def create_databases(home: Home) -> None:
    """Create or upgrade all databases. Raises HomeError where Prefect's cannot be created."""
    configure(home.settings)
    home.mlflow  # noqa: B018  opening it creates it
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PREFECT_CLI_PROMPT": "false"}
    )
    if process.returncode:
        lines = (process.stderr or process.stdout).strip().splitlines()
        raise HomeError(
            f"Prefect's database could not be created: {lines[-1] if lines else f'exit code {process.returncode}'}",
            f"Check the folder {home.settings.folder('prefect')}.",
        )
