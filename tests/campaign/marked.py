"""The tests that are marked `campaign`: those that are too long for `make test`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.campaign.kills import Line

SECONDS = 1200.0
"""What they may take; not measured as a whole since the engines of others joined them."""


def run(seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """Run them, or say that the budget is too small."""
    line = Line("marked tests")
    if seconds < SECONDS:
        print(f"  left out: they need {SECONDS:.0f} s, {seconds:.0f} s are left", flush=True)
        return [line]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "campaign"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=seconds,
    )  # fmt: skip
    print(f"  {(done.stdout.strip().splitlines() or ['nothing was run'])[-1]}", flush=True)
    line.checked = 1
    if done.returncode:
        line.failed = 1
        line.violations.append(done.stdout[-2000:])
    return [line]
