"""Reads the text log of any trainer: as a summary, or as events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from academy.habitat.backends.base import TrainingEvent
from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import Metrics, Summary, TrainingMetricsParser
from academy.records import Record


class LogSummary(Record):
    """How many lines a log has, and what they say of the training."""

    lines: int
    metrics: Summary


def log_events(pieces: Iterable[bytes]) -> Iterator[TrainingEvent]:
    """A log, in pieces of any size, as the events that the Academy's own trainer writes."""
    return parse_events(split_lines(pieces))


def summarise_log(pieces: Iterable[bytes]) -> LogSummary:
    """The figures of a log, in memory that does not grow with it."""
    parser = TrainingMetricsParser()
    lines = 0

    def read() -> Iterator[Metrics]:
        nonlocal lines
        for line in split_lines(pieces):
            lines += 1
            if (metrics := parser.parse_line(line)) is not None:
                yield metrics

    summary = parser.aggregate_metrics(read())
    return LogSummary(lines=lines, metrics=summary)
