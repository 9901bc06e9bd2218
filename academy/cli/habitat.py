"""`academy habitat metrics | fit`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from academy.cli.output import emit, say, table
from academy.errors import InputError
from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import Metrics, TrainingMetricsParser
from academy.habitat.memory import GIB
from academy.loop.choose_recipe import choose_recipe_for
from academy.loop.home import Home
from academy.loop.place import place
from academy.professor.recipe_options import RecipeOptions
from academy.records import canonical

PIECE = 1 << 16


def metrics(file: Path, *, events: bool = False, as_json: bool) -> None:
    """What a foreign trainer's log says, in memory that does not grow with it."""
    with _opened(file) as stream:
        text = split_lines(iter(lambda: stream.read(PIECE), b""))
        if events:
            for event in parse_events(text):
                sys.stdout.write(canonical(event).decode() + "\n")
            return
        parser = TrainingMetricsParser()
        lines = 0

        def read() -> Iterator[Metrics]:
            nonlocal lines
            for line in text:
                lines += 1
                if (found := parser.parse_line(line)) is not None:
                    yield found

        summary = parser.aggregate_metrics(read())
    if as_json:
        emit({"lines": lines, **summary.model_dump(mode="json")})
        return
    say(f"{summary.records:,} of {lines:,} lines tell of a training, {summary.losses:,} of them a loss.")
    if summary.diverged:
        say(f"{summary.diverged:,} times the loss was no finite number.")
    rows: list[tuple[str, float | int | None]] = [
        ("best loss", summary.best_loss),
        ("average loss", summary.average_loss),
        ("best evaluation loss", summary.best_eval_loss),
        *((f"latest {name.replace('_', ' ')}", value) for name, value in summary.latest.items()),
    ]
    if summary.records:
        table("Figures", ("what", "value"), [(name, f"{value:g}") for name, value in rows if value is not None])


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    if not file.is_file():
        raise InputError(f"There is no file {file}.", "Check the path; '-' reads what another program prints.")
    with file.open("rb") as stream:
        yield stream


def fit(base_model: str | None, length: int | None, options: RecipeOptions, *, as_json: bool) -> None:
    """The peak of a training on either kind of device, where it would run now, and the ladder below it."""
    home = Home.open(base_model)
    recipe = choose_recipe_for(home, length or home.base.context, options)
    found = place(home, recipe, length)
    if as_json:
        emit({
            "recipe": recipe.model_dump(mode="json"),
            "predictions": {
                name: one.model_dump(mode="json") | {"total": one.total} for name, one in found.predictions.items()
            },
            "route": found.route.model_dump(mode="json"),
            "ladder": [
                {"change": one.step.change, "device": one.step.plan.device, "need": one.need, "fits": one.fits}
                for one in found.fallbacks
            ],
        })  # fmt: skip
        return
    if found.predictions:
        columns = tuple(found.predictions.values())
        parts = ("weights", "adapter", "activations", "logits", "overhead")
        tokens = min(recipe.max_length, length or recipe.max_length)
        table(
            f"GiB at the peak: {recipe.batch_size} x {tokens} tokens, rank {recipe.rank}",
            ("what", *("GPU" if one.device == "cuda" else "CPU" for one in columns)),
            [
                *((part, *(_gib(getattr(one, part)) for one in columns)) for part in parts),
                ("earlier trainings", *(f"x {one.correction:.2f}" for one in columns)),
                ("all", *(_gib(one.total) for one in columns)),
            ],
        )
        if columns[0].note:
            say(f"Note: {columns[0].note}.")
    say(f"{found.expected[0].upper()}{found.expected[1:]}.")
    for step in found.fallbacks:
        say(f"  {'yes' if step.fits else 'no '}  {_gib(step.need)} GiB with {step.step.change}")


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
