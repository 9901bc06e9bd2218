"""`academy init` prepares the databases once for each version, and reports a child process that fails in silence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from academy.errors import HomeError
from academy.loop.home import Home
from academy.operations.databases import MARKER, create_databases
from academy.settings import load_settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("exit 3", "Prefect's database could not be created: exit code 3"),
        ("echo; echo ' ' >&2; exit 4", "Prefect's database could not be created: exit code 4"),
        ("echo first; echo last >&2; exit 1", "Prefect's database could not be created: last"),
        ("printf '\\377 broken'; exit 1", "Prefect's database could not be created: \N{REPLACEMENT CHARACTER} broken"),
        ("kill -9 $$", "Prefect's database could not be created: exit code -9"),
    ],
)
def test_failing_child_is_one_sentence_whatever_it_prints(
    script: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_HOME"):  # the functions set them
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("PREFECT_HOME")
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\n{script}\n")
    child.chmod(0o755)
    home = Home(load_settings(tmp_path / "home"))
    monkeypatch.setattr(sys, "executable", str(child))
    with pytest.raises(HomeError) as refused:
        create_databases(home)
    assert refused.value.message == sentence
    assert not (tmp_path / "home" / MARKER).exists()
    home.database.engine.dispose()
