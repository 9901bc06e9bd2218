"""What a foreign trainer prints, as it comes, as the events that ours writes: for images that are not ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from academy.habitat.backends.base import TrainingEvent
from academy.habitat.log_parser import LONGEST, Metrics, TrainingMetricsParser


def split_lines(pieces: Iterable[str | bytes]) -> Iterator[str]:
    """Lines, without their ends, of a stream that comes in pieces of any size and in any encoding.

    A carriage return ends a line as well. Of a line that is still being written only what is ever looked at is kept.
    """
    held = ""
    for piece in pieces:
        # latin-1 knows every byte, and a character that two pieces share harms nothing: all figures are ASCII
        held += piece if isinstance(piece, str) else piece.decode("latin-1")
        *whole, held = held.replace("\r", "\n").split("\n")
        yield from whole
        held = held[:LONGEST]
    if held:
        yield held


def parse_events(
    lines: Iterable[str], after: int = 0, clock: Callable[[], float] = time.time
) -> Iterator[TrainingEvent]:
    """A foreign trainer's text, as it comes, as events of phase "step", numbered from `after` + 1.

    Lines that tell how the training goes are events. Bars without a loss say where the next one stands, and are events
    once a per cent while no other comes. Bars of another length than the training's are those of evaluations.
    """
    parser = TrainingMetricsParser()
    place = _Place()
    waiting: TrainingEvent | None = None
    told = 0  # the per cent of the last event
    drawn: tuple[object, ...] = ()  # what it said: bars are drawn again and again
    for line in lines:
        for part in line.split("\r"):
            found = parser.parse_line(part)
            if found is None or not place.move(found):
                continue
            event = TrainingEvent(
                n=after + 1, at=clock(), phase="step", step=place.step, steps=place.steps, epoch=place.epoch,
                loss=found.loss, eval_loss=found.eval_loss, learning_rate=found.learning_rate,
                accuracy=found.accuracy, grad_norm=found.grad_norm,
                message="the loss is no finite number" if found.diverged else "",
            )  # fmt: skip
            if not found.tells:
                # kept back until the next: the loss of this very step may follow
                if waiting is not None and waiting.step < place.step and _percent(waiting) > told:
                    told = _percent(waiting)
                    after += 1
                    yield waiting
                    event = event.model_copy(update={"n": after + 1})
                waiting = event if found.step is not None else waiting
                continue
            said = (place.step, *found)
            if said == drawn:
                continue
            waiting, told, drawn = None, _percent(event), said
            after += 1
            yield event
    if waiting is not None and _percent(waiting) > told:
        yield waiting


def _percent(event: TrainingEvent) -> int:
    return 100 * event.step // event.steps if event.steps else 0


class _Place:
    """Where a training stands, over bars that begin again with each epoch."""

    def __init__(self) -> None:
        self.step = self.steps = 0
        self.epoch = 0.0
        self._length = 0  # of the training's bar
        self._known = False  # that this is its length
        self._before = 0  # steps of the bars that were full
        self._last = 0
        self._epochs = 0

    def move(self, found: Metrics) -> bool:
        """Take in one line; False for a bar that is not the training's."""
        if found.step is None:
            if found.total_steps:
                self.steps = self._length = found.total_steps
                self._known = True
        else:
            length = found.total_steps or self._length
            if length != self._length:
                if self._known and not found.tells:
                    return False
                self._length, self._last = length, 0
            if found.step < self._last:
                self._before += length
            self._last = found.step
            self.step = self._before + found.step
            self.steps = max(self._before + length, length * self._epochs if self._before else 0)
        self.epoch = found.epoch if found.epoch is not None else self.epoch
        self._epochs = found.total_epochs or self._epochs
        self._known = self._known or (found.tells and self._length > 0)
        return True
