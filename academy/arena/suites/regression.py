"""Regression: general skills, and every lesson that an earlier champion answered rightly.

The general questions lie in general.jsonl, written for this project. What an earlier champion could do comes from the
records of its examinations; a lesson that was superseded, forgotten or is asked by the recall suite anyway is no
question here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from academy.arena.graders import Exact, Grader
from academy.arena.suites.base import Question
from academy.arena.suites.user import Heading, UserSuite
from academy.curriculum.dataset import group_of
from academy.experience.experience import Experience

FILE = Path(__file__).with_name("general.jsonl")


def regression(known: Iterable[Experience]) -> UserSuite:
    """The suite with these lessons, which an earlier champion knew."""
    general = UserSuite.read(FILE)
    lines: list[tuple[Question, Grader]] = [(q, general.grader(q)) for q in general.questions()]
    for lesson in sorted(known, key=lambda one: one.id):
        question = Question(
            id=lesson.id, request=lesson.request, reference=lesson.answer, group=group_of(lesson.answer),
            slice="guard", tags=("earlier champion", *lesson.tags),
        )  # fmt: skip
        lines.append((question, Exact(reference=lesson.answer)))
    return UserSuite(Heading(suite="regression", role="guard"), lines, None)
