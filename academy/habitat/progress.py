"""How a training stands, from its events alone: pure, so a training is known wherever its events are.

An attempt begins with "started". What lies between two attempts is nobody's time: it is in no sum and in no median.
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
"""Intervals between reported steps whose median tells how fast it goes now."""
KILLED = "It was killed; run it again, and it goes on."


class Progress(Record):
    """How a training stands. Times are seconds, `began` and `told` since the epoch; None is what nobody knows.

    `seconds` are those of all attempts, each from its first event to its last. `energy` is what the whole GPU used in
    them, in joules, from an attempt's preparation to its last report. `cost` is in the money of the price.
    """

    status: Status
    phase: Phase | None = None  # of the last event
    attempts: int = 0
    began: float | None = None  # the last attempt
    told: float | None = None  # the last event
    step: int = 0
    steps: int = 0
    percent: float = 0.0
    epoch: float = 0.0
    loss: float | None = None
    best_loss: float | None = None
    average_loss: float | None = None  # of the reported steps, each once
    best_eval_loss: float | None = None
    rate: float | None = None  # tokens a second, the median of the last reports
    eta: float | None = None  # until the last step; None where it does not run
    seconds: float = 0.0
    memory: int | None = None  # bytes, the peak of the last attempt: one before may have had another device
    energy: float | None = None
    cost: float | None = None
    adapter: str = ""  # digest, once it is finished
    cause: str = ""
    error: str | None = None  # what went wrong, in words


class Line(Record):
    """One event in words: its number, when it was (ISO 8601), what it tells."""

    line: int
    time: str
    text: str


def progress(events: Iterable[TrainingEvent], *, followed: bool, price: float | None = None) -> Progress:
    """How the training of these events stands, oldest first; `price` is money for an hour.

    `followed`: somebody runs it now. Events alone cannot tell a training that was killed from one that is silent.
    """
    tries = attempts(events)
    told = [event for one in tries for event in one]
    if not told:
        status: Status = "preparing" if followed else "failed"
        return Progress(status=status, error=None if followed else KILLED)
    last = told[-1]
    steps = [event for event in told if event.phase == "step"]
    place = next((event for event in reversed(told) if event.steps), last)
    losses = {event.step: event.loss for event in steps if event.loss is not None}  # a step done again counts once
    seconds = sum(max(0.0, one[-1].at - one[0].at) for one in tries)  # a clock may be set back
    status = status_of(last, followed=followed)
    wrong = status in ("failed", "cancelled")
    return Progress(
        status=status,
        phase=last.phase,
        attempts=len(tries),
        began=tries[-1][0].at,
        told=last.at,
        step=place.step,
        steps=place.steps,
        percent=round(100 * place.step / place.steps, 1) if place.steps else 0.0,
        epoch=steps[-1].epoch if steps else 0.0,
        loss=next((event.loss for event in reversed(steps) if event.loss is not None), None),
        best_loss=min(losses.values(), default=None),
        average_loss=fmean(losses.values()) if losses else None,
        best_eval_loss=min((event.eval_loss for event in steps if event.eval_loss is not None), default=None),
        rate=_median([event.rate for event in tries[-1] if event.rate][-RECENT:]),
        eta=_eta(tries[-1], place) if status == "running" else None,
        seconds=seconds,
        memory=_peak(tries[-1]),
        energy=_energy(tries),
        cost=None if price is None else seconds / 3600 * price,
        adapter=last.adapter if status == "finished" else "",
        cause=last.cause if wrong else "",
        error=None if not wrong else last.message if last.phase == "failed" else KILLED,
    )


def status_of(last: TrainingEvent | None, *, followed: bool) -> Status:
    """How a training stands whose last event this is."""
    if last and last.phase == "done":
        return "finished"
    if followed:
        return "running" if last else "preparing"
    return "cancelled" if last and last.phase == "failed" and last.cause == "cancelled" else "failed"


def attempts(events: Iterable[TrainingEvent]) -> list[list[TrainingEvent]]:
    """The events of each attempt. A foreign trainer's have no "started": they are one attempt."""
    found: list[list[TrainingEvent]] = []
    for event in events:
        if event.phase == "started" or not found:
            found.append([])
        found[-1].append(event)
    return found


def line(event: TrainingEvent) -> Line:
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
    return Line(line=event.n, time=iso(event.at), text=text)


def iso(at: float) -> str:
    """Seconds since the epoch as ISO 8601, in UTC, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def _eta(attempt: Sequence[TrainingEvent], place: TrainingEvent) -> float | None:
    """Seconds until the last step, by the times that steps of this attempt took.

    The median of the last ones: an evaluation, a checkpoint or a sleeping machine between two steps changes nothing.
    """
    reports = [event for event in attempt if event.phase == "step" and event.eval_loss is None]
    taken = [(two.at - one.at) / (two.step - one.step) for one, two in pairwise(reports) if two.step > one.step]
    usual = _median([seconds for seconds in taken if seconds > 0][-RECENT:])
    return None if usual is None else usual * max(0, place.steps - place.step)


def _peak(attempt: Sequence[TrainingEvent]) -> int | None:
    """The most memory that an attempt had. None before its first step: one without a step has trained nothing."""
    if not any(event.phase == "step" for event in attempt):
        return None
    return max((event.memory for event in attempt if event.memory), default=None)


def _energy(tries: Sequence[Sequence[TrainingEvent]]) -> float | None:
    """The sum over the attempts that came as far as a report. None where one of those has no figure.

    A backend's "failed" is not asked: it has no counter.
    """
    reported = [[event for event in one if event.phase in ("step", "checkpoint", "done")] for one in tries]
    used = [one[-1].energy for one in reported if one]
    known = [joules for joules in used if joules is not None]
    return sum(known) if known and len(known) == len(used) else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
