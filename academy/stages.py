"""The stages of the loop, each one call: what the Prefect tasks and the command line have in common.

A stage may be called again after it was killed: it finds what it had done by its digest and goes on from there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from academy import professor, tuning
from academy.admission import refusal
from academy.approval import open_verdicts
from academy.arena.verdict import FEWEST_GROUPS, HORIZON
from academy.artifacts import Record, digest_of_file
from academy.curriculum import replay
from academy.curriculum.curator import DatasetCurator, refuse_overlap_of_texts
from academy.curriculum.dataset import Dataset, Example, all_datasets, read_rows
from academy.curriculum.filters import clean, reason_to_drop
from academy.curriculum.register import Renewal, Request
from academy.curriculum.sharding import Run, in_process
from academy.errors import InputError, TrainingError
from academy.examining import guarded_texts
from academy.experience.commits import is_repository, open_repository
from academy.experience.conversations import Wanted
from academy.experience.lessons import Import
from academy.experience.source import Kind
from academy.genealogy.tracking import BASE_TAG, PREDICTED, TrackedRun, took
from academy.genealogy.versions import Version
from academy.habitat.adapter import sign_adapter
from academy.habitat.backend import TrainingEvent, TrainingOrder
from academy.habitat.choice import choose_backend
from academy.habitat.fit import Device, Plan
from academy.habitat.process import ORDER, read_events
from academy.habitat.watch import progress
from academy.ledger import BASE, Row
from academy.placing import Placement, below, first_device, place
from academy.professor import Decision, Recipe
from academy.succession import waits_for_approval
from academy.tuning import Search, Tuned, space_around
from academy.workplace import Workplace

log = logging.getLogger("academy")
TOLD = 10
"""How many steps of a training are told in words; MLflow has them all."""


class Overrides(Record):
    """What a person fixed of the recipe; the professor chooses the rest."""

    rank: int | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = None


def admit(
    work: Workplace,
    lessons: Sequence[Path] = (),
    tasks: Sequence[Path] = (),
    *,
    conversations: Sequence[Path] = (),
    files: Sequence[Path] = (),
    wanted: Wanted | None = None,
) -> list[Import]:
    """Import files of lessons, tasks, conversations and examples; lines known already change nothing."""
    kinds: dict[Kind, Sequence[Path]] = {
        "lesson": lessons, "task": tasks, "conversation": conversations, "file": files,
    }  # fmt: skip
    for path in (path for paths in kinds.values() for path in paths):
        if not path.is_file():
            raise InputError(f"There is no file {path}.", "Check the path; a JSONL file has one lesson a line.")
    found = [
        work.store.import_file(path, work.quarantine, kind, wanted) for kind, paths in kinds.items() for path in paths
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
    work: Workplace,
    repos: Sequence[Path],
    lessons_limit: int | None = None,
    shards: int = 1,
    run: Run = in_process,
) -> Dataset:
    """Experience to a dataset under its digest; the same one in any number of shards, whoever runs them."""
    curator = DatasetCurator(
        work.store,
        work.base.count_tokens,
        context=work.base.context,
        max_lessons=work.settings.max_lessons,
        base=work.base.digest,
        replay=replay_share(work),
        allowed=allowed(work),
        guarded=guarded_texts(work.settings),
        shards=shards,
        run=run,
        commits_cache=work.settings.folder("git"),
        trusted=work.settings.trusted_authors,
        per_source=work.settings.max_per_source,
        per_author=work.settings.max_per_author,
    )
    curator.collect_from_lessons(lessons_limit)
    curator.collect_from_task_history(lessons_limit)
    for repo in repos:
        curator.collect_from_git_history(repo, work.settings.git_commits_limit)
    curator.filter_low_quality()
    dataset = curator.save(work.datasets, work.register)
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


def replay_share(work: Workplace) -> float:
    """The share of older lessons in the next dataset: more where the guard slice fell in earlier examinations."""
    share = replay.SHARE
    for row in work.ledger.rows("verdict"):
        guard = row.body["guard"] or {}
        share = replay.share_after(share, guard.get("difference"), guard.get("low"))
    return share


def allowed(work: Workplace) -> set[str]:
    """Keys of the overlaps that a person allowed."""
    return {row.body["overlap"] for row in work.ledger.rows("allow")}


def choose(work: Workplace, dataset: Dataset, overrides: Overrides) -> Recipe:
    """The professor's recipe for a dataset, with what the settings and a person fixed."""
    return choose_for(work, dataset.longest, overrides, dataset)


