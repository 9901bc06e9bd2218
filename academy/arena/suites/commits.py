"""Commits: from a change to its subject line. Informational, because a change has more than one good subject line."""

from __future__ import annotations

from collections.abc import Sequence

from academy.arena.scores import word_f1
from academy.arena.suites.base import Question, Reply, Role
from academy.arena.suites.factory import SuiteContext, SuiteFactory
from academy.arena.suites.fixed import FixedQuestions
from academy.curriculum.dataset import Example

GRADER = "F1 of lower-case words, 2"
MOST = 24
"""The maximum number of questions: an informational suite must be cheap."""


class CommitsSuite(FixedQuestions):
    """Held-out commits of a dataset."""

    name = "commits"
    role: Role = "informational"
    grader = GRADER

    def __init__(self, held_out: Sequence[Example]) -> None:
        commits = sorted((example for example in held_out if example.suite == "commits"), key=lambda e: e.id)
        super().__init__(
            Question(id=e.id, request=e.request, reference=e.answer, group=e.origin, slice="new")
            for e in commits[:MOST]
        )

    def grade(self, question: Question, reply: Reply) -> float:
        """The F1 score of the words of answer and reference."""
        return word_f1(reply.text, question.reference)

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """`exact`: 1 for the same subject line."""
        return {"exact": float(reply.text.split() == question.reference.split())}

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        """The reference, or an empty answer."""
        return Reply(text=question.reference if right else "")


class CommitsFactory(SuiteFactory):
    """Creates the suite from the held-out commits."""

    description = "from a change to its subject line; informational"

    def create(self, context: SuiteContext) -> CommitsSuite:
        """The suite of the dataset."""
        return CommitsSuite(context.held_out)
