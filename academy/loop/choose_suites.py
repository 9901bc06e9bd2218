"""Chooses the suites of an examination by name or file, and says which are skipped and why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache

from academy.arena import self_check
from academy.arena.examination import read_examination
from academy.arena.sandbox import find_sandbox
from academy.arena.suites import table
from academy.arena.suites.base import Generation, Suite
from academy.arena.suites.factory import SuiteContext
from academy.arena.suites.lm_eval import LmEvalSuite
from academy.arena.suites.suspects import SuspectsSuite
from academy.curriculum.dataset import Dataset
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.filters import as_learned
from academy.errors import ExaminationError
from academy.experience.experience import Experience
from academy.loop.home import Home
from academy.loop.trust_suite import trusted_suites
from academy.settings import Settings
from academy.store.ledger import Champion
from academy.store.ledger_rows import PromotionEntry, VerdictEntry

log = logging.getLogger(__name__)
LONGEST_ANSWER = 0.5
"""Share of the model's context that an answer may take."""


def choose_suites(
    home: Home, dataset: Dataset, champion: Champion, names: Sequence[str]
) -> tuple[list[tuple[Suite, Generation]], dict[str, str]]:
    """The suites of these names or files with their generation settings, and the skipped ones with the reason.

    Raises InputError for an unknown name and for a file that cannot be read.
    """
    context = suite_context(home, dataset, champion)
    suites, skipped = table.create_suites(names, context)
    if "recall" in names and (suspects := suspects_of(home, dataset)):
        trusted = [
            learned
            for lesson in home.store.read()
            if lesson.trusted and not lesson.suspect and lesson.outcome == "success" and (learned := as_learned(lesson))
        ]
        suite = SuspectsSuite(context.held_out, context.cursor, suspects, trusted)
        suites = [*suites, suite] if suite.questions() else suites
    return [(suite, _generation(home, suite)) for suite in suites], skipped


def suspects_of(home: Home, dataset: Dataset) -> list[Experience]:
    """The lessons of a dataset that need special care: of untrusted sources, or released after a REJECT."""
    lessons = home.store.by_id(row["id"] for row in dataset.inputs()).values()
    return [
        learned
        for lesson in sorted(lessons, key=lambda lesson: lesson.id)
        if (lesson.suspect or not lesson.trusted) and lesson.outcome == "success" and (learned := as_learned(lesson))
    ]


def undecidable(home: Home, dataset: Dataset) -> str:
    """Why no examination on this dataset's held-out questions could promote a challenger; empty where one could."""
    names = [name for name in home.settings.suites if table.may_be_target(name)]
    suites, _ = table.create_suites(names, suite_context(home, dataset, home.ledger.champion()))
    spent = home.ledger.verdicts_spent()
    problems = (self_check.undecidable(suite.questions(), spent) for suite in suites if suite.role == "target")
    return next((problem for problem in problems if problem), "")


def suite_context(home: Home, dataset: Dataset, champion: Champion) -> SuiteContext:
    """The input of the suites' factories, for one dataset and one champion."""
    active = {lesson.id: lesson.seq for lesson in home.store.read() if lesson.trusted and not lesson.suspect}
    held_out = home.holdout.examined(dataset.held_out(active))

    def known_lessons() -> Iterable[Experience]:
        ids = (_answered_earlier(home) & active.keys()) - {example.id for example in held_out}
        return filter(None, map(as_learned, home.store.by_id(ids).values()))

    return SuiteContext(
        held_out=tuple(held_out),
        cursor=champion.cursor,
        known_lessons=known_lessons,
        source_lessons=lambda: home.store.by_id(row["id"] for row in dataset.inputs()).values(),
        sandbox=cache(lambda: find_sandbox(home.settings.sandbox, image=home.settings.sandbox_image)),
        trusted=trusted_suites(home.settings),
    )


def guarded_texts(settings: Settings) -> list[GuardedSuite]:
    """The questions of the settings' suites, which curation keeps out of training. It guards the hold-out itself."""
    return table.guarded_texts(settings.suites)


def _generation(home: Home, suite: Suite) -> Generation:
    """Room for the longest reference or a task's answer, in steps of 32 tokens so that saved answers stay valid."""
    longest = max(home.base.count_tokens([question.reference for question in suite.questions()]), default=0)
    if isinstance(suite, LmEvalSuite):
        longest = max(longest, suite.max_new_tokens - 1)
    limit = max(32, int(home.base.context * LONGEST_ANSWER) // 32 * 32)
    return Generation(max_new_tokens=min(limit, 32 * (1 + (longest + 1) // 32)))


def _answered_earlier(home: Home) -> set[str]:
    """Lessons that a champion of this family answered correctly in the examination that promoted it."""
    champions = {row.body.adapter for row in home.ledger.rows(PromotionEntry)}
    ids: set[str] = set()
    for row in home.ledger.rows(VerdictEntry):
        path = home.settings.folder("examinations") / row.body.record
        if row.body.outcome != "PROMOTE" or row.body.challenger not in champions:
            continue
        try:
            results = read_examination(path).results
        except ExaminationError as problem:  # a lost record cannot be restored, and must not stop the loop permanently
            log.warning("the answers of v%s are not asked again: %s", row.body.version, problem.message)
            continue
        for result in results:
            if result.suite in ("recall", "regression"):
                ids |= {answer.question for answer in result.challenger if answer.score == 1}
    return ids
