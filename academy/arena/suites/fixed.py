"""Base class of suites whose questions are all known when the suite is created."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from academy.arena.suites.base import Question
from academy.records import digest_of


class FixedQuestions:
    """Holds the questions, and computes the digest over them and `grader`, the name and version of the grader."""

    grader: ClassVar[str]

    def __init__(self, questions: Iterable[Question]) -> None:
        self._questions = tuple(questions)

    @property
    def digest(self) -> str:
        """Covers questions, references, slices and grader."""
        return digest_of([self.grader, [q.model_dump(mode="json") for q in self._questions]])

    def questions(self) -> Sequence[Question]:
        """In a fixed order."""
        return self._questions