def choose_for(work: Workplace, longest: int, overrides: Overrides, dataset: Dataset | None = None) -> Recipe:
    """The recipe for examples of at most so many tokens, on this machine; of a dataset where there is one already."""
    return professor.choose_recipe(
        parameters=work.base.parameters,
        longest=longest,
        context=work.base.context,
        examples=dataset.examples if dataset else None,
        tokens=dataset.tokens if dataset else None,
        gpu=first_device(work) == "cuda",
        pack=work.settings.packing,
        batch_size=overrides.batch_size,
        **fixed(work, overrides),
    )


def fixed(work: Workplace, overrides: Overrides) -> dict[str, Any]:
    """What a person fixed of what else would be searched, by options or settings; None where nothing is fixed."""
    settings = work.settings
    return {
        "rank": overrides.rank or settings.lora_rank,
        "learning_rate": overrides.learning_rate or settings.learning_rate,
        "epochs": overrides.epochs or settings.num_epochs,
    }


def refuse_tuning(work: Workplace, overrides: Overrides) -> None:
    """Raises InputError where a search for a recipe would have nothing to search; before anything else happens."""
    tuning.refuse_fixed([name for name, value in fixed(work, overrides).items() if value is not None])


def search_for(work: Workplace, dataset: Dataset, overrides: Overrides, trials: int, form: str = "") -> Search:
    """The search for a dataset's recipe around the professor's. Raises InputError where nothing is left to search."""
    order = place_order(work, dataset, choose(work, dataset, overrides), form)
    stays = [name for name, value in fixed(work, overrides).items() if value is not None]
    return Search(order, space_around(order.recipe, stays), trials)


def tune(work: Workplace, dataset: Dataset, search: Search, minutes: float | None = None) -> Tuned:
    """Hold a search, or give what it found before; within so many minutes or those of the settings.

    Raises as `train` and `academy.tuning.tune` do.
    """
    _refuse_overlap(work, dataset)
    return tuning.tune(work, search, dataset, minutes or work.settings.tune_minutes)


def place_order(work: Workplace, dataset: Dataset, recipe: Recipe, form: str = "") -> TrainingOrder:
    """Everything that decides an adapter's bytes, as one record. `form` trains on another format of the same lines."""
    file = dataset.export(form) if form else dataset.train_file
    return TrainingOrder(
        base=work.base,
        dataset=dataset.digest,
        train_file=file,
        train_digest=digest_of_file(file) if form else dataset.train_digest,
        recipe=recipe,
        runs=work.settings.folder("runs"),
        adapters=work.adapters,
    )


def decide(
    work: Workplace,
    *,
    force: bool,
    order: TrainingOrder | None = None,
    dataset: Dataset | None = None,
    to_tune: bool = False,
) -> Decision:
    """Whether training pays now; with an order, also whether it was examined before, and where it would fit.

    With `to_tune` the order's recipe is only where a search begins, so that it was examined is nothing against it.
    """
    placed = place(work, order.recipe, dataset.longest) if order and dataset else None
    same = carried_out_as(order, placed) if order and placed and not to_tune else set()
    champion = work.ledger.champion()
    verdicts = list(work.ledger.rows("verdict"))
    examined = next(
        (
            row.body["outcome"]
            for row in reversed(verdicts)
            if row.body["order"] in same and row.body["outcome"] != "CANNOT DECIDE"
        ),
        "",
    )
    decision = professor.decide(
        lessons=work.store.trainable(),
        new_lessons=work.store.trainable(since=champion.cursor),
        last_verdict=datetime.fromisoformat(verdicts[-1].at) if verdicts else None,
        now=datetime.now(UTC),
        min_lessons=work.settings.min_lessons,
        min_new_lessons=work.settings.min_new_lessons,
        interval_hours=work.settings.training_interval_hours,
        examples=dataset.examples if dataset else None,
        examined=examined,
        place=(bool(placed.route.place), placed.sentence) if placed else None,
        force=force,
    )
    log.info("%s: %s", "training" if decision.train else "no training", decision.because)
    return decision


