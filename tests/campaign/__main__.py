"""`python -m tests.campaign --budget SECONDS [--seed N] [--rounds N]`: the long tests, in order of value.

Each part gets its share of the seconds and returns lines of a table. The last line printed is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.campaign import hostile, kills, marked, postgres, promotions, store, tutorial
from tests.campaign.kills import Line


@dataclass(frozen=True)
class Part:
    """A part of the campaign: its share of the remaining budget, and a function that runs it within so many seconds."""

    name: str
    share: float
    run: Callable[[float, int, int], list[Line]]


# First what no other step of CI tests, and all attacks; then the tutorial, if the budget allows it as a whole; the
# kills use the rest.
PARTS = (
    Part("trainings in containers", 1.0, marked.run_in_containers),
    Part("attacks", 0.5, marked.run_attacks),
    Part("tutorial", 1.0, tutorial.run),
    Part("marked tests", 0.4, marked.run),
    Part("PostgreSQL", 1.0, postgres.run),
    Part("store", 0.5, store.run),
    Part("hostile", 0.5, hostile.run),
    Part("hostile, in Docker", 0.12, hostile.run_in_docker),
    Part("promotions", 0.5, promotions.run),
    Part("kills", 1.0, kills.run),
)


def main() -> int:
    """Run what the budget allows and print a table. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description="The long tests.")
    parser.add_argument("--budget", type=float, default=1800, help="seconds for all parts together")
    parser.add_argument("--seed", type=int, default=7, help="draws the moments of the kills")
    parser.add_argument("--rounds", type=int, default=3, help="kills in each stage, if the budget allows")
    arguments = parser.parse_args()
    until = time.monotonic() + arguments.budget
    lines: list[Line] = []
    for part in PARTS:
        print(f"{part.name}:", flush=True)
        lines += part.run((until - time.monotonic()) * part.share, arguments.seed, arguments.rounds)
    _table(lines)
    failures = sum(line.failed for line in lines)
    print(f"{sum(line.checked for line in lines) - failures} passed, {failures} failed")
    return 1 if failures else 0


def _table(lines: list[Line]) -> None:
    width = max(len(line.stage) for line in lines)
    print(f"\n{'stage':<{width}}  kills  reruns  violations")
    for line in lines:
        print(f"{line.stage:<{width}}  {line.kills:>5}  {line.reruns:>6}  {len(line.violations):>10}")
    for line in lines:
        for number, sentence in enumerate(line.violations):
            print(f"{'violated:' if not number else '         '} {line.stage}: {sentence}")
    print()


if __name__ == "__main__":
    sys.exit(main())
