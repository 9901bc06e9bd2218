"""`python -m bench.identity`: is each fault between an adapter and its answers detected and named?

The real trainer trains two adapters of the seed model. Each row is one fault between the adapter's files and the engine
that answers. The engine is a server of the runtime's protocol with the real model behind it, which loads any files.
`academy.serving.identity` sees it only through the runtime.
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
    """Print the table. Returns 1 if a row has a wrong reason."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as place:
        rows = list(table(Path(place)))
    print(f"{'fault':32} {'reason':24} {'same':>5} {'difference':>11} {'seconds':>8}  right")
    for name, identity, seconds, right in rows:
        difference = "-" if identity.difference is None else f"{identity.difference:.4f}"
        print(
            f"{name:32} {identity.reason:24} {identity.same}/{identity.asked:<3} {difference:>11} {seconds:8.2f}  "
            f"{'yes' if identity.reason in right else 'NO'}"
        )
        print(f"    {identity.sentence}")
    return 0 if all(identity.reason in right for _, identity, _, right in rows) else 1


def table(place: Path) -> list[tuple[str, Identity, float, set[str]]]:
    """All rows: name, identity, seconds, and the correct reasons."""
    adapter, other = trained(place / "trained")
    base = resolve("seed")
    rows = []
    for n, (name, (change, right)) in enumerate(CHANGES.items()):
        folder = seen(adapter, place / f"seen-{n}", change)
        measurement = _timed(adapter, adapter.path, folder, Engine(base.path), FINE if name in SUBTLE else TOLERANCE)
        rows.append((name, *measurement, right))
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
            measurement = _timed(adapter, adapter.path, theirs, Engine(base.path, bits=bits), tolerance)
            rows.append((f"{bits} bits, {name}", *measurement, right))
    template = in_other_words(adapter, place / "words")
    rows.append(("another template", *_timed(adapter, template, template, Engine(base.path)), {"another template"}))
    return rows


def _timed(
    adapter: Adapter, ours: Path, theirs: Path, engine: Engine, tolerance: float = TOLERANCE
) -> tuple[Identity, float]:
    """Load from `ours` while the server reads `theirs`, then check the identity."""

    async def work(url: str) -> tuple[Identity, float]:
        runtime = VllmRuntime(url, resolve("seed"), seen_as=str(theirs.parent), tolerance=tolerance)
        await runtime.start()
        await runtime.load(ours)
        began = time.perf_counter()
        identity = await check_identity(runtime, adapter)
        seconds = time.perf_counter() - began
        await runtime.close()
        return identity, seconds

    base = resolve("seed")
    with served(vllm(engine, "seed", str(base.path))) as url:
        return asyncio.run(work(url))


if __name__ == "__main__":
    sys.exit(main())
