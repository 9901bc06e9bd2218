"""What goes into a training and what comes out of it, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from academy.habitat.memory import Plan
from academy.models.base_model import BaseModel
from academy.professor.recipe import Recipe
from academy.records import Record, digest_of

LATEST = 32_503_680_000.0
"""The year 3000: a later time is none, and no calendar could show it."""
Phase = Literal["started", "changed", "contract", "step", "checkpoint", "done", "failed"]


class TrainingOrder(Record):
    """Everything that decides an adapter's bytes, how it is carried out, and where its run leaves its files."""

    base: BaseModel
    dataset: str  # digest of the whole dataset
    train_file: Path
    train_digest: str
    recipe: Recipe
    plan: Plan | None = None  # as is usual on the device that is there
    init_adapter: Path | None = None  # folder of the adapter that the recipe begins with
    changes: tuple[str, ...] = ()  # of a recipe or plan that took more memory than there was, in words
    runs: Path  # runs/<order>/ keeps order, events, checkpoints and the trainer's own log
    adapters: Path  # adapters/<digest>/ is where the adapter is published

    @property
    def digest(self) -> str:
        """Names the order by what decides the result: the key under which it happens once."""
        return digest_of(
            {"base": self.base.digest, "train": self.train_digest, "recipe": self.recipe.model_dump(mode="json")}
        )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs / self.digest[:16]


class TrainingEvent(Record):
    """One line of events.jsonl. `at` is seconds since the epoch; `memory` the peak in bytes; `rate` tokens a second.

    `energy` is what the trainer's GPU used so far in this attempt, in joules; None where that is not counted.
    """

    n: int
    at: float = Field(ge=0, lt=LATEST)
    phase: Phase
    message: str = ""
    step: int = 0
    steps: int = 0
    epoch: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    accuracy: float | None = None
    grad_norm: float | None = None
    rate: float | None = None
    memory: int | None = None
    energy: float | None = None
    adapter: str = ""  # in "done": the adapter's digest
    # in "failed": data, template, base model, loss, memory, disk, killed, cancelled, order, engine, image, gpu, unknown
    cause: str = ""


class TrainingBackend(Protocol):
    """Runs an order.

    Promises: the events of one run are numbered over all attempts (a failed one's last word is not given again);
    the last one is "done" with the adapter published, or "failed" with a cause; nothing is left running afterwards.
    An order that was done before gives its events again and trains nothing. A caller must tolerate that it stops
    reading at any time.
    """

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Events as they come."""
        ...

    def cancel(self, order: TrainingOrder) -> bool:
        """End a running order; its checkpoints stay. False where it was not running here."""
        ...
