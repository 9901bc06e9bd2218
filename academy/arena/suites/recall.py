"""Recall: held-out wordings of lessons; the answer must be the team's own answer.

Correct means the same answer, ignoring white space: a command that is nearly right is wrong. The report also shows how
many answers match without case and punctuation, and the F1 score of the words.
"""

from __future__ import annotations

from collections.abc import Sequence

from academy.arena.scores import normalised, same_text, word_f1
from academy.arena.suites.base import Question, Reply, Role
from academy.arena.suites.factory import SuiteContext, SuiteFactory
from academy.arena.suites.fixed import FixedQuestions
from academy.curriculum.dataset import Example
from academy.models.thinking import without_thoughts

GRADER = "exact match, white space apart, 2"


class RecallSuite(FixedQuestions):
    """Held-out lessons of a dataset; those known before `cursor` are the guard slice."""

    name = "recall"
    role: Role = "target"
    grader = GRADER

    def __init__(self, held_out: Sequence[Example], cursor: int) -> None:
        super().__init__(
            Question(
                id=example.id,
                request=example.request,
                reference=without_thoughts(example.answer),
                group=example.group,
                slice="guard" if example.seq <= cursor else "new",
                tags=example.tags,
                system=example.system,
            )
            for example in sorted(held_out, key=lambda e: e.id)
            if example.suite == "recall"
        )

    def grade(self, question: Question, reply: Reply) -> float:
        """1 for the team's answer, 0 for any other."""
        return float(same_text(reply.text, question.reference))

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """`normalised` (1 or 0) and `words` (F1)."""
        return {
            "normalised": float(normalised(reply.text) == normalised(question.reference)),
            "words": word_f1(reply.text, question.reference),
        }

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        """The reference, or an empty answer."""
        return Reply(text=question.reference if right else "")


class RecallFactory(SuiteFactory):
    """Creates the suite from the held-out lessons."""

    description = "held-out wordings of lessons, answered exactly; the target"

    def create(self, context: SuiteContext) -> RecallSuite:
        """The suite of the dataset."""
        return RecallSuite(context.held_out, context.cursor)
