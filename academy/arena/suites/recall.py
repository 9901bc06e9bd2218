"""Recall: held-out wordings of lessons, answered exactly as the team answers.

Right means the same answer, white space apart: a command that is nearly right is wrong. Told beside it: the same
answer but for case and punctuation, and the F1 of its words.
"""

from __future__ import annotations

from collections.abc import Sequence

from academy.arena.scores import normalised, same_text, word_f1
from academy.arena.suites.base import Question, Reply, Role
from academy.arena.suites.fixed import FixedQuestions
from academy.curriculum.dataset import Example

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
                reference=example.answer,
                group=example.group,
                slice="guard" if example.seq <= cursor else "new",
                tags=example.tags,
            )
            for example in sorted(held_out, key=lambda e: e.id)
            if example.suite == "recall"
        )

    def grade(self, question: Question, reply: Reply) -> float:
        """1 for the team's own answer, 0 for any other."""
        return float(same_text(reply.text, question.reference))

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """`normalised` (1 or 0) and `words` (F1)."""
        return {
            "normalised": float(normalised(reply.text) == normalised(question.reference)),
            "words": word_f1(reply.text, question.reference),
        }

    def planted(self, question: Question, *, right: bool) -> Reply:
        """The reference, or nothing."""
        return Reply(text=question.reference if right else "")
