"""Turns the output of a foreign trainer into the events that our trainer writes: for images that are not ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from academy.habitat.backends.base import TrainingEvent
from academy.habitat.log_parser import LONGEST, Metrics, TrainingMetricsParser


def split_lines(pieces: Iterable[str | bytes]) -> Iterator[str]:
    """Yield the lines, without line ends, of a stream that arrives in pieces of any size and encoding.

    A carriage return ends a line, too. Of an unfinished line only the part that the parser reads is kept.
    """
    rest = ""
    for piece in pieces:
        # latin-1 decodes every byte. A character split over two pieces does no harm: all figures are ASCII
        rest += piece if isinstance(piece, str) else piece.decode("latin-1")
        *lines, rest = rest.replace("\r", "\n").split("\n")
        yield from lines
        rest = rest[:LONGEST]
    if rest:
        yield rest


def parse_events(
    lines: Iterable[str], after: int = 0, clock: Callable[[], float] = time.time
) -> Iterator[TrainingEvent]:
    """Yield events of phase "step", numbered from `after` + 1, for a foreign trainer's output.

    Lines with measurements become events. Progress bars without a loss give the position of the next event; while no
    such event comes, they become events themselves once per cent. Bars with another length than the training's belong
    to evaluations.
    """
    parser = TrainingMetricsParser()
    position = _Position()
    waiting: TrainingEvent | None = None
    last_percent = 0
    last_values: tuple[object, ...] = ()  # of the last event: bars are drawn repeatedly
    for line in lines:
        for part in line.split("\r"):
            metrics = parser.parse_line(part)
            if metrics is None or not position.move(metrics):
                continue
            event = TrainingEvent(
                n=after + 1, at=clock(), phase="step", step=position.step, steps=position.steps, epoch=position.epoch,
                loss=metrics.loss, eval_loss=metrics.eval_loss, learning_rate=metrics.learning_rate,
                accuracy=metrics.accuracy, grad_norm=metrics.grad_norm,
                message="the loss is not a finite number" if metrics.diverged else "",
            )  # fmt: skip
            if not metrics.has_measurements:
                # held back until the next line, which may give the loss of this step
                if waiting is not None and waiting.step < position.step and _percent(waiting) > last_percent:
                    last_percent = _percent(waiting)
                    after += 1
                    yield waiting
                    event = event.model_copy(update={"n": after + 1})
                waiting = event if metrics.step is not None else waiting
                continue
            values = (position.step, *metrics)
            if values == last_values:
                continue
            waiting, last_percent, last_values = None, _percent(event), values
            after += 1
            yield event
    if waiting is not None and _percent(waiting) > last_percent:
        yield waiting


def _percent(event: TrainingEvent) -> int:
    return 100 * event.step // event.steps if event.steps else 0


class _Position:
    """The position in a training whose progress bars restart with each epoch."""

    def __init__(self) -> None:
        self.step = self.steps = 0
        self.epoch = 0.0
        self._length = 0  # of the training's bar
        self._is_known = False  # whether that length is certain
        self._steps_before = 0  # steps of the bars that were completed
        self._last_step = 0
        self._epochs = 0

    def move(self, metrics: Metrics) -> bool:
        """Move to the position of one line. Returns False for a bar that is not the training's."""
        if metrics.step is None:
            if metrics.total_steps:
                self.steps = self._length = metrics.total_steps
                self._is_known = True
        else:
            length = metrics.total_steps or self._length
            if length != self._length:
                if self._is_known and not metrics.has_measurements:
                    return False
                self._length, self._last_step = length, 0
            if metrics.step < self._last_step:
                self._steps_before += length
            self._last_step = metrics.step
            self.step = self._steps_before + metrics.step
            self.steps = max(self._steps_before + length, length * self._epochs if self._steps_before else 0)
        self.epoch = metrics.epoch if metrics.epoch is not None else self.epoch
        self._epochs = metrics.total_epochs or self._epochs
        self._is_known = self._is_known or (metrics.has_measurements and self._length > 0)
        return True
