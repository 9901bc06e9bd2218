"""Recall: held-out wordings of lessons, answered exactly as the team answers.

Right means the same answer, white space apart: a command that is nearly right is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from academy.arena.suite import Question
from academy.artifacts import digest_of
from academy.curriculum.dataset import Example

GRADER = "exact match, white space apart, 1"


class RecallSuite:
    """Held-out lessons of a dataset; those known before `cursor` are the guard slice."""

    name = "recall"
    decisive = True

    def __init__(self, held_out: Sequence[Example], cursor: int) -> None:
        self._questions = tuple(
            Question(
                id=example.id,
                request=example.request,
                reference=example.answer,
                group=example.group,
                slice="guard" if example.seq <= cursor else "new",
                tags=example.tags,
            )
            for example in sorted(held_out, key=lambda e: e.id)
            if example.suite == "recall"
        )

    @property
    def digest(self) -> str:
        """Covers questions, references, slices and grader."""
        return digest_of([GRADER, [q.model_dump(mode="json") for q in self._questions]])

    def questions(self) -> Sequence[Question]:
        """In the order of their ids."""
        return self._questions

    def grade(self, question: Question, answer: str) -> float:
        """1 for the team's own answer, 0 for any other."""
        return float(answer.split() == question.reference.split())
