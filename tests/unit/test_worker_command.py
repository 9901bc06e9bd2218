"""The command that `academy deploy` prints works when it is typed as it stands."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from academy.operations.deploy import worker_command
from academy.settings import load_settings


def test_printed_worker_command_works_for_its_home_and_makes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a home" / "data"
    home.mkdir(parents=True)
    monkeypatch.setenv("ACADEMY_HOME", str(home))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    command = worker_command(load_settings())
    monkeypatch.delenv("ACADEMY_HOME")
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr.startswith("No Prefect server is running.")) == (2, True), done.stderr
    assert not (home / "data").exists()
