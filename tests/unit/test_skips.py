"""Skips are counted with their reasons, and in CI a skip that is not expected fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import is_expected

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests.skips import register
def pytest_configure(config): register(config)
"""
TESTS = """
import pytest
@pytest.mark.parametrize("n", range(3))
def test_gpu(n): pytest.skip("no GPU: none that torch can use")
def test_known_fault():
    pytest.xfail("a known fault is not a skip")
def test_mood(): pytest.skip({reason!r})
def test_fine(): pass
"""


def run(folder: Path, reason: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of a file of its own whose last test skips for this reason."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_some.py").write_text(TESTS.format(reason=reason))
    inherited = {name: value for name, value in os.environ.items() if name not in ("CI", "DOCKER_HOST")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
        cwd=folder, env={**inherited, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_an_unexpected_skip_fails_a_run_in_ci_with_workers(tmp_path: Path) -> None:
    ended = run(tmp_path, "Monday", "-n", "2", CI="true")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "   3 no GPU: none that torch can use\n" in ended.stdout
    assert "   1 Monday  <- not expected: see tests/skips.py\n" in ended.stdout
    assert "   4 skipped in all, 1 unexpected reasons\n" in ended.stdout


def test_an_unexpected_skip_is_only_shown_outside_ci(tmp_path: Path) -> None:
    ended = run(tmp_path, "Monday")
    assert ended.returncode == pytest.ExitCode.OK, ended.stdout
    assert "   1 Monday  <- not expected: see tests/skips.py\n" in ended.stdout


@pytest.mark.parametrize("reason", ["no Docker engine: silence", "no docker sandbox: silence"])
def test_a_silent_engine_is_no_reason_to_skip_where_ci_has_started_one(reason: str) -> None:
    engine = {"DOCKER_HOST": "unix:///run/engine.sock"}
    assert is_expected(reason, engine)
    assert is_expected(reason, {"CI": "true"})
    assert not is_expected(reason, {"CI": "true"} | engine)


def test_missing_bubblewrap_is_no_reason_to_skip_in_ci_and_forbidden_namespaces_are(tmp_path: Path) -> None:
    reason = "no bubblewrap sandbox: namespaces are forbidden"
    (tmp_path / "bwrap").write_text("#!/bin/sh\n")
    (tmp_path / "bwrap").chmod(0o755)
    assert is_expected(reason, {"PATH": "/nowhere"})
    assert not is_expected(reason, {"CI": "true", "PATH": "/nowhere"})
    assert is_expected(reason, {"CI": "true", "PATH": str(tmp_path)})


def test_a_reason_that_is_not_listed_is_expected_nowhere() -> None:
    assert is_expected("root only", {"CI": "true"})
    assert not is_expected("Monday", {})
