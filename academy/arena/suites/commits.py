"""Commits: from what changed to the subject line. Told in the report, never decisive: there is no one right subject."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from academy.arena.suite import Question
from academy.artifacts import digest_of
from academy.curriculum.dataset import Example

GRADER = "F1 of lower-case words, 1"
MOST = 24
"""Questions at most; the suite decides nothing, so it must not cost much."""


class CommitsSuite:
    """Held-out commits of a dataset."""

    name = "commits"
    decisive = False

    def __init__(self, held_out: Sequence[Example]) -> None:
        commits = sorted((example for example in held_out if example.suite == "commits"), key=lambda e: e.id)
        self._questions = tuple(
            Question(id=e.id, request=e.request, reference=e.answer, group=e.origin, slice="new")
            for e in commits[:MOST]
        )

    @property
    def digest(self) -> str:
        """Covers questions, references and grader."""
        return digest_of([GRADER, [q.model_dump(mode="json") for q in self._questions]])

    def questions(self) -> Sequence[Question]:
        """In the order of their ids."""
        return self._questions

    def grade(self, question: Question, answer: str) -> float:
        """F1 of the words of answer and reference."""
        said, wanted = Counter(answer.lower().split()), Counter(question.reference.lower().split())
        shared = (said & wanted).total()
        return 2 * shared / (said.total() + wanted.total()) if shared else 0.0
