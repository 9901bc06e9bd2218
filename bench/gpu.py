"""`python -m bench.gpu [--shapes small,8b] [--steps N] [--out FILE]`: how fast a GPU trains, beside its limit.

Each line is a real training by the trainer's own program, of a randomly initialised model (what is learned does not
matter for speed): plain TRL, TRL with packing, and Unsloth where it is installed. Told are tokens a second (median of
the second half of the steps), MFU (4 operations a parameter and token, by the GPU's dense peak in bfloat16), and the
peak of the memory beside what was predicted. Examples have mixed lengths, as lessons have: without packing the batch
is filled up with padding, and padding counts for nothing.

On a machine without a GPU it runs the seed model's shape only: that shows that it works, and no speed of anything.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from academy.artifacts import digest_of_file
from academy.base_model import BaseModel, resolve
from academy.habitat.backend import TrainingOrder
from academy.habitat.fit import GIB, Plan, predict, read_shape, usual_plan
from academy.habitat.hardware import take_inventory
from academy.habitat.process import ProcessBackend
from academy.professor import Recipe
from academy.template import ChatTemplate
from bench.memory import make_model

SHAPES: dict[str, dict[str, Any]] = {
    "seed": {},
    "small": {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
              "num_attention_heads": 32, "num_key_value_heads": 8},
    "8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 operations a second, as the makers say."""
LONGEST = 4096
BATCH = 4


def main() -> int:
    """Train, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    machine = take_inventory(engine=False)
    on_gpu = bool(machine.gpus and machine.cuda)
    name = machine.gpus[0].name if on_gpu else f"{machine.cpus} CPUs"
    peak = next((peak for mark, peak in PEAKS.items() if on_gpu and mark in name), None)
    shapes = given.shapes.split(",") if given.shapes else ["small", "8b"] if on_gpu else ["seed"]
    ways: dict[str, tuple[Plan, bool]] = {
        "TRL": (usual_plan("cuda" if on_gpu else "cpu").model_copy(update={"library": "trl"}), False),
        "TRL, packing": (usual_plan("cuda" if on_gpu else "cpu").model_copy(update={"library": "trl"}), True),
    }
    if on_gpu and find_spec("unsloth"):
        ways["Unsloth"] = (usual_plan("cuda").model_copy(update={"library": "unsloth"}), False)
    found: list[dict[str, Any]] = []
    print(f"{name}; tokens/s, MFU, GiB at the peak (predicted)", flush=True)
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            base = resolve(str(make_model(SHAPES[shape], Path(folder) / "model")) if SHAPES[shape] else "seed")
            for way, (plan, packing) in ways.items():
                one = measure(base, plan, Path(folder) / way.replace(", ", "-"), given.steps, packing=packing)
                one |= {"shape": shape, "way": way, "mfu": None}
                if peak and one["rate"]:
                    one["mfu"] = 4 * one["parameters"] * one["rate"] / peak
                found.append(one)
                tell(one)
                if given.out:
                    given.out.write_bytes(orjson.dumps({"device": name, "found": found}, option=orjson.OPT_INDENT_2))
    return 1 if any(one["failed"] for one in found) else 0


def tell(one: dict[str, Any]) -> None:
    """One line."""
    if one["failed"]:
        print(f"{one['shape']}, {one['way']}: {one['failed']}", flush=True)
        return
    mfu = f"{one['mfu']:.1%}" if one["mfu"] else "-"
    print(
        f"{one['shape']}, {one['way']}: {one['rate']:,.0f} {mfu} {one['measured'] / GIB:.1f} "
        f"({one['predicted'] / GIB:.1f})",
        flush=True,
    )


def measure(base: BaseModel, plan: Plan, folder: Path, steps: int, *, packing: bool) -> dict[str, Any]:
    """One training of so many steps at least. Lengths are spread as lessons' are: most are short, some very long."""
    folder.mkdir()
    chance = random.Random(7)
    longest = min(LONGEST, base.context)
    template = ChatTemplate.of(base.path)
    rows: list[dict[str, Any]] = []
    tokens: list[int] = []
    while len(rows) < 4096 and (sum(tokens) < steps * BATCH * longest if packing else len(rows) < steps * BATCH):
        words = min(longest // 2, max(8, round(chance.lognormvariate(4.5, 1))))
        row = {
            "messages": [
                {"role": "user", "content": f"{len(rows)}"},
                {"role": "assistant", "content": "word " * words},
            ]
        }
        size = sum(map(len, template.example(row["messages"])))
        if size <= longest:
            rows.append(row)
            tokens.append(size)
    file = folder / "train.jsonl"
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    recipe = Recipe(epochs=1, batch_size=BATCH, accumulation=1, max_length=longest, packing=packing)
    order = TrainingOrder(
        base=base, dataset="0" * 64, train_file=file, train_digest=digest_of_file(file), recipe=recipe, plan=plan,
        runs=folder / "runs", adapters=folder / "adapters",
    )  # fmt: skip
    events = list(ProcessBackend().train(order))
    rates = [event.rate for event in events if event.rate]
    prediction = predict(read_shape(base.path), recipe, plan, longest=max(tokens))
    return {
        "parameters": base.parameters,
        "rate": statistics.median(rates[len(rates) // 2 :]) if rates else None,
        "measured": max((event.memory or 0 for event in events), default=0),
        "predicted": prediction.measurable,
        "failed": "" if events[-1].phase == "done" else events[-1].message,
        "examples": len(rows),
        "tokens": sum(tokens),
    }


if __name__ == "__main__":
    sys.exit(main())
