"""From a dataset to a registered version: the recipe, the search for a better one, the training down its ladder.

A training may be asked for again after it was killed: it finds what it had done by its order and goes on there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pydantic import Field

from academy.adapters.adapter import Adapter, sign_adapter
from academy.curriculum.curator import refuse_overlap_of_texts
from academy.curriculum.dataset import FORGOTTEN, Dataset, read_rows
from academy.errors import InputError, TrainingError
from academy.genealogy.tracking import BASE_TAG, TrackedRun, took
from academy.genealogy.versions import CHAMPION, TAINT, TAINTED, Version
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.choice import create_backend
from academy.habitat.backends.process import EVENTS, ORDER, read_events
from academy.habitat.memory import Device, Plan
from academy.habitat.progress import progress
from academy.lifecycle.gate import admit_adapter
from academy.loop import tune as tuning
from academy.loop.examine import guarded_texts
from academy.loop.home import Home
from academy.loop.placement import Placement, below, first_device, place
from academy.loop.tune import Search
from academy.professor import recipe as recipes
from academy.professor.recipe import Recipe, validate_fields, validate_recipe
from academy.professor.search_space import TuningResult, refuse_fixed, space_around
from academy.records import Record
from academy.store.files import digest_of_file
from academy.store.ledger import BASE
from academy.store.ledger_rows import AllowEntry

log = logging.getLogger("academy")
TOLD = 10
"""How many steps of a training are told in words; MLflow has them all."""


AGAIN = "Run the same command again: it goes on from the last checkpoint."
BROKEN_OFF = ("killed", "cancelled", "unknown")
"""Causes of an end that the same again may not meet; of the others the message says what to do."""


class Overrides(Record):
    """What a person fixed of the recipe; the professor chooses the rest."""

    rank: int | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    init_adapter: str | None = None  # a version, or champion: what training begins with
    # checked fields of a recipe, from a file or a form; what is said above of the same names wins
    recipe: dict[str, Any] = Field(default_factory=dict)

    @property
    def beginning(self) -> str | None:
        """What training is to begin with: a version, champion, or an adapter's digest; None for the base model."""
        return self.init_adapter or self.recipe.get("init_adapter")

    @property
    def fields(self) -> dict[str, Any]:
        """Fields of the recipe that hold as they were given."""
        said = {name for name in self.recipe if getattr(self, name, None) is not None}
        return {name: value for name, value in self.recipe.items() if name not in {*said, "init_adapter"}}


class Asked(Record):
    """Digests of what somebody ordered elsewhere: the base model's, and the order's, which covers file and recipe."""

    base: str
    order: str

    @classmethod
    def of(cls, order: TrainingOrder) -> Asked:
        """What an order asks for."""
        return cls(base=order.base.digest, order=order.digest)

    def refuse_another(self, order: TrainingOrder) -> None:
        """Raises TrainingError where this order, made here of what was sent, is not the one that was asked for."""
        if order.base.digest != self.base:
            raise TrainingError(
                f"The base model {order.base.name} is {order.base.digest[:12]} here, and {self.base[:12]} was ordered.",
                "Give both machines the same copy of it.",
                cause="base model",
            )
        if order.digest != self.order:
            raise TrainingError(
                f"Dataset and recipe make the order {order.digest[:12]} here, and {self.order[:12]} was ordered.",
                "Run the same version of the Academy on both machines.",
                cause="order",
            )


def choose(home: Home, dataset: Dataset, overrides: Overrides) -> Recipe:
    """The professor's recipe for a dataset, with what the settings and a person fixed."""
    return choose_for(home, dataset.longest, overrides, dataset)


def choose_for(home: Home, longest: int, overrides: Overrides, dataset: Dataset | None = None) -> Recipe:
    """The recipe for examples of at most so many tokens, on this machine; of a dataset where there is one already."""
    first = first_adapter(home, overrides.beginning)
    given, said = overrides.fields, fixed(home, overrides)
    if given.get("max_length", 0) > home.base.context:
        raise InputError(
            f"max_length is {given['max_length']} in the recipe, and the base model reads {home.base.context} tokens.",
            "Leave it out, or give a smaller one.",
        )
    recipe = recipes.choose_recipe(
        parameters=home.base.parameters,
        longest=longest,
        context=home.base.context,
        examples=dataset.examples if dataset else None,
        tokens=dataset.tokens if dataset else None,
        gpu=first_device(home) == "cuda",
        pack=home.settings.packing and given.get("packing", True),
        batch_size=overrides.batch_size or given.get("batch_size"),
        **said,
    )
    if first is not None:
        recipes.refuse_other_shape(first.manifest.recipe, given | {"rank": said["rank"]})
        recipe = recipes.continue_adapter(recipe, first.manifest.recipe, first.digest)
    return validate_recipe(recipe.model_dump() | given) if given else recipe


