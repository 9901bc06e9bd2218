"""`python -m bench.gpu [--shapes small,8b] [--grid SECONDS] [--out FILE]`: a GPU's training speed and memory use.

Each line is a real training by the trainer program, of a randomly initialised model (what is learned does not affect
speed): plain TRL, TRL with packing, and Unsloth if it is installed.

Speed: all ways train on the same rows, whose lengths are distributed as in lessons. The result is in tokens per second
without padding: the tokens of all steps after the warm-up divided by the seconds of those steps, without steps during
which a checkpoint was written or an evaluation ran. A single step means little, because the trainer sorts rows by
length. MFU is 4 operations per parameter and token, divided by the GPU's dense peak in bfloat16; recomputation by
checkpointing counts as zero.

Memory: the peak that torch reserved and the predicted peak, for these trainings and over a grid of batch, length, rank
and way with a few steps each. Points of the grid train in parallel, because each program has its own memory.

A failure of one way is one line, and the next ways are still measured. Lines are written as they are measured, so an
interrupted run keeps its results. On a machine without a GPU it runs only the seed model's shape: this shows that the
benchmark works, not how fast anything is.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import orjson

from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.memory import GIB, default_plan, predict, read_shape, without_checkpointing
from academy.models.base_model import BaseModel, resolve
from academy.models.chat_template import ChatTemplate, Message
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file
from academy.system.hardware import Inventory, take_inventory
from bench.memory import make_model

SHAPES: dict[str, dict[str, Any]] = {
    "seed": {},
    "small": {"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
              "num_attention_heads": 32, "num_key_value_heads": 8},
    "8b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8},
}  # fmt: skip
WAYS = {"TRL": ("trl", False), "TRL, packing": ("trl", True), "Unsloth": ("unsloth", False),
        "Unsloth, packing": ("unsloth", True)}  # fmt: skip
"""Library, and whether rows are packed."""
LIBRARIES = ("torch", "transformers", "trl", "peft", "unsloth")
PEAKS = {"H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations per second, as published. The first key that the GPU's name contains counts."""
LONGEST = 4096
BATCH = 2
"""Packed, 8,192 tokens per step, as in the professor's recipes."""
TYPICAL = 400
"""Tokens of the median example; a sixth have more than 1,000, some fill the longest row."""
GPU_STEPS, CPU_STEPS = 56, 18
WARM_UP = 6
"""One of this many steps is warm-up."""
GRIDS = {
    "cuda": ("small", (1, 4, 8), (512, 2048), (8, 64)),
    "cpu": ("seed", (1, 8), (128, 512), (8,)),
}
"""Shape, batches, lengths, ranks."""
NO_STEP = "no step within its time"
GRID_STEPS = 3
"""AdamW's moments exist from the second step on."""


@dataclass(frozen=True)
class Clock:
    """When everything must end, by time.monotonic."""

    until: float

    @property
    def left(self) -> float:
        """Seconds; negative after the end."""
        return self.until - time.monotonic()

    def within(self, seconds: float) -> Clock:
        """A clock that ends in so many seconds, and not later than this one."""
        return Clock(min(self.until, time.monotonic() + seconds))


