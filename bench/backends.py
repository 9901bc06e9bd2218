"""`python -m bench.backends [--rounds N] [--anyway]`: seconds that a container needs more than a process.

It trains the same order in a process and in a container in turn, each time from the beginning, and prints the medians
of wall seconds from the call to the adapter, and whether all adapters are equal. It needs an engine (DOCKER_HOST) and
the image of `academy trainer --make-image`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import orjson

from academy.habitat.backends.base import TrainingBackend, TrainingOrder
from academy.habitat.backends.container import ContainerBackend
from academy.habitat.backends.isolation import limits_here
from academy.habitat.backends.process import ProcessBackend
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file
from bench.machine import too_busy

ROWS = 60
RECIPE = Recipe(rank=8, alpha=16, epochs=2, learning_rate=5e-3, batch_size=4, accumulation=1, max_length=128)


def main() -> int:
    """Train in turn, and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.backends", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--anyway", action="store_true")
    given = parser.parse_args()
    if too_busy():
        return 2
    os.environ["OMP_NUM_THREADS"] = "1"
    seconds: dict[str, list[float]] = {"process": [], "container": []}
    adapters = set()
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        file = home / "train.jsonl"
        rows = [{"instruction": f"request {n}", "input": "", "output": f"answer {n % 7}"} for n in range(ROWS)]
        file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        for number in range(given.rounds):
            for name, taken in seconds.items():
                place_of = home / f"{name}-{number}"
                order = TrainingOrder(
                    base=resolve("seed"), dataset="0" * 64, train_file=file, train_digest=digest_of_file(file),
                    recipe=RECIPE, runs=place_of / "runs", adapters=place_of / "adapters",
                )  # fmt: skip
                backend: TrainingBackend = ProcessBackend(gpu="")
                if name == "container":
                    backend = ContainerBackend(home, limits=limits_here())
                began = time.monotonic()
                last = list(backend.train(order))[-1]
                taken.append(time.monotonic() - began)
                if last.phase != "done":
                    print(f"{name}: {last.message}")
                    return 1
                adapters.add(last.adapter)
                print(f"{name}: {taken[-1]:.1f} s", flush=True)
    process, container = (statistics.median(seconds[name]) for name in ("process", "container"))
    same = "the same bytes" if len(adapters) == 1 else f"{len(adapters)} different adapters"
    print(f"process {process:.1f} s, container {container:.1f} s: {container - process:+.1f} s, {same}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
