"""Creates the databases of a home: the Academy's own, MLflow's and Prefect's."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from academy.border.current_folder import environment
from academy.errors import HomeError
from academy.loop.home import Home
from academy.operations.prefect_server import configure
from academy.store.files import write_file

MARKER = ".ready"
"""Says which versions of the libraries have prepared the databases of a home."""


def create_databases(home: Home) -> None:
    """Create or upgrade all databases, once for each version. Raises HomeError where Prefect's cannot be created."""
    configure(home.settings)
    marker = home.settings.folder(".") / MARKER
    state = f"{home.settings.tracking_uri}\nmlflow {version('mlflow')}\nprefect {version('prefect')}\n"
    files = [Path(os.environ["PREFECT_HOME"]) / "prefect.db"]
    if home.settings.tracking_uri.startswith("sqlite:///"):
        files.append(Path(home.settings.tracking_uri.removeprefix("sqlite:///")))
    if all(file.is_file() for file in files) and _text(marker) == state:
        return
    home.mlflow  # noqa: B018  opening it creates it
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    process = subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False,
        env=environment(PREFECT_CLI_PROMPT="false"), cwd=home.settings.folder("prefect"),
    )  # fmt: skip
    if process.returncode:
        # a child that was killed may have written nothing, or only white space
        lines = (process.stderr.strip() or process.stdout.strip()).splitlines()
        raise HomeError(
            f"Prefect's database could not be created: {lines[-1] if lines else f'exit code {process.returncode}'}",
            f"Check the folder {home.settings.folder('prefect')}.",
        )
    write_file(marker, state.encode())


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
