"""The stages of the loop, each one call: what the Prefect tasks and the command line have in common.

A stage may be called again after it was killed: it finds what it had done by its digest and goes on from there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from academy.arena.verdict import FEWEST_GROUPS, HORIZON
from academy.curriculum import replay
from academy.curriculum.curator import DatasetCurator
from academy.curriculum.dataset import Dataset, Example, all_datasets
from academy.curriculum.filters import clean, reason_to_drop
from academy.curriculum.holdout import GroupedRequest, Renewal
from academy.curriculum.sharding import ShardRunner, in_process
from academy.errors import InputError
from academy.experience.commits import is_repository, open_repository
from academy.experience.conversations import ConversationFilter
from academy.experience.lessons import ImportResult
from academy.experience.source import Kind
from academy.habitat.backends.base import TrainingOrder
from academy.lifecycle.approval import open_verdicts
from academy.lifecycle.gate import refusal
from academy.loop.carry_out import waits_for_approval
from academy.loop.examine import guarded_texts
from academy.loop.home import Home
from academy.loop.placement import place
from academy.loop.training import allowed, carried_out_as
from academy.professor.decision import Decision, should_train
from academy.store.ledger import BASE
from academy.store.ledger_rows import RenewalEntry, Row, VerdictEntry

log = logging.getLogger("academy")


def admit(
    home: Home,
    lessons: Sequence[Path] = (),
    tasks: Sequence[Path] = (),
    *,
    conversations: Sequence[Path] = (),
    files: Sequence[Path] = (),
    wanted: ConversationFilter | None = None,
) -> list[ImportResult]:
    """ImportResult files of lessons, tasks, conversations and examples; lines known already change nothing."""
    kinds: dict[Kind, Sequence[Path]] = {
        "lesson": lessons, "task": tasks, "conversation": conversations, "file": files,
    }  # fmt: skip
    for path in (path for paths in kinds.values() for path in paths):
        if not path.is_file():
            raise InputError(f"There is no file {path}.", "Check the path; a JSONL file has one lesson a line.")
    found = [
        home.store.import_file(path, home.quarantine, kind, wanted) for kind, paths in kinds.items() for path in paths
    ]
    for one in found:
        if not one.admitted:
            continue  # nothing new to tell
        log.info("%s: %d admitted, %d known, %d unreadable", one.batch, one.admitted, one.known, len(one.unreadable))
        for line in one.unreadable[:5]:
            log.warning("set aside %s (kept in %s)", line, one.quarantine)
    return found


def repositories(given: Sequence[Path], here: Path) -> list[Path]:
    """Which repositories to read: those given by hand (each must be one), or the one we stand in, if any."""
    if given:
        for path in given:
            open_repository(path)
        return list(given)
    if is_repository(here):
        return [here]
    log.info("no git repository here: commits are left out")
    return []


def curate(
    home: Home,
    repos: Sequence[Path],
    lessons_limit: int | None = None,
    shards: int = 1,
    run: ShardRunner = in_process,
) -> Dataset:
    """Experience to a dataset under its digest; the same one in any number of shards, whoever runs them."""
    curator = DatasetCurator(
        home.store,
        home.base.count_tokens,
        context=home.base.context,
        max_lessons=home.settings.max_lessons,
        base=home.base.digest,
        replay=replay_share(home),
        allowed=allowed(home),
        guarded=guarded_texts(home.settings),
        shards=shards,
        run=run,
        commits_cache=home.settings.folder("git"),
        trusted=home.settings.trusted_authors,
        per_source=home.settings.max_per_source,
        per_author=home.settings.max_per_author,
    )
    curator.collect_from_lessons(lessons_limit)
    curator.collect_from_task_history(lessons_limit)
    for repo in repos:
        curator.collect_from_git_history(repo, home.settings.git_commits_limit)
    curator.filter_low_quality()
    dataset = curator.save(home.datasets, home.holdout)
    log.info(
        "dataset %s: %d examples (%d tokens), %d held out",
        dataset.digest[:12],
        dataset.examples,
        dataset.tokens,
        dataset.holdout,
    )
    if dataset.contradictions:
        between = Counter(" and ".join(sorted(set(one.batches))) for one in dataset.contradictions)
        log.warning("%d contradictions, most in %s", len(dataset.contradictions), between.most_common(1)[0][0])
    return dataset


def replay_share(home: Home) -> float:
    """The share of older lessons in the next dataset: more where the guard slice fell in earlier examinations."""
    share = replay.SHARE
    for row in home.ledger.rows(VerdictEntry):
        guard = row.body.guard
        share = replay.share_after(share, guard.difference if guard else None, guard.low if guard else None)
    return share


def decide(
    home: Home,
    *,
    force: bool,
    order: TrainingOrder | None = None,
    dataset: Dataset | None = None,
    to_tune: bool = False,
    to_start: bool = False,
    elsewhere: bool = False,
) -> Decision:
    """Whether training pays now; with an order, also whether it was examined before, and where it would fit.

    With `to_tune` the order's recipe is only where a search begins, so that it was examined is nothing against it.
    With `to_start` a place that was asked for and cannot be had is raised as the TrainingError that it is, where
    nothing else is against training: whoever waits for one is not told that there was nothing to do. `elsewhere`: a
    worker on another machine may train, and what cannot be had on this one says nothing of that.
    """
    placed = place(home, order.recipe, dataset.longest) if order and dataset else None
    same = carried_out_as(order, placed) if order and placed and not to_tune else set()
    if elsewhere and placed and placed.route.refusal:
        placed = None
    champion = home.ledger.champion()
    verdicts = list(home.ledger.rows(VerdictEntry))
    examined = next(
        (
            row.body.outcome
            for row in reversed(verdicts)
            if row.body.order in same and row.body.outcome != "CANNOT DECIDE"
        ),
        "",
    )
    ask = partial(
        should_train,
        lessons=home.store.trainable(),
        new_lessons=home.store.trainable(since=champion.cursor),
        last_verdict=datetime.fromisoformat(verdicts[-1].at) if verdicts else None,
        now=datetime.now(UTC),
        min_lessons=home.settings.min_lessons,
        min_new_lessons=home.settings.min_new_lessons,
        interval_hours=home.settings.training_interval_hours,
        examples=dataset.examples if dataset else None,
        examined=examined,
        force=force,
    )
    decision = ask(place=(bool(placed.route.place), placed.expected) if placed else None)
    if to_start and placed and placed.route.refusal and ask().train:
        placed.require()
    log.info("%s: %s", "training" if decision.train else "no training", decision.because)
    return decision


def renew_holdout(home: Home) -> Renewal:
    """Retire the questions that were examined and hold out fresh ones that no dataset has seen; a ledger row.

    Raises InputError, and changes nothing, where no examination was spent yet or too few unseen lessons are there.
    """
    if not home.ledger.verdicts_spent():
        raise InputError(
            "No examination was spent on these questions yet, so there is nothing to renew.",
            "`academy budget` tells how many are left.",
        )
    verdicts = list(home.ledger.rows(VerdictEntry))
    datasets = all_datasets(home.datasets)
    newest = max((one.cursor for one in datasets), default=0)
    until = max((row.body.cursor for row in verdicts), default=0)
    # by their ids as well: a lesson that was released has a new number, and was seen all the same
    in_any = {one["id"] for dataset in datasets for one in dataset.inputs()}
    asked_of = {row.body.dataset for row in verdicts}
    in_asked = {one["id"] for dataset in datasets if dataset.digest in asked_of for one in dataset.inputs()}
    examined, seen, unseen, opened = [], [], [], []
    for raw in home.store.every():
        example = Example.of(clean(raw)[0], origin="")  # as curation writes it into the register
        request = GroupedRequest(text=example.opening, suite=example.suite, group=example.group)
        if raw.seq <= until or raw.id in in_asked:
            examined.append(request)
        if raw.seq <= max(newest, until) or raw.id in in_any:
            seen.append(request)
    for raw in home.store.read(since=max(newest, until)):
        if raw.id in in_any or reason_to_drop(raw):
            continue
        example = Example.of(clean(raw)[0], origin="")
        request = GroupedRequest(text=example.opening, suite=example.suite, group=example.group)
        opened.append(request)
        if not example.context:  # the exam asks single requests
            unseen.append(request)
    with home.database.write() as connection:
        home.holdout.assign(opened, connection)
        found = home.holdout.renew(examined, seen, unseen, FEWEST_GROUPS, connection)
        key = f"renewal:{home.base.digest}:{len(verdicts)}"
        home.ledger.append(key, RenewalEntry(**found.model_dump(), after=len(verdicts)), connection)
    log.info("hold-out renewed: %d retired, %d fresh", found.retired, found.fresh)
    return found


def summary(home: Home) -> dict[str, Any]:
    """What `academy status` tells."""
    champion = home.ledger.champion()
    verdicts = list(home.ledger.rows(VerdictEntry))
    statistics = home.store.get_statistics()
    shown = home.versions.find(champion.version) if champion.version != BASE else None
    return {
        "champion": champion.name if champion.version == BASE else champion.version,
        "adapter": champion.adapter,
        "tainted": shown is not None and shown.tainted,
        "refused": refusal(home.ledger, champion.adapter, [champion.version]) if champion.version != BASE else "",
        "generation": champion.generation,
        "base_model": {"name": home.base.name, "digest": home.base.digest, "family": home.base.family},
        "lessons": statistics | {"new": home.store.trainable(since=champion.cursor)},
        "last_verdict": {"at": verdicts[-1].at, **_short(verdicts[-1])} if verdicts else None,
        "budget": {"spent": home.ledger.verdicts_spent(), "left": home.ledger.budget_left(HORIZON), "horizon": HORIZON},
        "waiting": [row.body.version for row in open_verdicts(home.ledger)] if waits_for_approval(home) else [],
        "home": str(home.settings.home),
    }


def _short(row: Row[VerdictEntry]) -> dict[str, Any]:
    return {"outcome": row.body.outcome, "because": row.body.because, "version": row.body.version}