class Told:
    """Writes lines of JSON as they arrive, also into a file if there is one."""

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self.lines: list[dict[str, Any]] = []
        self._one = threading.Lock()
        if out:
            out.write_bytes(b"")

    def add(self, line: dict[str, Any]) -> None:
        """Keep, write and print a line."""
        with self._one:
            self.lines.append(line)
            if self.out:
                with self.out.open("ab") as stream:
                    stream.write(orjson.dumps(line) + b"\n")
            print(sentence(line), flush=True)

    @property
    def failed(self) -> bool:
        """Whether any measurement failed."""
        return any(line.get("failed") for line in self.lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all trainings and print each result. Returns 1 if any of them failed."""
    machine = take_inventory(engine=False)
    on_gpu = bool(machine.gpus and machine.cuda)
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="small,8b" if on_gpu else "seed", help="'none' for only the grid")
    parser.add_argument("--ways", default=";".join(ways_here(machine)), help="separated by semicolons")
    parser.add_argument("--steps", type=int, default=GPU_STEPS if on_gpu else CPU_STEPS, help="steps of packed rows")
    parser.add_argument("--seconds", type=float, default=150, help="limit for one way of one shape")
    parser.add_argument("--grid", type=float, default=180 if on_gpu else 0, help="seconds for the grid; 0: no grid")
    parser.add_argument("--at-once", type=int, default=4 if on_gpu else 1, help="points of the grid in parallel")
    parser.add_argument("--budget", type=float, default=3600, help="seconds in total; the rest is skipped")
    parser.add_argument("--out", type=Path, help="file for lines of JSON")
    given = parser.parse_args(arguments)
    shapes = [] if given.shapes == "none" else given.shapes.split(",")
    ways = given.ways.split(";")
    for names, known in ((shapes, list(SHAPES)), (ways, list(WAYS))):
        for name in names:
            if name not in known:
                parser.error(f"{name!r} is not one of {'; '.join(known)}")
    clock = Clock(time.monotonic() + given.budget)
    told = Told(given.out)
    versions = {name: version(name) for name in LIBRARIES if find_spec(name)}
    told.add({"kind": "machine", "device": device(machine), "cuda": machine.cuda, "versions": versions})
    if given.grid:  # first: it is short, and shows how reliable the predictions of the others are
        grid(machine, ways, clock.within(given.grid), given.at_once, told)
    speeds(machine, {shape: SHAPES[shape] for shape in shapes}, ways, given.steps, given.seconds, clock, told)
    print(table(told.lines), flush=True)
    return 1 if told.failed else 0


def ways_here(machine: Inventory) -> list[str]:
    """The ways that this machine supports."""
    there = bool(machine.gpus and machine.cuda) and find_spec("unsloth") is not None
    return [way for way, (library, _) in WAYS.items() if there or library != "unsloth"]


def device(machine: Inventory) -> str:
    """The name of the device."""
    return machine.gpus[0].name if machine.gpus and machine.cuda else f"{machine.cpus} CPUs"


def peak_of(name: str) -> float | None:
    """Operations per second of the device with this name; None if unknown."""
    return next((peak for mark, peak in PEAKS.items() if mark in name), None)


def speeds(
    machine: Inventory, shapes: Mapping[str, dict[str, Any]], ways: Sequence[str], steps: int, seconds: float,
    clock: Clock, told: Told,
) -> None:  # fmt: skip
    """Measure each shape with each way."""
    for shape, config in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            places = [(way, {"kind": "speed", "shape": shape, "way": way}) for way in ways]
            if clock.left < 0:
                tell_left_out(places, told)
                continue
            print(f"{shape}: making the model", flush=True)
            try:
                base = made(config, Path(folder))
                rows = spread(base, steps)
            except Exception as problem:  # noqa: BLE001  the next shapes are still measured
                told.add({"kind": "speed", "shape": shape, "way": "none", "failed": said(problem)})
                continue
            longest = min(LONGEST, base.context)
            recipe = Recipe(epochs=1, batch_size=BATCH, accumulation=1, max_length=longest)
            for number, (way, place) in enumerate(places):
                if clock.left < 0:
                    tell_left_out(places[number:], told)
                    break
                found = place | carefully(machine, base, rows, recipe, way, Path(folder) / str(number),
                                          clock.within(seconds), warm=max(2, steps // WARM_UP))  # fmt: skip
                if found.get("rate") and (peak := peak_of(device(machine))):
                    found["mfu"] = 4 * base.parameters * found["rate"] / peak
                told.add(found)


def grid(machine: Inventory, ways: Sequence[str], clock: Clock, at_once: int, told: Told) -> None:
    """Measure the peak at each point of the grid, in an order that covers all kinds of points if time runs out."""
    shape, batches, lengths, ranks = GRIDS["cuda" if machine.gpus and machine.cuda else "cpu"]
    points = list(product(batches, lengths, ranks, ways))
    random.Random(7).shuffle(points)
    with tempfile.TemporaryDirectory() as folder:
        try:
            base = made(SHAPES[shape], Path(folder))
        except Exception as problem:  # noqa: BLE001  the speeds are still measured
            told.add({"kind": "grid", "shape": shape, "failed": said(problem)})
            return

        def point(number: int) -> None:
            batch, length, rank, way = points[number]
            place = {"kind": "grid", "shape": shape, "way": way, "batch": batch, "length": length, "rank": rank}
            if clock.left < 0:
                tell_left_out([(way, place)], told)
                return
            recipe = Recipe(rank=rank, epochs=1, batch_size=batch, accumulation=1, max_length=length)
            rows = half_full(base, batch, length)
            found = carefully(machine, base, rows, recipe, way, Path(folder) / str(number), clock,
                              enough=GRID_STEPS, at_once=at_once)  # fmt: skip
            if found["failed"] == NO_STEP:  # the grid's time ended before its first step
                tell_left_out([(way, place)], told)
            else:
                told.add(place | found)

        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(point, range(len(points))))


def made(config: dict[str, Any], folder: Path) -> BaseModel:
    """The model of a shape; without a configuration, the seed model."""
    return resolve(str(make_model(config, folder / "model")) if config else "seed")


def carefully(machine: Inventory, base: BaseModel, rows: Rows, *given: Any, **options: Any) -> dict[str, Any]:
    """The result of `measure`, or its failure."""
    try:
        return measure(machine, base, rows, *given, **options)
    except Exception as problem:  # noqa: BLE001  the next ways are still measured
        return {"failed": said(problem)}


def measure(
    machine: Inventory, base: BaseModel, rows: Rows, recipe: Recipe, way: str, folder: Path, clock: Clock, *,
    warm: int = 0, enough: int = 0, at_once: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Measure one training, ended by the clock or after `enough` steps. Each of `at_once` gets a part of the memory."""
    folder.mkdir()
    library, packing = WAYS[way]
    recipe = recipe.model_copy(update={"packing": packing})
    on_gpu = bool(machine.gpus and machine.cuda)
    plan = default_plan("cuda" if on_gpu else "cpu").model_copy(update={"library": library})
    shape, longest = read_shape(base.path), max(rows.tokens)
    free = (machine.gpus[0].memory_free or 0) // at_once if on_gpu else 0
    plan = without_checkpointing(shape, recipe, plan, free, longest=longest)
    file = folder / "train.jsonl"
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows.rows))
    order = TrainingOrder(
        base=base, dataset="0" * 64, train_file=file, train_digest=digest_of_file(file), recipe=recipe, plan=plan,
        runs=folder / "runs", adapters=folder / "adapters",
    )  # fmt: skip
    began = time.monotonic()
    events = list(train(order, clock, enough))
    cut = events[-1].cause == "cancelled"
    prediction = predict(shape, recipe, plan, longest=longest)
    steps = max(event.steps for event in events)
    found = throughput(events, warm, sum(rows.tokens) / steps if steps else 0)
    return {
        "parameters": base.parameters,
        "examples": len(rows.rows),
        "tokens": sum(rows.tokens),
        "steps": steps,
        "checkpointing": plan.checkpointing,
        "rate": found.tokens / found.seconds if found.seconds else None,
        "counted": {"tokens": round(found.tokens), "seconds": found.seconds, "steps": found.steps, "cut": cut},
        "measured": max((event.memory or 0 for event in events), default=0),
        "predicted": prediction.measurable,
        "prediction": prediction.model_dump(mode="json", exclude={"device", "note"}),
        "seconds": time.monotonic() - began,
        "failed": failure(events, cut=cut),
    }


