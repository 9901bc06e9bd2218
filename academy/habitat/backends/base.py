"""Training orders, training events, and the protocol of a training backend.

A backend decides where the trainer program runs. `process.py` starts a subprocess on this machine, `container.py` a
Docker container. `table.py` finds a backend by the name in ACADEMY_TRAINING_BACKEND.

To add a backend, write a class with the methods of `TrainingBackend` and name it in BACKENDS of `table.py`. A package
of your own adds one by an entry point instead:

    [project.entry-points."academy.backends"]
    cluster = "my_package.cluster:ClusterBackend"

After `pip install my_package`, ACADEMY_TRAINING_BACKEND=cluster selects it. Most backends only start a trainer and
leave the rest to `following.run_order`, which keeps the promises of `TrainingBackend.train`. A backend that changes
little of an existing one can subclass it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field

from academy.habitat.memory import Plan
from academy.habitat.routing import Refusal
from academy.models.base_model import BaseModel
from academy.professor.recipe import Recipe
from academy.records import Record, digest_of
from academy.system.hardware import Inventory

if TYPE_CHECKING:
    from academy.settings import Settings  # the trainer imports this module where pydantic-settings is not installed

LATEST = 32_503_680_000.0
"""The year 3000. Later times are invalid: calendars cannot show them."""
Phase = Literal["started", "changed", "contract", "step", "checkpoint", "done", "failed"]


class TrainingOrder(Record):
    """Everything that decides an adapter's bytes, how the training is carried out, and where it writes its files."""

    base: BaseModel
    dataset: str  # digest of the whole dataset
    train_file: Path
    train_digest: str
    recipe: Recipe
    plan: Plan | None = None  # None: the default plan of the available device
    init_adapter: Path | None = None  # folder of the adapter that the training starts from
    changes: tuple[str, ...] = ()  # fallback steps taken because memory was too small, in words
    runs: Path  # runs/<order>/ holds order, events, checkpoints and the trainer's log
    adapters: Path  # the adapter is published in adapters/<digest>/

    @property
    def digest(self) -> str:
        """The order's identity: a digest of what decides the result. An order with the same digest trains once."""
        return digest_of(
            {"base": self.base.digest, "train": self.train_digest, "recipe": self.recipe.model_dump(mode="json")}
        )

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.runs / self.digest[:16]


class TrainingEvent(Record):
    """One line of events.jsonl.

    `at`: seconds since the epoch. `memory`: peak in bytes. `rate`: tokens per second. `energy`: joules that the
    trainer's GPU used in this attempt so far; None where the GPU has no counter.
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


class BackendChoice(Record):
    """The backend that the next training uses, and the machine as that backend sees it.

    A container has its own libraries and may have less memory than the machine, so `machine` can differ from the
    machine's own inventory. `refusal` is set where the backend that the user selected cannot train now.
    """

    backend: str
    location: str = ""  # where trainings run, in words: "in processes of this machine"
    machine: Inventory
    gpu_problem: str = ""  # why this backend cannot use the machine's GPUs; empty where it can
    container_problem: str = ""  # with `auto`: why trainings run in a process instead of a container
    refusal: Refusal | None = None

    @property
    def can_use_gpus(self) -> bool:
        """Whether trainings in this backend can use a GPU, if the machine has one."""
        return not self.gpu_problem and self.refusal is None


class TrainingBackend(Protocol):
    """Runs training orders.

    Implementers promise:

    * `train` yields events whose numbers grow over all attempts of an order. Events of earlier attempts come first,
      without the "failed" event that ended each of them.
    * The last event is "done", and then the adapter is published, or "failed" with a message and a cause. Expected
      problems are "failed" events, not exceptions.
    * Orders are idempotent. An order whose adapter exists yields its earlier events again and trains nothing. An
      interrupted order continues from its last checkpoint.
    * Only one process at a time runs an order: `train` holds the lock file in the run's folder and raises HomeError
      if another process holds it. GPUs are locked on the whole host while they train.
    * When `train` ends, or the caller closes its generator, the backend stops the trainer and leaves nothing running.
    * `cancel` may be called from any thread and any number of times. Checkpoints stay.

    Callers must tolerate:

    * Events arrive with a delay, and there may be none for minutes.
    * `cancel` returns False if this object does not run the order, for example because it has not started yet.
    * A trainer that ends without an event of its own gets its "failed" event from the backend.
    """

    @classmethod
    def inspect(cls, settings: Settings, machine: Inventory) -> BackendChoice:
        """Check that this backend can train now, before anything starts.

        `machine` comes with Docker's state only if the settings name `container` or `auto`. Raises EngineError or
        TrainingError if the backend cannot train; the user sees the error's message and remedy.
        """
        ...

    @classmethod
    def create(cls, settings: Settings, gpus: Sequence[str]) -> Self:
        """Create a backend for one training on the GPUs with these UUIDs, or on the CPUs if there are none."""
        ...

    def train(self, order: TrainingOrder) -> Iterator[TrainingEvent]:
        """Run the order and yield its events as they arrive."""
        ...

    def cancel(self, order: TrainingOrder) -> bool:
        """Stop a running order; its checkpoints stay. Returns False if this object does not run it."""
        ...
