"""Trains on a named dataset for a flow run on a work pool, by hand or for an evolution that waits for it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from academy.curriculum.dataset import read_dataset
from academy.errors import TrainingError
from academy.genealogy.versions import Version
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.memory import Device
from academy.loop.choose_recipe import complete_recipe
from academy.loop.home import Home
from academy.loop.place_order import place_order
from academy.loop.train import require_enough_examples, train
from academy.professor.recipe_options import RecipeOptions
from academy.professor.search_space import TuningResult
from academy.records import Record
from academy.settings import LEAST_CPUS, LEAST_MEMORY_GIB, Settings


class OrderDigests(Record):
    """Digests of the base model and of the order (which covers training file and recipe) that an evolution sent."""

    base: str
    order: str

    @classmethod
    def of(cls, order: TrainingOrder) -> OrderDigests:
        """The digests of an order."""
        return cls(base=order.base.digest, order=order.digest)

    def require(self, order: TrainingOrder) -> None:
        """Raise TrainingError if the order that this machine made is another one."""
        if order.base.digest != self.base:
            raise TrainingError(
                f"The base model {order.base.name} has the digest {order.base.digest[:12]} here, "
                f"but {self.base[:12]} was ordered.",
                "Copy the same base model to both machines.",
                cause="base model",
            )
        if order.digest != self.order:
            raise TrainingError(
                f"Dataset and recipe make the order {order.digest[:12]} here, but {self.order[:12]} was ordered.",
                "Run the same version of the Academy on both machines.",
                cause="order",
            )


class TrainingLimits(Record):
    """Settings of trainings that an evolution may send to a worker. Fields that are not set are the worker's own.

    None decides an adapter's bytes, and none names a program, an image or a folder: those are the worker's. Recipe and
    base model are sent by themselves. The worker keeps its own home and databases, whose settings may hold passwords.
    """

    enable_gpu: bool | None = None
    price_per_hour: float | None = Field(None, ge=0)
    training_backend: str | None = Field(None, pattern=r"^[a-z0-9_-]{1,40}$")  # the name of an installed backend
    training_library: Literal["", "trl", "unsloth"] | None = None
    training_processes: int | None = Field(None, ge=1, le=64)
    training_sharded: bool | None = None
    training_memory_gib: float | None = Field(None, ge=LEAST_MEMORY_GIB)
    training_cpus: float | None = Field(None, ge=LEAST_CPUS)
    training_silence_minutes: float | None = Field(None, gt=0, le=10_080)

    def apply(self, settings: Settings) -> Settings:
        """The settings with these limits."""
        return settings.model_copy(update=self.model_dump(exclude_none=True))


class RegisteredAdapter(Record):
    """What a training registered: the version's number and the adapter's digest."""

    version: str
    adapter: str

    @classmethod
    def of(cls, version: Version) -> RegisteredAdapter:
        """The adapter of a version."""
        return cls(version=version.version, adapter=version.adapter)


def train_dataset(
    home: Home,
    digest: str,
    options: RecipeOptions,
    tags: dict[str, str],
    device: Device,
    tuning: TuningResult | None = None,
    expected: OrderDigests | None = None,
) -> RegisteredAdapter:
    """Train on a dataset, on this kind of device only, and register the adapter as a version.

    Raises InputError for a dataset that is unknown or too small, and TrainingError if the order is not the `expected`
    one.
    """
    dataset = read_dataset(home.datasets, digest)
    order = place_order(home, dataset, complete_recipe(home, dataset, options))
    if expected:
        expected.require(order)
    require_enough_examples(dataset)
    return RegisteredAdapter.of(train(home, order, dataset, tags, only=device, tuning=tuning))