def train(
    work: Workplace,
    order: TrainingOrder,
    dataset: Dataset,
    tags: dict[str, str],
    meanwhile: Callable[[], object] = lambda: None,
    only: Device | None = None,
    tuned: Tuned | None = None,
) -> Version:
    """Run an order, follow it in MLflow and register its adapter as a version; on that kind of device only.

    `meanwhile` is called once the trainer runs: what can be prepared while it works. `tuned` is the search that found
    the recipe; its record goes into MLflow with the run. Raises TrainingError, before
    anything starts where it would fit nowhere, and ExaminationError where the dataset overlaps with what is examined.
    """
    _refuse_overlap(work, dataset)
    placed = place(work, order.recipe, dataset.longest, only=only)
    placed.require()
    how = {"library": work.settings.training_library, "processes": work.settings.training_processes}
    while True:
        order = changed(order, placed.recipe, placed.plan.model_copy(update=how), placed.changes)
        log.info("training on %s", placed.sentence)
        last, run = _attempt(work, order, dataset, placed, tags, meanwhile, tuned)
        if last.phase == "done":
            break
        lower = below(work, placed, dataset.longest, only=only) if last.cause == "memory" else None
        if lower is None:
            raise TrainingError(
                last.message, "Run the same command again: it goes on from the last checkpoint.", last.cause
            )
        log.warning("%s It goes on with %s.", last.message, lower.changes[-1])
        placed = lower
    champion = work.ledger.champion()
    # here and not in the trainer: that one may run in a container, and has no key
    adapter = sign_adapter(
        work.adapters / last.adapter[:16], work.keys, base_digest=work.base.digest, digest=last.adapter
    )
    version = work.versions.register(adapter, run, parent=champion.version, generation=champion.generation + 1)
    log.info("%s is registered: adapter %s", version.name, version.adapter[:12])
    return version


def _refuse_overlap(work: Workplace, dataset: Dataset) -> None:
    rows = read_rows(dataset.train_file)
    others = guarded_texts(work.settings)
    refuse_overlap_of_texts([row["messages"] for row in rows], dataset.held_out(), others, allowed(work))


def changed(
    order: TrainingOrder, recipe: Recipe, plan: Plan | None = None, changes: tuple[str, ...] = ()
) -> TrainingOrder:
    """The same order with another recipe or plan."""
    return order.model_copy(update={"recipe": recipe, "plan": plan, "changes": changes})


def carried_out_as(order: TrainingOrder, placed: Placement) -> set[str]:
    """Digests of an order and of those that stood in for it because it took too much memory."""
    found = {order.digest}
    for step in placed.ladder:
        lower = changed(order, step.rung.recipe)
        with suppress(OSError, ValueError):
            if TrainingOrder.model_validate_json((lower.folder / ORDER).read_bytes()).changes:
                found.add(lower.digest)
    return found


def _attempt(
    work: Workplace,
    order: TrainingOrder,
    dataset: Dataset,
    placed: Placement,
    tags: dict[str, str],
    meanwhile: Callable[[], object],
    tuned: Tuned | None,
) -> tuple[TrainingEvent, TrackedRun]:
    """One order from its first event to its last, in its MLflow run."""
    events = choose_backend(work.settings, placed.route.gpu).train(order)
    first = next(events)
    meanwhile()
    found = tuned.tags if tuned else {}
    run = TrackedRun(work.mlflow, order, dataset, tags | found | placed.tags | {BASE_TAG: work.base.digest})
    if tuned:
        run.keep("tuning/trials.json", tuned.model_dump(mode="json"))
    if placed.prediction:
        run.metrics({PREDICTED: float(placed.prediction.measurable)})
    told = [first]
    run.follow(first)
    for event in events:
        run.follow(event)
        _tell(event, told[-1])
        told.append(event)
    run.metrics(took(progress(told, followed=False, price=work.settings.price_per_hour)))
    return told[-1], run


