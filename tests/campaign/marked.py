"""The tests that are marked `campaign`: those that are too long for `make test`, file by file while time is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.campaign.kills import Line

ROOT = Path(__file__).parents[2]
PYTEST = """
import signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(pytest.main(sys.argv[1:]))
"""
"""A shell's background jobs ignore SIGINT, and so would the tests that are to be broken off."""
IN_CONTAINERS = "test_container_training.py"
FIRST = {
    IN_CONTAINERS: 100, "test_ladder.py": 40, "test_recipes.py": 150, "test_killed_pages.py": 420,
    "test_prefect.py": 250, "test_tuning.py": 250, "test_admission.py": 150, "test_loop.py": 120,
}  # fmt: skip
"""What is proved nowhere else comes first, with the seconds that it took on two cores."""
LEAST = 60.0
"""Seconds that must be left for any other file."""


def run(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """All files but that of trainings in containers."""
    return _run([file for file in _files() if file.name != IN_CONTAINERS], seconds)


def run_in_containers(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """Trainings in containers that are cancelled and orphaned; the other ends of one are in `make test`."""
    return _run([ROOT / "tests" / "integration" / IN_CONTAINERS], seconds)


def _run(files: list[Path], seconds: float) -> list[Line]:
    """A line for each file that came to its end or failed; one that time broke off is left out, and said."""
    until = time.monotonic() + seconds
    lines = [] if files else [Line("marked tests", checked=1, failed=1, violations=["none was found"])]
    for file in files:
        left = until - time.monotonic()
        if left < FIRST.get(file.name, LEAST):
            print(f"  left out: {file.name}, {left:.0f} s are left", flush=True)
            continue
        began = time.monotonic()
        command = [sys.executable, "-c", PYTEST, "--exitfirst", "-m", "campaign", str(file)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
            try:
                told, _ = tests.communicate(timeout=left)
            except subprocess.TimeoutExpired:
                tests.send_signal(signal.SIGINT)  # what the tests started is ended by themselves
                with suppress(subprocess.TimeoutExpired):
                    tests.communicate(timeout=LEAST)
                tests.kill()
                print(f"  broken off: {file.name} after {left:.0f} s", flush=True)
                continue
        last = (told.strip().splitlines() or ["nothing was run"])[-1]
        print(f"  {file.name}: {time.monotonic() - began:.0f} s, {last}", flush=True)
        line = Line(file.stem, checked=1)
        if tests.returncode:
            line.failed = 1
            line.violations.append(told[-2000:])
        lines.append(line)
    return lines


def _files() -> list[Path]:
    """Those that have such tests, the first ones first."""
    order = list(FIRST)
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "campaign", "--durations=0"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = sorted({line.partition("::")[0].partition(": ")[0] for line in told.stdout.splitlines() if ".py" in line})
    return sorted(
        (ROOT / name for name in names), key=lambda file: order.index(file.name) if file.name in order else len(order)
    )
