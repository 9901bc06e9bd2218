"""`academy habitat metrics`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from academy.commands.output import emit, say, table
from academy.errors import InputError
from academy.habitat.metrics import Metrics, TrainingMetricsParser, lines_of

PIECE = 1 << 16


def metrics(file: Path, *, as_json: bool) -> None:
    """What a foreign trainer's log says, in memory that does not grow with it."""
    parser = TrainingMetricsParser()
    lines = 0

    def read(stream: BinaryIO) -> Iterator[Metrics]:
        nonlocal lines
        for line in lines_of(iter(lambda: stream.read(PIECE), b"")):
            lines += 1
            if (found := parser.parse_line(line)) is not None:
                yield found

    if str(file) == "-":
        summary = parser.aggregate_metrics(read(sys.stdin.buffer))
    elif not file.is_file():
        raise InputError(f"There is no file {file}.", "Check the path; '-' reads what another program prints.")
    else:
        with file.open("rb") as stream:
            summary = parser.aggregate_metrics(read(stream))
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
