"""Decides whether training pays now: the counts, the dataset, earlier examinations and free memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from pydantic import Field

from academy.curriculum.dataset import Dataset, all_datasets
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.placement import Placement
from academy.loop.choose_recipe import choose_recipe_for
from academy.loop.choose_suites import undecidable
from academy.loop.home import Home
from academy.loop.not_counted import in_words
from academy.loop.outside_sources import examined_outside_ids, outside_ids
from academy.loop.place import place
from academy.loop.place_order import digests_carried_out
from academy.professor.decision import Decision, should_train
from academy.professor.recipe_options import RecipeOptions
from academy.records import Record
from academy.settings import DISABLED
from academy.store.ledger_rows import VerdictEntry

log = logging.getLogger(__name__)


class Counts(Record):
    """What a decision counts before there is a dataset. An evolution counts once."""

    lessons: int  # successful, active lessons and tasks, and those of installed sources
    new_lessons: int  # of them since the champion's examination
    last_verdict: datetime | None
    at: datetime
    tags: tuple[str, ...] = ()  # only lessons with one of them are counted
    not_counted: dict[str, int] = Field(default_factory=dict)  # lessons and tasks that are not trained on, by reason


def count(home: Home, tags: Sequence[str] = ()) -> Counts:
    """The counts of a home now; with tags, of the lessons that have one of them."""
    verdicts = list(home.ledger.rows(VerdictEntry))
    outside = outside_ids(home, tags)
    seen = examined_outside_ids(home) if outside else set()
    return Counts(
        lessons=home.store.trainable(tags=tags) + len(outside),
        new_lessons=home.store.trainable(since=home.ledger.champion().cursor, tags=tags) + len(outside - seen),
        last_verdict=datetime.fromisoformat(verdicts[-1].at) if verdicts else None,
        at=datetime.now(UTC),
        tags=tuple(tags),
        not_counted={} if tags else home.store.not_counted(),
    )


def decide(
    home: Home,
    *,
    force: bool,
    counts: Counts | None = None,
    order: TrainingOrder | None = None,
    dataset: Dataset | None = None,
    to_tune: bool = False,
    to_start: bool = False,
    elsewhere: bool = False,
) -> Decision:
    """Whether training pays now. With an order and its dataset, also whether it was examined before and where it fits.

    `to_tune`: the order's recipe is where a search starts, so an earlier examination of it does not count.
    `to_start`: a training follows. If only its device cannot be had, raises that TrainingError, because a person who
    asked for the device should not read that there is nothing to train.
    `elsewhere`: a worker on another machine may train, so a device that this machine lacks does not count.
    """
    placement = place(home, order.recipe, dataset.longest) if order and dataset else None
    orders = digests_carried_out(order, placement) if order and placement and not to_tune else set()
    if elsewhere and placement and placement.route.refusal:
        placement = None
    outcomes = (
        row.body.outcome
        for row in home.ledger.latest(VerdictEntry)
        if row.body.order in orders and row.body.outcome != "CANNOT DECIDE"
    )
    counts = counts or count(home)
    ask = partial(
        should_train,
        lessons=counts.lessons,
        new_lessons=counts.new_lessons,
        last_verdict=counts.last_verdict,
        now=counts.at,
        min_lessons=home.settings.min_lessons,
        min_new_lessons=home.settings.min_new_lessons,
        interval_hours=home.settings.training_interval_hours,
        held_out=(dataset.holdout, undecidable(home, dataset)) if dataset else None,
        examples=dataset.examples if dataset else None,
        examined=next(outcomes, ""),
        not_counted=in_words(counts.not_counted),
        force=force,
        tags=counts.tags,
        disabled="" if home.settings.enabled else DISABLED,
    )
    decision = ask(placement=(bool(placement.route.place), placement.expected) if placement else None)
    if to_start and placement and placement.route.refusal and ask().train:
        placement.require()
    log.info("%s: %s", "Training" if decision.train else "Not training", decision.because)
    return decision


class DecisionPreview(NamedTuple):
    """A decision on counts alone, and where the largest training would run (None if the decision is no)."""

    decision: Decision
    placement: Placement | None


def preview_decision(home: Home, *, force: bool, tags: Sequence[str] = ()) -> DecisionPreview:
    """The decision that `evolve` takes before it starts, and on the newest dataset if it has all lessons.

    Examples count as long as possible.
    """
    dataset = None if tags else _present_dataset(home)
    decision = decide(home, force=force, counts=count(home, tags), dataset=dataset)
    if not decision.train:
        return DecisionPreview(decision, None)
    recipe = choose_recipe_for(home, home.base.context, RecipeOptions())
    return DecisionPreview(decision, place(home, recipe))


def _present_dataset(home: Home) -> Dataset | None:
    """The newest dataset, if no lesson was added since and it was made for this base model."""
    newest = all_datasets(home.datasets)[-1:]
    is_present = [
        dataset for dataset in newest if (dataset.cursor, dataset.base) == (home.store.newest(), home.base.digest)
    ]
    return is_present[0] if is_present else None
