"""The progress of a training, from its events alone. Pure: it works wherever the events are.

An attempt begins with "started". The time between two attempts counts in no sum and in no median.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from statistics import fmean, median
from typing import Literal

from academy.habitat.backends.base import Phase, TrainingEvent
from academy.records import Record

Status = Literal["preparing", "running", "finished", "failed", "cancelled"]
RECENT = 20
"""The present speed is the median of this many last intervals between reported steps."""
KILLED = "The training was killed. Start it again; it continues from its last checkpoint."


class Progress(Record):
    """The progress of a training. Times are in seconds, `began` and `told` since the epoch; None: unknown.

    `seconds`: sum over all attempts, each from its first event to its last. `energy`: joules that the whole GPU used
    in them, from an attempt's preparation to its last report. `cost`: in the currency of the price.
    """

    status: Status
    phase: Phase | None = None  # of the last event
    attempts: int = 0
    began: float | None = None  # start of the last attempt
    told: float | None = None  # time of the last event
    step: int = 0
    steps: int = 0
    percent: float = 0.0
    epoch: float = 0.0
    loss: float | None = None
    best_loss: float | None = None
    average_loss: float | None = None  # over the reported steps, each counted once
    best_eval_loss: float | None = None
    rate: float | None = None  # tokens per second, median of the last reports
    eta: float | None = None  # seconds until the last step; None if it does not run
    seconds: float = 0.0
    memory: int | None = None  # bytes, peak of the last attempt: earlier ones may have had another device
    energy: float | None = None
    cost: float | None = None
    adapter: str = ""  # digest of the finished adapter
    cause: str = ""
    error: str | None = None  # what went wrong, in words


class LogLine(Record):
    """One event in words: its number, its time (ISO 8601) and its text."""

    line: int
    time: str
    text: str


def progress(events: Iterable[TrainingEvent], *, followed: bool, price: float | None = None) -> Progress:
    """Compute the progress of a training from its events, oldest first. `price`: per hour.

    `followed`: a process is running it now. Events alone do not distinguish a killed training from a silent one.
    """
    tries = attempts(events)
    all_events = [event for attempt in tries for event in attempt]
    if not all_events:
        status: Status = "preparing" if followed else "failed"
        return Progress(status=status, error=None if followed else KILLED)
    last = all_events[-1]
    steps = [event for event in all_events if event.phase == "step"]
    position = next((event for event in reversed(all_events) if event.steps), last)
    losses = {event.step: event.loss for event in steps if event.loss is not None}  # a repeated step counts once
    seconds = sum(max(0.0, attempt[-1].at - attempt[0].at) for attempt in tries)  # a clock may be set back
    status = status_of(last, followed=followed)
    unsuccessful = status in ("failed", "cancelled")
    return Progress(
        status=status,
        phase=last.phase,
        attempts=len(tries),
        began=tries[-1][0].at,
        told=last.at,
        step=position.step,
        steps=position.steps,
        percent=round(100 * position.step / position.steps, 1) if position.steps else 0.0,
        epoch=steps[-1].epoch if steps else 0.0,
        loss=next((event.loss for event in reversed(steps) if event.loss is not None), None),
        best_loss=min(losses.values(), default=None),
        average_loss=fmean(losses.values()) if losses else None,
        best_eval_loss=min((event.eval_loss for event in steps if event.eval_loss is not None), default=None),
        rate=_median([event.rate for event in tries[-1] if event.rate][-RECENT:]),
        eta=_eta(tries[-1], position) if status == "running" else None,
        seconds=seconds,
        memory=_peak(tries[-1]),
        energy=_energy(tries),
        cost=None if price is None else seconds / 3600 * price,
        adapter=last.adapter if status == "finished" else "",
        cause=last.cause if unsuccessful else "",
        error=None if not unsuccessful else last.message if last.phase == "failed" else KILLED,
    )


def status_of(last: TrainingEvent | None, *, followed: bool) -> Status:
    """The status of a training with this last event."""
    if last and last.phase == "done":
        return "finished"
    if followed:
        return "running" if last else "preparing"
    return "cancelled" if last and last.phase == "failed" and last.cause == "cancelled" else "failed"


def attempts(events: Iterable[TrainingEvent]) -> list[list[TrainingEvent]]:
    """Split events into attempts. Events of a foreign trainer have no "started" and are one attempt."""
    groups: list[list[TrainingEvent]] = []
    for event in events:
        if event.phase == "started" or not groups:
            groups.append([])
        groups[-1].append(event)
    return groups


def log_line(event: TrainingEvent) -> LogLine:
    """An event in words."""
    where = f"step {event.step} of {event.steps}, epoch {event.epoch:.2f}"
    if event.phase == "step" and event.loss is not None:
        text = f"{where}, loss {event.loss:.4f}"
    elif event.phase == "step" and event.eval_loss is not None:
        text = f"{where}, evaluation loss {event.eval_loss:.4f}"
    elif event.phase == "step" and event.steps:
        text = where
    else:
        text = f"{event.phase} {event.message or event.step}".strip()
    return LogLine(line=event.n, time=iso(event.at), text=text)


def iso(at: float) -> str:
    """Seconds since the epoch as ISO 8601, in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _eta(attempt: Sequence[TrainingEvent], position: TrainingEvent) -> float | None:
    """Seconds until the last step, from the median time of this attempt's last steps.

    With the median, an evaluation, a checkpoint or a sleeping machine between two steps changes nothing.
    """
    reports = [event for event in attempt if event.phase == "step" and event.eval_loss is None]
    durations = [
        (second.at - first.at) / (second.step - first.step)
        for first, second in pairwise(reports)
        if second.step > first.step
    ]
    typical = _median([seconds for seconds in durations if seconds > 0][-RECENT:])
    return None if typical is None else typical * max(0, position.steps - position.step)


def _peak(attempt: Sequence[TrainingEvent]) -> int | None:
    """Peak memory of an attempt. None before its first step, because nothing was trained until then."""
    if not any(event.phase == "step" for event in attempt):
        return None
    return max((event.memory for event in attempt if event.memory), default=None)


def _energy(tries: Sequence[Sequence[TrainingEvent]]) -> float | None:
    """The sum over the attempts that reached a report. None if one of those has no figure.

    "failed" events of a backend do not count: a backend has no energy counter.
    """
    reports = [[event for event in attempt if event.phase in ("step", "checkpoint", "done")] for attempt in tries]
    energies = [events[-1].energy for events in reports if events]
    joules = [energy for energy in energies if energy is not None]
    return sum(joules) if joules and len(joules) == len(energies) else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
