"""The README's tutorial, command by command in a new home, after the evolution of `make evolve`.

`python -m tests.campaign.tutorial` prints the output that docs/tutorial.md shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from tests.campaign.kills import Line
from tests.documents import block_named

CHECKOUT = Path(__file__).parents[2]
SECONDS = 900.0
"""Three evolutions on two idle cores, with a margin."""
FIRST = ".venv/bin/academy evolve --lessons examples/lessons/01-2026-07-operations.jsonl --tasks examples/tasks.jsonl"
EXPECTED = {
    "02-2026-08-support": "PROMOTE",
    "04-2026-10-harmful": "REJECT",
    "academy rollback": "is champion again",
    "academy status": "Set aside after a REJECT",
}
"""What a command that contains the key must print."""


def commands() -> list[str]:
    """The commands of the README's tutorial, without the export that sets the home."""
    return [line for line in block_named("tutorial").lines if not line.startswith("export ")]


def run(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """Run the whole tutorial, or nothing if the budget is too small."""
    line = Line("tutorial")
    if seconds < SECONDS:
        print(f"  skipped: needs {SECONDS:.0f} s, {seconds:.0f} s remain", flush=True)
        return [line]
    home = Path(tempfile.mkdtemp(prefix="academy-tutorial-"))
    environment = {**os.environ, "ACADEMY_HOME": str(home), "ACADEMY_TRAINING_INTERVAL_HOURS": "0", "COLUMNS": "200"}
    line.checked = 1
    try:
        for command in [FIRST, *commands()]:
            began = time.monotonic()
            process = subprocess.run(
                ["bash", "-c", command], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False
            )
            print(f"  {time.monotonic() - began:6.1f} s  {command}", flush=True)
            expected = next((words for key, words in EXPECTED.items() if key in command), "")
            if process.returncode or expected not in process.stdout or "Traceback" in process.stderr:
                line.violations.append(
                    f"{command}: code {process.returncode}, {process.stdout[-300:]} {process.stderr[-300:]}"
                )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    line.failed = int(bool(line.violations))
    return [line]


def main() -> None:
    """Print the tutorial's commands with their output, as docs/tutorial.md shows them."""
    with tempfile.TemporaryDirectory(prefix="academy-tutorial-") as home:
        environment = {**os.environ, "ACADEMY_HOME": home, "ACADEMY_TRAINING_INTERVAL_HOURS": "0", "COLUMNS": "112"}
        for command in [FIRST, *commands()]:
            print(f"$ {command.removeprefix('.venv/bin/')}", flush=True)
            subprocess.run(
                ["bash", "-c", command], cwd=CHECKOUT, env=environment, stderr=subprocess.DEVNULL, check=True
            )
            print(flush=True)


if __name__ == "__main__":
    main()
