"""`academy habitat`: runs, status, logs, cancel, metrics, fit."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from academy.border.plain_text import plain_line
from academy.cli.home import open_home, settings
from academy.cli.options import Base, BatchSize, Json, Rank, RecipeFile
from academy.cli.output import emit, emit_line, gib, say, table
from academy.errors import InputError

if TYPE_CHECKING:
    from academy.loop.trainings import Training

app = typer.Typer(
    help="Show trainings, read trainers' logs, and estimate memory.", no_args_is_help=True, rich_markup_mode=None
)

Run = Annotated[
    str, typer.Argument(help="The first digits of the order's digest, the job's name, or a version (v7) it made.")
]
SHORT = 8
"""Digits that name a run in a table; the first ones are enough for the other commands."""
PIECE = 1 << 16


@app.command()
def runs(json: Json = False) -> None:
    """List the trainings of this home, newest first."""
    from academy.loop.trainings import list_trainings

    trainings = list_trainings(settings())
    if json:
        emit([
            {"run": training.run, "job": training.job, **training.progress.model_dump(mode="json")}
            for training in trainings
        ])  # fmt: skip
        return
    if not trainings:
        say("No trainings yet.")
        return
    table(
        "Trainings of this home",
        ("run", "job", "status", "step", "loss", "tokens/s", "trained", "left"),
        [
            (
                training.run[:SHORT],
                training.job or _start(progress.began),  # the name has the time, too
                progress.status,
                f"{progress.step} of {progress.steps}" if progress.steps else "",
                "" if progress.loss is None else f"{progress.loss:.4f}",
                "" if progress.rate is None else f"{progress.rate:,.0f}",
                _duration(progress.seconds),
                "" if progress.eta is None else _duration(progress.eta),
            )
            for training in trainings
            for progress in (training.progress,)
        ],
    )


@app.command()
def status(run: Run, json: Json = False) -> None:
    """Show the progress of a training: steps, losses, speed, time left, memory, energy, cost."""
    from academy.loop.trainings import training as find_training

    training = find_training(settings(), run)
    if json:
        emit(
            {
                "run": training.run,
                "job": training.job,
                "folder": str(training.folder),
                **training.progress.model_dump(mode="json"),
            }
        )
        return
    table(f"Training {training.run}", ("figure", "value"), [row for row in _rows(training) if row[1] is not None])
    if training.progress.error:
        say(training.progress.error)
    say(f"Order: {training.order_file}. Output: {training.output_file}.")


@app.command()
def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the log until the training ends.")] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --follow one object per line.")
    ] = False,
) -> None:
    """Print the log of a training with line numbers and times."""
    from academy.loop.trainings import training_log

    name, lines = training_log(settings(), run, follow=follow)
    if json and not follow:
        emit({"run": name, "lines": [line.model_dump() for line in lines]})
        return
    for line in lines:
        if json:
            emit_line(line)
        else:
            sys.stdout.write(f"{line.line:5} {line.time} {plain_line(line.text)}\n")
            sys.stdout.flush()  # a reader that follows the log gets the line now


@app.command()
def cancel(run: Run, json: Json = False) -> None:
    """Cancel a running training of any process. It can continue from its last checkpoint."""
    from academy.loop.trainings import cancel_training

    training = cancel_training(settings(), run)
    progress = training.progress
    if json:
        emit({"run": training.run, **progress.model_dump(mode="json")})
    elif progress.status == "cancelled":
        say(
            f"The training {training.run} is cancelled at step {progress.step} of {progress.steps}; "
            "its checkpoint stays."
        )
    else:
        say(f"The training {training.run} ended before it could be cancelled: {progress.status}.")


@app.command()
def metrics(
    file: Annotated[Path, typer.Argument(help="A trainer's log; '-' reads stdin.")],
    events: Annotated[bool, typer.Option("--events", help="Print events instead, one JSON object per line.")] = False,
    json: Json = False,
) -> None:
    """Summarise the text log of any trainer: losses, progress, latest figures."""
    from academy.loop.training_log import log_events, summarise_log

    with _opened(file) as stream:
        pieces = iter(lambda: stream.read(PIECE), b"")
        if events:
            for event in log_events(pieces):
                emit_line(event)
            return
        log = summarise_log(pieces)
    summary = log.metrics
    if json:
        emit({"lines": log.lines, **summary.model_dump(mode="json")})
        return
    say(f"{summary.records:,} of {log.lines:,} lines have training figures; {summary.losses:,} of them have a loss.")
    if summary.diverged:
        say(f"The loss was not a finite number {summary.diverged:,} times.")
    rows: list[tuple[str, float | int | None]] = [
        ("best loss", summary.best_loss),
        ("average loss", summary.average_loss),
        ("best evaluation loss", summary.best_eval_loss),
        *((f"latest {name.replace('_', ' ')}", value) for name, value in summary.latest.items()),
    ]
    if summary.records:
        table("Figures", ("figure", "value"), [(name, f"{value:g}") for name, value in rows if value is not None])


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    if str(file) == "-":
        yield sys.stdin.buffer
        return
    if not file.is_file():
        raise InputError(f"The file {file} does not exist.", "Check the path; '-' reads stdin.")
    with file.open("rb") as stream:
        yield stream


@app.command()
def fit(
    base_model: Base = None,
    length: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of the longest example; without it the longest that the recipe allows."),
    ] = None,
    rank: Rank = None,
    batch_size: BatchSize = None,
    recipe: RecipeFile = None,
    json: Json = False,
) -> None:
    """Estimate the memory of a training, where it would run, and which changes need less memory."""
    from academy.loop.memory_estimate import estimate_memory
    from academy.loop.recipe_file import recipe_options

    options = recipe_options(recipe, rank=rank, batch_size=batch_size)
    estimate = estimate_memory(open_home(base_model), length, options)
    placement, full_recipe = estimate.placement, estimate.recipe
    if json:
        emit({
            "recipe": full_recipe.model_dump(mode="json"),
            "predictions": {
                device: prediction.model_dump(mode="json") | {"total": prediction.total}
                for device, prediction in placement.predictions.items()
            },
            "route": placement.route.model_dump(mode="json"),
            "fallback_steps": [
                {
                    "change": fallback.step.change, "device": fallback.step.plan.device,
                    "need": fallback.need, "fits": fallback.fits,
                }
                for fallback in placement.fallbacks
            ],
        })  # fmt: skip
        return
    if placement.predictions:
        columns = tuple(placement.predictions.values())
        parts = ("weights", "adapter", "activations", "logits", "overhead")
        table(
            f"Peak memory in GiB: {full_recipe.batch_size} x {estimate.tokens} tokens, rank {full_recipe.rank}",
            ("part", *("GPU" if column.device == "cuda" else "CPU" for column in columns)),
            [
                *((part, *(gib(getattr(column, part)) for column in columns)) for part in parts),
                ("correction from earlier trainings", *(f"x {column.correction:.2f}" for column in columns)),
                ("total", *(gib(column.total) for column in columns)),
            ],
        )
        if columns[0].note:
            say(f"Note: {columns[0].note}.")
    say(f"{placement.expected[0].upper()}{placement.expected[1:]}.")
    for fallback in placement.fallbacks:
        say(f"  {'yes' if fallback.fits else 'no '}  {gib(fallback.need)} GiB with {fallback.step.change}")


def _rows(training: Training) -> list[tuple[str, str | None]]:
    progress = training.progress

    def figure(value: float | None, form: str = ".4f") -> str | None:
        return None if value is None else format(value, form)

    return [
        ("job", training.job or None),
        ("status", f"{progress.status}{f' ({progress.cause})' if progress.cause else ''}"),
        ("attempts", str(progress.attempts)),
        ("last event", f"{progress.phase}, {training.last_event_at}" if training.last_event_at else None),
        ("step", f"{progress.step} of {progress.steps} ({progress.percent:g} %), epoch {progress.epoch:.2f}"
         if progress.steps else None),
        ("loss", figure(progress.loss)),
        ("best loss", figure(progress.best_loss)),
        ("average loss", figure(progress.average_loss)),
        ("best evaluation loss", figure(progress.best_eval_loss)),
        ("tokens per second", figure(progress.rate, ",.0f")),
        ("time trained", _duration(progress.seconds)),
        ("time left", None if progress.eta is None else _duration(progress.eta)),
        ("peak memory", None if progress.memory is None else f"{gib(progress.memory)} GiB"),
        ("energy", None if progress.energy is None else f"{progress.energy:,.0f} J"),
        ("cost", figure(progress.cost, ",.2f")),
        ("adapter", progress.adapter or None),
    ]  # fmt: skip


def _start(began: float | None) -> str:
    return datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d %H:%M") if began else ""


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
