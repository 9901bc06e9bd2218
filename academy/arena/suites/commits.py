"""Commits: from what changed to the subject line. Told in the report, never decisive: there is no one right subject."""

from __future__ import annotations

from collections.abc import Sequence

from academy.arena.scores import word_f1
from academy.arena.suites.base import Question, Reply, Role
from academy.arena.suites.fixed import FixedQuestions
from academy.curriculum.dataset import Example

GRADER = "F1 of lower-case words, 2"
MOST = 24
"""Questions at most; the suite decides nothing, so it must not cost much."""


class CommitsSuite(FixedQuestions):
    """Held-out commits of a dataset."""

    name = "commits"
    role: Role = "told"
    grader = GRADER

    def __init__(self, held_out: Sequence[Example]) -> None:
        commits = sorted((example for example in held_out if example.suite == "commits"), key=lambda e: e.id)
        super().__init__(
            Question(id=e.id, request=e.request, reference=e.answer, group=e.origin, slice="new")
            for e in commits[:MOST]
        )

    def grade(self, question: Question, reply: Reply) -> float:
        """F1 of the words of answer and reference."""
        return word_f1(reply.text, question.reference)

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """`exact`: the very subject line."""
        return {"exact": float(reply.text.split() == question.reference.split())}

    def planted(self, question: Question, *, right: bool) -> Reply:
        """The reference, or nothing."""
        return Reply(text=question.reference if right else "")