def renew_holdout(work: Workplace) -> Renewal:
    """Retire the questions that were examined and hold out fresh ones that no dataset has seen; a ledger row.

    Raises InputError, and changes nothing, where no examination was spent yet or too few unseen lessons are there.
    """
    if not work.ledger.verdicts_spent():
        raise InputError(
            "No examination was spent on these questions yet, so there is nothing to renew.",
            "`academy budget` tells how many are left.",
        )
    verdicts = list(work.ledger.rows("verdict"))
    datasets = all_datasets(work.datasets)
    newest = max((one.cursor for one in datasets), default=0)
    until = max((row.body["cursor"] for row in verdicts), default=0)
    # by their ids as well: a lesson that was released has a new number, and was seen all the same
    in_any = {one["id"] for dataset in datasets for one in dataset.inputs()}
    asked_of = {row.body["dataset"] for row in verdicts}
    in_asked = {one["id"] for dataset in datasets if dataset.digest in asked_of for one in dataset.inputs()}
    examined, seen, unseen, opened = [], [], [], []
    for raw in work.store.every():
        example = Example.of(clean(raw)[0], origin="")  # as curation writes it into the register
        request = Request(text=example.opening, suite=example.suite, group=example.group)
        if raw.seq <= until or raw.id in in_asked:
            examined.append(request)
        if raw.seq <= max(newest, until) or raw.id in in_any:
            seen.append(request)
    for raw in work.store.read(since=max(newest, until)):
        if raw.id in in_any or reason_to_drop(raw):
            continue
        example = Example.of(clean(raw)[0], origin="")
        request = Request(text=example.opening, suite=example.suite, group=example.group)
        opened.append(request)
        if not example.context:  # the exam asks single requests
            unseen.append(request)
    with work.database.write() as connection:
        work.register.assign(opened, connection)
        found = work.register.renew(examined, seen, unseen, FEWEST_GROUPS, connection)
        key = f"renewal:{work.base.digest}:{len(verdicts)}"
        work.ledger.append("renewal", key, {**found.model_dump(), "after": len(verdicts)}, connection)
    log.info("hold-out renewed: %d retired, %d fresh", found.retired, found.fresh)
    return found


def _tell(event: TrainingEvent, before: TrainingEvent) -> None:
    if event.phase == "contract":
        log.info("contract holds: %s", event.message)
    elif event.phase == "step" and event.loss is not None and event.steps:
        tenth = event.step * TOLD // event.steps
        if tenth != before.step * TOLD // event.steps:
            log.info("step %d of %d, loss %.3f", event.step, event.steps, event.loss)


def last_rate(work: Workplace) -> float | None:
    """Tokens a second of the last training in this home, from its own events."""
    runs = sorted(work.settings.folder("runs").glob("*/events.jsonl"), key=lambda path: path.stat().st_mtime)
    rates = [event.rate for event in read_events(runs[-1]) if event.rate] if runs else []
    return sum(rates) / len(rates) if rates else None


def summary(work: Workplace) -> dict[str, Any]:
    """What `academy status` tells."""
    champion = work.ledger.champion()
    verdicts = list(work.ledger.rows("verdict"))
    statistics = work.store.get_statistics()
    shown = work.versions.find(champion.version) if champion.version != BASE else None
    return {
        "champion": champion.name if champion.version == BASE else champion.version,
        "adapter": champion.adapter,
        "tainted": shown is not None and shown.tainted,
        "refused": refusal(work.ledger, champion.adapter, [champion.version]) if champion.version != BASE else "",
        "generation": champion.generation,
        "base_model": {"name": work.base.name, "digest": work.base.digest, "family": work.base.family},
        "lessons": statistics | {"new": work.store.trainable(since=champion.cursor)},
        "last_verdict": {"at": verdicts[-1].at, **_short(verdicts[-1])} if verdicts else None,
        "budget": {"spent": work.ledger.verdicts_spent(), "left": work.ledger.budget_left(HORIZON), "horizon": HORIZON},
        "waiting": [row.body["version"] for row in open_verdicts(work.ledger)] if waits_for_approval(work) else [],
        "home": str(work.settings.home),
    }


def _short(row: Row) -> dict[str, Any]:
    return {name: row.body[name] for name in ("outcome", "because", "version")}
