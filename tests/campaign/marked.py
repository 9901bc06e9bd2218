"""Runs tests file by file while there is time: those that `make test` leaves to the campaign, and all attacks."""

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
"""Background jobs of a shell ignore SIGINT. The tests must not, so that they can be interrupted."""
IN_CONTAINERS = "test_container_training.py"
ATTACKS = ROOT / "tests" / "attacks"
ATTACK_SECONDS = 300.0
"""A file of attacks that takes longer has failed: attacks are to be refused, not to hang."""
TRAINS = {"test_careless_review.py": 600.0, "test_folder.py": 450.0}
"""Files of attacks with trainings: they come last, take longer, and need half of it to begin."""
FIRST = {
    IN_CONTAINERS: 100, "test_fallback_steps.py": 40, "test_recipes.py": 150, "test_killed_pages.py": 420,
    "test_prefect.py": 250, "test_tuning.py": 250, "test_admission.py": 150, "test_loop.py": 120,
    "test_formats_fuzz.py": 55, "test_git_fuzz.py": 35, "test_templates_fuzz.py": 75, "test_secrets_fuzz.py": 90,
    "test_logs_fuzz.py": 35,
}  # fmt: skip
"""Files whose proofs exist nowhere else come first, with the seconds that they took on two cores."""
CHOSEN = {True: ("--maxfail=5",), False: ("--exitfirst", "-rP", "-m", "campaign")}
"""Options of pytest: for attacks, and for other files."""
FUZZERS = "_fuzz.py"
"""Their names end so, and the counts that they print are shown."""
LEAST, LEAST_OF_ATTACKS = 60.0, 20.0
"""Seconds that must remain for any other file, and for one of attacks."""


def run(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """All files except the trainings in containers and the attacks, which have parts of their own."""
    return _run([file for file in _files() if file.name != IN_CONTAINERS and file.parent != ATTACKS], seconds)


def run_in_containers(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """Trainings in containers that are cancelled or orphaned; `make test` has the other ways in which one ends."""
    return _run([ROOT / "tests" / "integration" / IN_CONTAINERS], seconds)


def run_attacks(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """All attacks, whether `make test` runs them, too, or not."""
    files = sorted(ATTACKS.glob("test_*.py"), key=lambda file: (TRAINS.get(file.name, 0.0), file.name))
    return _run(files, seconds, attacks=True)


def _run(files: list[Path], seconds: float, *, attacks: bool = False) -> list[Line]:
    """A line for each file that finished or failed. A file for which the time ran out is printed only."""
    until = time.monotonic() + seconds
    lines = [] if files else [Line("marked tests", checked=1, failed=1, violations=["no file has such tests"])]
    for file in files:
        remaining = until - time.monotonic()
        longest = TRAINS.get(file.name, ATTACK_SECONDS)
        least = TRAINS.get(file.name, 2 * LEAST_OF_ATTACKS) / 2 if attacks else FIRST.get(file.name, LEAST)
        if remaining < least:
            print(f"  skipped: {file.name}, {remaining:.0f} s remain", flush=True)
            continue
        began = time.monotonic()
        command = [sys.executable, "-c", PYTEST, *CHOSEN[attacks], str(file)]
        limit = min(remaining, longest) if attacks else remaining
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
            try:
                output, _ = tests.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                tests.send_signal(signal.SIGINT)  # the tests end the processes that they started
                with suppress(subprocess.TimeoutExpired):
                    tests.communicate(timeout=LEAST)
                tests.kill()
                print(f"  interrupted: {file.name} after {limit:.0f} s", flush=True)
                if limit < remaining:
                    lines.append(Line(file.stem, checked=1, failed=1, violations=[f"took over {limit:.0f} s"]))
                continue
        last = (output.strip().splitlines() or ["no test ran"])[-1]
        print(f"  {file.name}: {time.monotonic() - began:.0f} s, {last}", flush=True)
        if file.name.endswith(FUZZERS):
            print(*(f"    {text}" for text in output.splitlines() if "{" in text), sep="\n", flush=True)
        line = Line(file.stem, checked=1)
        if tests.returncode:
            line.failed = 1
            line.violations.append(output[-2000:])
        lines.append(line)
    return lines


def _files() -> list[Path]:
    """The files that have such tests, those of FIRST first."""
    order = list(FIRST)
    listing = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "campaign", "--durations=0"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = sorted(
        {line.partition("::")[0].partition(": ")[0] for line in listing.stdout.splitlines() if ".py" in line}
    )
    return sorted(
        (ROOT / name for name in names), key=lambda file: order.index(file.name) if file.name in order else len(order)
    )
