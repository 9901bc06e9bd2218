"""`python -m bench.identity`: is every way of not being the adapter found, and called by name?

Two adapters of the seed model are trained by the real trainer. Each row is one thing that went wrong between the
adapter's files and the engine that answers; the engine is a server of the runtime's protocol with the real model
behind it, which loads what it is given. `academy.serving.identity` sees it through the runtime alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from academy.adapters.adapter import Adapter
from academy.models.base_model import resolve
from academy.serving.identity import Identity, check_identity
from academy.serving.runtimes.vllm import TOLERANCE, VllmRuntime
from tests.servers.adapters import CHANGES, FINE, SUBTLE, in_other_words, seen, trained
from tests.servers.engine import Engine
from tests.servers.serving import served
from tests.servers.vllm import vllm


def main() -> int:
    """Print the table; 1 where a row has a wrong reason."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = list(table(Path(place)))
    print(f"{'what went wrong':32} {'said':24} {'same':>5} {'difference':>11} {'seconds':>8}  right")
    for name, found, seconds, right in rows:
        moved = "-" if found.difference is None else f"{found.difference:.4f}"
        print(
            f"{name:32} {found.reason:24} {found.same}/{found.asked:<3} {moved:>11} {seconds:8.2f}  "
            f"{'yes' if found.reason in right else 'NO'}"
        )
        print(f"    {found.sentence}")
    return 0 if all(found.reason in right for _, found, _, right in rows) else 1


def table(place: Path) -> list[tuple[str, Identity, float, set[str]]]:
    """Every row: its name, what was found, seconds, and the reasons that are right."""
    adapter, other = trained(place / "trained")
    base = resolve("seed")
    rows = []
    for n, (name, (change, right)) in enumerate(CHANGES.items()):
        folder = seen(adapter, place / f"seen-{n}", change)
        found = _timed(adapter, adapter.path, folder, Engine(base.path), FINE if name in SUBTLE else TOLERANCE)
        rows.append((name, *found, right))
    folder = place / "seen-other" / adapter.path.name
    folder.parent.mkdir()
    seen(other, place / "other").rename(folder)
    rows.append(
        ("another adapter's files", *_timed(adapter, adapter.path, folder, Engine(base.path)), {"another adapter"})
    )
    rows += [
        (
            f"base perturbed by {noise}",
            *_timed(adapter, adapter.path, adapter.path, Engine(base.path, perturbed=noise)),
            right,
        )
        for noise, right in ((0.02, {"another base", "broken weights"}), (0.1, {"another base"}))
    ]
    for bits, tolerance in ((8, 0.1), (4, 0.3)):
        for name, theirs, right in (
            ("nothing", adapter.path, {"holds"}),
            ("lora_B zeroed", place / "seen-1" / adapter.path.name, {"adapter without effect"}),
            ("another adapter's files", folder, {"another adapter"}),
        ):
            found = _timed(adapter, adapter.path, theirs, Engine(base.path, bits=bits), tolerance)
            rows.append((f"{bits} bits, {name}", *found, right))
    words = in_other_words(adapter, place / "words")
    rows.append(("another template", *_timed(adapter, words, words, Engine(base.path)), {"another template"}))
    return rows


def _timed(
    adapter: Adapter, ours: Path, theirs: Path, engine: Engine, tolerance: float = TOLERANCE
) -> tuple[Identity, float]:
    """Load from `ours`, while the server reads `theirs`; then look who answers."""

    async def work(url: str) -> tuple[Identity, float]:
        runtime = VllmRuntime(url, resolve("seed"), seen_as=str(theirs.parent), tolerance=tolerance)
        await runtime.start()
        await runtime.load(ours)
        began = time.perf_counter()
        found = await check_identity(runtime, adapter)
        seconds = time.perf_counter() - began
        await runtime.close()
        return found, seconds

    base = resolve("seed")
    with served(vllm(engine, "seed", str(base.path))) as url:
        return asyncio.run(work(url))


if __name__ == "__main__":
    sys.exit(main())