def complete(home: Home, dataset: Dataset, given: dict[str, Any]) -> Recipe:
    """A recipe of which every field is given, as it is; else the given fields over the professor's.

    Raises InputError for what no recipe has.
    """
    if given.keys() >= Recipe.model_fields.keys():  # an order's; a setting of this machine changes nothing of it
        return validate_recipe(given)
    return choose(home, dataset, Overrides(recipe=validate_fields(given)))


def first_adapter(home: Home, said: str | None) -> Adapter | None:
    """The adapter that a training is to begin with: a version's, or the champion's. None for the base model.

    Raises InputError where there is no such version or it must not be learned on, AdapterError where it is refused.
    """
    if not said or said == BASE:
        return None
    champion = home.ledger.champion()
    if said == CHAMPION and champion.version == BASE:
        log.info("the champion is the base model: training begins with that")
        return None
    version = home.versions.get(champion.version if said == CHAMPION else said)
    _refuse_tainted([version])
    return admit_adapter(home.gate, home.use_adapter(version.adapter), version).adapter


def fixed(home: Home, overrides: Overrides) -> dict[str, Any]:
    """What a person fixed of what is searched else, by options, fields or settings; None where nothing is fixed."""
    settings, given = home.settings, overrides.recipe
    return {
        "rank": overrides.rank or given.get("rank") or settings.lora_rank,
        "learning_rate": overrides.learning_rate or given.get("learning_rate") or settings.learning_rate,
        "epochs": overrides.epochs or given.get("epochs") or settings.num_epochs,
    }


def _stays(home: Home, overrides: Overrides) -> list[str]:
    """Names of what a search leaves as it is. With alpha the rank stays, for a search takes twice the rank as alpha."""
    names = {name for name, value in fixed(home, overrides).items() if value is not None} | overrides.fields.keys()
    return sorted(names | ({"rank"} if "alpha" in names else set()))


def _refuse_tainted(versions: Sequence[Version]) -> None:
    for version in versions:
        if version.tainted:
            raise InputError(
                f"{version.name} was made of lessons that were forgotten since, and so would be what begins with it.",
                "Train from the base model, or from another version.",
            )


def refuse_tuning(home: Home, overrides: Overrides) -> None:
    """Raises InputError where a search for a recipe would have nothing to search; before anything else happens."""
    if overrides.beginning:
        raise InputError(
            "A search tries other ranks, which an adapter to begin with does not have.",
            "Leave out --tune or --init-adapter.",
        )
    refuse_fixed(_stays(home, overrides))


def search_for(home: Home, dataset: Dataset, overrides: Overrides, trials: int, form: str = "") -> Search:
    """The search for a dataset's recipe around the professor's. Raises InputError where nothing is left to search."""
    refuse_tuning(home, overrides)
    order = place_order(home, dataset, choose(home, dataset, overrides), form)
    return Search(order, space_around(order.recipe, _stays(home, overrides)), trials)


def tune(home: Home, dataset: Dataset, search: Search, minutes: float | None = None) -> TuningResult:
    """Hold a search, or give what it found before; within so many minutes or those of the settings.

    Raises as `train` and `academy.loop.tune.tune` do.
    """
    refuse_overlap(home, dataset)
    return tuning.tune(home, search, dataset, minutes or home.settings.tune_minutes)


def place_order(home: Home, dataset: Dataset, recipe: Recipe, form: str = "") -> TrainingOrder:
    """Everything that decides an adapter's bytes, as one record. `form` trains on another format of the same lines."""
    file = dataset.export(form) if form else dataset.train_file
    return TrainingOrder(
        base=home.base,
        dataset=dataset.digest,
        train_file=file,
        train_digest=digest_of_file(file) if form else dataset.train_digest,
        recipe=recipe,
        init_adapter=home.adapters / recipe.init_adapter[:16] if recipe.init_adapter else None,
        runs=home.settings.folder("runs"),
        adapters=home.adapters,
    )


def train(
    home: Home,
    order: TrainingOrder,
    dataset: Dataset,
    tags: dict[str, str],
    meanwhile: Callable[[], object] = lambda: None,
    only: Device | None = None,
    tuned: TuningResult | None = None,
) -> Version:
    """Run an order, follow it in MLflow and register its adapter as a version; on that kind of device only.

    `meanwhile` is called once the trainer runs: what can be prepared while it works. `tuned` is the search that found
    the recipe; its record goes into MLflow with the run. Raises TrainingError, before
    anything starts where it would fit nowhere, and ExaminationError where the dataset overlaps with what is examined.
    """
    refuse_overlap(home, dataset)
    placed = place(home, order.recipe, dataset.longest, only=only)
    placed.require()
    if order.recipe.init_adapter:
        # again, for the recipe may come from elsewhere, or have waited; and held, so that it is not archived meanwhile
        admit_adapter(home.gate, home.use_adapter(order.recipe.init_adapter))
        _refuse_tainted(home.versions.of_adapter(order.recipe.init_adapter))
    while True:
        placed = as_before(changed(order, placed.recipe), placed)
        order = changed(order, placed.recipe, placed.plan, placed.changes)
        log.info("training on %s", placed.sentence)
        last, run = _attempt(home, order, dataset, placed, tags, meanwhile, tuned)
        if last.phase == "done":
            break
        lower = below(home, placed, dataset.longest, only=only) if last.cause == "memory" else None
        if lower is None:
            raise TrainingError(last.message, AGAIN if last.cause in BROKEN_OFF else "", last.cause)
        log.warning("%s It goes on with %s.", last.message, lower.changes[-1])
        placed = lower
    champion = home.ledger.champion()
    # here and not in the trainer: that one may run in a container, and has no key
    adapter = sign_adapter(
        home.adapters / last.adapter[:16], home.keys, base_digest=home.base.digest, digest=last.adapter
    )
    version = home.versions.register(adapter, run, parent=champion.version, generation=champion.generation + 1)
    first = home.versions.of_adapter(order.recipe.init_adapter) if order.recipe.init_adapter else []
    if (dataset.path / FORGOTTEN).is_file() or any(one.tainted for one in first):  # something was, while it trained
        home.versions.note(version.version, {TAINT: TAINTED})
        version = home.versions.get(version.version)
    log.info("%s is registered: adapter %s", version.name, version.adapter[:12])
    return version