def train(order: TrainingOrder, clock: Clock, enough: int) -> Iterator[TrainingEvent]:
    """Yield its events until the clock or `enough` steps end it."""
    backend = ProcessBackend()
    alarm = threading.Timer(max(0.0, clock.left), backend.cancel, [order])
    alarm.start()
    try:
        for event in backend.train(order):
            yield event
            if enough and event.phase == "step" and event.step >= enough:
                backend.cancel(order)
    finally:
        alarm.cancel()


def failure(events: Sequence[TrainingEvent], *, cut: bool) -> str:
    """Why it failed; empty if it ended normally, or was interrupted after a measurement."""
    if cut:
        return "" if any(event.phase == "step" for event in events) else NO_STEP
    return "" if events[-1].phase == "done" else events[-1].message


@dataclass(frozen=True)
class Throughput:
    """The tokens, seconds and steps that count."""

    tokens: float
    seconds: float
    steps: int


def throughput(events: Iterable[TrainingEvent], warm: int, each: float) -> Throughput:
    """Sum the steps after the warm-up that follow each other directly.

    The interval around another event (a checkpoint, an evaluation) does not count. `each`: tokens of an average step,
    for events without a rate.
    """
    tokens = seconds = 0.0
    steps = 0
    last: TrainingEvent | None = None
    for event in events:
        if event.phase != "step" or event.loss is None:
            last = None
            continue
        if last and last.step >= warm and event.step > last.step:
            passed = event.at - last.at
            tokens += event.rate * passed if event.rate else each * (event.step - last.step)
            seconds += passed
            steps += event.step - last.step
        last = event
    return Throughput(tokens, seconds, steps)


