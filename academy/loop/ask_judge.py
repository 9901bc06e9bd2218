"""Asks the judge of the settings for an opinion on an examination's answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from academy.arena.endpoint import Endpoint, JudgeTally, judge_pairs
from academy.arena.examination import Examination
from academy.arena.suites.base import Question
from academy.curriculum.dataset import Dataset, Example
from academy.curriculum.filters import clean
from academy.errors import ExaminationError
from academy.loop.home import Home

log = logging.getLogger(__name__)
GOLD_ASKED = 20
"""Gold answers that a judge is checked with."""


def configured_judge(home: Home) -> Endpoint | None:
    """The judge of the settings. Raises InputError for an invalid address."""
    return Endpoint.of(home.settings, home.settings.judge) if home.settings.judge else None


def ask_judge(
    home: Home, judge: Endpoint | None, examination: Examination, questions: Sequence[Question], dataset: Dataset
) -> JudgeTally | None:
    """The judge's opinion on the answers of the suite recall; `questions` are that suite's.

    A judge that fails is logged and gives None: it stops nothing.
    """
    if judge is None:
        return None
    by_id = {question.id: question for question in questions}
    pairs = [
        (by_id[before.question], before.text, after.text)
        for result in examination.results
        if result.suite == "recall"
        for before, after in zip(result.champion, result.challenger, strict=True)
    ]
    try:
        return judge_pairs(judge, pairs, _gold_answers(home, dataset.held_out()))
    except ExaminationError as problem:
        log.warning("the judge is skipped: %s", problem)
        return None


def _gold_answers(home: Home, held_out: Sequence[Example]) -> list[tuple[str, str, str]]:
    """Gold answers, each with another lesson's answer: (request, gold answer, other answer)."""
    lessons = home.store.by_id(example.id for example in held_out).values()
    gold = sorted((clean(lesson)[0] for lesson in lessons if lesson.gold), key=lambda lesson: lesson.id)
    answers = sorted({example.answer for example in held_out})
    return [
        (lesson.request, lesson.answer, next(answer for answer in answers if answer != lesson.answer))
        for lesson in gold[:GOLD_ASKED]
        if any(answer != lesson.answer for answer in answers)
    ]
