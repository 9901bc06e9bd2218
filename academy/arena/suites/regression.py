"""Regression: general skills, and every lesson that an earlier champion answered correctly.

The general questions are in general.jsonl, written for this project. The lessons come from the records of earlier
champions' examinations, without superseded and forgotten ones and without those that the recall suite asks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from academy.arena.graders import Exact, Grader
from academy.arena.suites.base import Question
from academy.arena.suites.factory import SuiteContext, SuiteFactory
from academy.arena.suites.user import Heading, UserSuite
from academy.curriculum.dataset import group_of
from academy.curriculum.decontamination import GuardedSuite
from academy.experience.experience import Experience, system_message
from academy.models.thinking import without_thoughts

FILE = Path(__file__).with_name("general.jsonl")


def regression(known: Iterable[Experience]) -> UserSuite:
    """The general questions, and the lessons that an earlier champion knew."""
    general = UserSuite.read(FILE)
    lines: list[tuple[Question, Grader]] = [(q, general.grader(q)) for q in general.questions()]
    for lesson in sorted(known, key=lambda lesson: lesson.id):
        question = Question(
            id=lesson.id, request=lesson.request, reference=without_thoughts(lesson.answer),
            group=group_of(lesson.answer), slice="guard", tags=("earlier champion", *lesson.tags),
            system=system_message(lesson.context),
        )  # fmt: skip
        lines.append((question, Exact(reference=without_thoughts(lesson.answer))))
    return UserSuite(Heading(suite="regression", role="guard"), lines, None)


class RegressionFactory(SuiteFactory):
    """Creates the suite from the general questions and the lessons that earlier champions knew."""

    description = "general skills, and what earlier champions answered correctly; a guard"

    def create(self, context: SuiteContext) -> UserSuite:
        """The suite of this home."""
        return regression(context.known_lessons())

    def guarded(self) -> GuardedSuite:
        """The general requests. They are short, so only a full quotation counts as an overlap."""
        return GuardedSuite("general", [q.request for q in UserSuite.read(FILE).questions()], shared_runs=False)