@dataclass(frozen=True)
class Rows:
    """Examples and the number of tokens of each."""

    rows: list[dict[str, Any]]
    tokens: list[int]


def spread(base: BaseModel, steps: int) -> Rows:
    """Enough rows for so many packed steps. Lengths are distributed as in lessons: most are short, some fill a row."""
    longest = min(LONGEST, base.context)
    chance = random.Random(7)
    wanted: list[int] = []
    while sum(wanted) < steps * BATCH * longest:
        typical = TYPICAL * longest / LONGEST
        wanted.append(round(min(longest, typical * chance.lognormvariate(0, 1))))
    return rows_of(base, wanted)


def half_full(base: BaseModel, batch: int, length: int) -> Rows:
    """Half of the rows have full length, so almost every batch has one; the others share rows if they are packed."""
    chance = random.Random(7)
    return rows_of(base, [length if n % 2 else chance.randint(length // 8, length // 2) for n in range(4 * batch)])


def rows_of(base: BaseModel, lengths: Sequence[int]) -> Rows:
    """One example of about each length in tokens, and not longer."""
    template = ChatTemplate.of(base.path)

    def row(number: int, words: int) -> tuple[dict[str, Any], int]:
        messages: list[Message] = [
            {"role": "user", "content": f"{number:05}"}, {"role": "assistant", "content": "word " * words},
        ]  # fmt: skip
        prompt, answer = template.example(messages)
        return {"messages": messages}, len(prompt) + len(answer)

    few, many = row(0, 8)[1], row(0, 108)[1]
    each = (many - few) / 100
    rows, tokens = [], []
    for number, length in enumerate(lengths):
        words = max(1, int((length - few) / each) + 8)
        one, size = row(number, words)
        while size > length and words > 1:
            words -= 1
            one, size = row(number, words)
        rows.append(one)
        tokens.append(size)
    return Rows(rows, tokens)


def tell_left_out(places: Iterable[tuple[str, dict[str, Any]]], told: Told) -> None:
    """Add lines for measurements that had no time; this is not a failure."""
    for _, place in places:
        told.add(place | {"left_out": True})


def said(problem: Exception) -> str:
    """The error in one line."""
    first = (str(problem).strip().splitlines() or [""])[0]
    return f"{type(problem).__name__}: {first[:300]}"


def sentence(line: Mapping[str, Any]) -> str:
    """One line, for people."""
    if line["kind"] == "machine":
        versions = ", ".join(f"{name} {found}" for name, found in line["versions"].items())
        return f"{line['device']}, CUDA {line['cuda'] or 'none'}; {versions}"
    point = f", {line['batch']} x {line['length']}, rank {line['rank']}" if "batch" in line else ""
    name = f"{line['kind']}: {line['shape']}, {line.get('way', 'none')}{point}"
    if line.get("left_out"):
        return f"{name}: skipped, no time left"
    if line.get("failed"):
        return f"{name}: failed: {line['failed']}"
    memory = f"{line['measured'] / GIB:.2f} GiB ({line['predicted'] / GIB:.2f} predicted)"
    more = ", checkpointing" if line["checkpointing"] else ""
    if line["kind"] == "grid":
        return f"{name}: {memory}{more}"
    counted = line["counted"]
    rate = f"{line['rate']:,.0f} tokens/s" if line["rate"] else "no counted step"
    mfu = f", MFU {line['mfu']:.1%}" if line.get("mfu") else ""
    cut = ", interrupted" if counted["cut"] else ""
    return f"{name}: {rate}{mfu}, {counted['steps']} steps in {counted['seconds']:.1f} s, {memory}{more}{cut}"


def table(lines: Iterable[Mapping[str, Any]]) -> str:
    """Predicted against measured memory, in Markdown."""
    head = "| shape | way | batch x length, rank | checkpointing | predicted | measured | measured / predicted |"
    rows = [head, "|---|---|---|---|---:|---:|---:|"]
    for line in sorted(lines, key=lambda one: [str(one.get(name, "")) for name in ("kind", "shape", "way")]):
        if line["kind"] == "machine" or line.get("failed") or line.get("left_out"):
            continue
        point = f"{line['batch']} x {line['length']}, {line['rank']}" if "batch" in line else "speed"
        rows.append(
            f"| {line['shape']} | {line['way']} | {point} | {'yes' if line['checkpointing'] else 'no'} | "
            f"{line['predicted'] / GIB:.2f} | {line['measured'] / GIB:.2f} | "
            f"{line['measured'] / line['predicted']:.2f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
