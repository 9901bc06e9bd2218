"""Renews the hold-out: retires the questions that were examined and holds out fresh ones."""

from __future__ import annotations

import logging

from academy.arena.verdict import FEWEST_GROUPS
from academy.curriculum.dataset import Example, all_datasets, opening_of
from academy.curriculum.filters import as_learned, reason_to_drop
from academy.curriculum.holdout import GroupedRequest, Renewal, grouped
from academy.errors import InputError
from academy.loop.home import Home
from academy.loop.outside_sources import outside_conversations, outside_examples
from academy.store.ledger_rows import RenewalEntry, VerdictEntry

log = logging.getLogger(__name__)


def renew_holdout(home: Home) -> Renewal:
    """Retire the examined questions and hold out fresh ones that no dataset has seen. Writes a ledger row.

    Raises InputError, and changes nothing, if no examination was spent yet or too few unseen lessons are there.
    """
    if not home.ledger.verdicts_spent():
        raise InputError(
            "No examination was spent on these questions yet, so there is nothing to renew.",
            "`academy budget` shows how many are left.",
        )
    verdicts = list(home.ledger.rows(VerdictEntry))
    datasets = all_datasets(home.datasets)
    newest = max((dataset.cursor for dataset in datasets), default=0)
    until = max((row.body.cursor for row in verdicts), default=0)
    # by their ids as well: a lesson that was released has a new number, although it was seen
    in_datasets = {row["id"] for dataset in datasets for row in dataset.inputs()}
    digests = {row.body.dataset for row in verdicts}
    in_examinations = {row["id"] for dataset in datasets if dataset.digest in digests for row in dataset.inputs()}
    examined_requests, seen_requests, unseen_requests, fresh = [], [], [], []
    for raw in home.store.every():
        learned = as_learned(raw)  # as curation writes it into the hold-out
        if learned is None:
            continue
        example = Example.of(learned, origin="")
        request = grouped(example)
        if raw.seq <= until or raw.id in in_examinations:
            examined_requests.append(request)
        if raw.seq <= max(newest, until) or raw.id in in_datasets:
            seen_requests.append(request)
    for dataset in datasets:
        held_out = [grouped(example) for example in outside_examples(dataset)]
        examined_requests += held_out if dataset.digest in digests else []
        seen_requests += held_out
        seen_requests += [
            GroupedRequest(text=opening_of(transcript)[0], suite="recall", group="")
            for transcript in outside_conversations(dataset)
        ]
    for raw in home.store.read(since=max(newest, until)):
        if not raw.trusted or raw.id in in_datasets or reason_to_drop(raw) or (learned := as_learned(raw)) is None:
            continue
        example = Example.of(learned, origin="")
        request = grouped(example)
        fresh.append(request)
        if not example.follows_turns and not example.transcript.has_tools:  # an examination asks single requests
            unseen_requests.append(request)
    with home.database.write() as connection:
        home.holdout.assign(fresh, connection)
        renewal = home.holdout.renew(examined_requests, seen_requests, unseen_requests, FEWEST_GROUPS, connection)
        key = f"renewal:{home.base.digest}:{len(verdicts)}"
        home.ledger.append(key, RenewalEntry(**renewal.model_dump(), after=len(verdicts)), connection)
    log.info("hold-out renewed: %d retired, %d fresh", renewal.retired, renewal.fresh)
    return renewal