def as_before(order: TrainingOrder, placed: Placement) -> Placement:
    """With shared weights again where an attempt had come down to that: its checkpoints are of that kind."""
    try:
        told = TrainingOrder.model_validate_json((order.folder / ORDER).read_bytes())
    except (OSError, ValueError):
        return placed
    before, now = told.plan, placed.plan
    if now.shared or before is None or not before.shared:
        return placed
    # with less memory free than before it is placed with checkpointing, which must not be taken back
    alike = now.model_copy(update={"sharded": True, "checkpointing": before.checkpointing})
    if before != alike or (now.checkpointing and not before.checkpointing):
        return placed
    return placed.model_copy(update={"plan": before, "changes": told.changes})


def refuse_overlap(home: Home, dataset: Dataset) -> None:
    """Raises ExaminationError where a dataset holds what is examined here, by this home's suites."""
    rows = read_rows(dataset.train_file)
    others = guarded_texts(home.settings)
    refuse_overlap_of_texts([row["messages"] for row in rows], dataset.held_out(), others, allowed(home))


def allowed(home: Home) -> set[str]:
    """Keys of the overlaps that a person allowed."""
    return {row.body.overlap for row in home.ledger.rows(AllowEntry)}


def changed(
    order: TrainingOrder, recipe: Recipe, plan: Plan | None = None, changes: tuple[str, ...] = ()
) -> TrainingOrder:
    """The same order with another recipe or plan."""
    return order.model_copy(update={"recipe": recipe, "plan": plan, "changes": changes})


def carried_out_as(order: TrainingOrder, placed: Placement) -> set[str]:
    """Digests of an order and of those that stood in for it because it took too much memory."""
    found = {order.digest}
    for step in placed.fallbacks:
        lower = changed(order, step.fallback.recipe)
        with suppress(OSError, ValueError):
            if TrainingOrder.model_validate_json((lower.folder / ORDER).read_bytes()).changes:
                found.add(lower.digest)
    return found


def _attempt(
    home: Home,
    order: TrainingOrder,
    dataset: Dataset,
    placed: Placement,
    tags: dict[str, str],
    meanwhile: Callable[[], object],
    tuned: TuningResult | None,
) -> tuple[TrainingEvent, TrackedRun]:
    """One order from its first event to its last, in its MLflow run."""
    before = max((event.n for event in read_events(order.folder / EVENTS)), default=0)
    events = create_backend(home.settings, placed.route).train(order)
    first = next(events)
    meanwhile()
    found = tuned.tags if tuned else {}
    # what shared weights take says little of others, and the measured correct the next predictions
    counts = placed.prediction if not placed.plan.shared else None
    run = TrackedRun(
        home.mlflow, order, dataset, tags | found | placed.tags | {BASE_TAG: home.base.digest},
        predicted=float(counts.measurable) if counts else None, before=before,
    )  # fmt: skip
    if tuned:
        run.keep("tuning/trials.json", tuned.model_dump(mode="json"))
    told = [first]
    run.follow(first)
    for event in events:
        run.follow(event)
        _tell(event, told[-1])
        told.append(event)
    run.metrics(took(progress(told, followed=False, price=home.settings.price_per_hour)))
    return told[-1], run


def _tell(event: TrainingEvent, before: TrainingEvent) -> None:
    if event.phase == "contract":
        log.info("contract holds: %s", event.message)
    elif event.phase == "step" and event.loss is not None and event.steps:
        tenth = event.step * TOLD // event.steps
        if tenth != before.step * TOLD // event.steps:
            log.info("step %d of %d, loss %.3f", event.step, event.steps, event.loss)


def last_rate(home: Home) -> float | None:
    """Tokens a second of the last training in this home, from its own events."""
    runs = sorted(home.settings.folder("runs").glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    rates = [event.rate for event in read_events(runs[-1]) if event.rate] if runs else []
    return sum(rates) / len(rates) if rates else None
