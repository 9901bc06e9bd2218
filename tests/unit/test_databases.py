"""`academy init` prepares the databases once for each version, and reports a child process that fails in silence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from academy.errors import HomeError
from academy.loop.home import Home
from academy.operations.databases import MARKER, create_databases
from academy.settings import load_settings

FAILURES = {
    "exit 3": "exit code 3",
    "echo; echo ' ' >&2; exit 4": "exit code 4",
    "echo first; echo last >&2; exit 1": "last",
    "printf '\\377 broken'; exit 1": "\N{REPLACEMENT CHARACTER} broken",
    "kill -9 $$": "exit code -9",
}
"""What a child does, and what is said of it."""


@pytest.mark.slow
def test_failing_child_is_one_sentence_whatever_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "PREFECT_HOME"):  # the functions set them
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("PREFECT_HOME")
    child = tmp_path / "python"
    home = Home(load_settings(tmp_path / "home"))
    monkeypatch.setattr(sys, "executable", str(child))
    sentences = {}
    for script in FAILURES:
        child.write_text(f"#!/bin/sh\n{script}\n")
        child.chmod(0o755)
        with pytest.raises(HomeError) as refused:
            create_databases(home)
        sentences[script] = refused.value.message
        assert not (tmp_path / "home" / MARKER).exists()
    home.database.engine.dispose()
    assert sentences == {
        script: f"Prefect's database could not be created: {reason}" for script, reason in FAILURES.items()
    }
