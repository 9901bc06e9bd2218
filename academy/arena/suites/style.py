"""Style: whether an answer to a recall question ends by itself and has the form and length of the reference.

A training can teach the right words and spoil the form: answers that run until they are truncated, a sentence in place
of a command, a fence around everything. The suite grades the replies to the recall questions, so it costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from academy.arena.suites.base import Question, Reply, Role
from academy.arena.suites.factory import SuiteContext, SuiteFactory
from academy.arena.suites.fixed import FixedQuestions
from academy.arena.suites.recall import RecallSuite

GRADER = "stop, form, length within a factor of two and 40 characters; mean, 1"
ROOM, FACTOR = 40, 2.0
_LIST = re.compile(r"^[^\S\n]*+(?:[-*]|\d++[.)])\s", re.MULTILINE)


def form_of(text: str) -> str:
    """The form of a text: fence, JSON, list, lines or line."""
    content = text.strip()
    if "```" in content:
        return "fence"
    if content[:1] in "{[" and content[-1:] in "}]" and content:
        return "JSON"
    if len(_LIST.findall(content)) > 1:
        return "list"
    return "lines" if "\n" in content else "line"


class StyleSuite(FixedQuestions):
    """The form of the answers to another suite's questions."""

    name = "style"
    role: Role = "guard"
    grader = GRADER

    def __init__(self, questions: Sequence[Question]) -> None:
        super().__init__(questions)

    def grade(self, question: Question, reply: Reply) -> float:
        """The mean of stop, form and length; 0 for an empty answer."""
        return sum(self.details(question, reply).values()) / 3

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """`stop`, `form`, `length`: 1 or 0 each."""
        answer, reference = reply.text.strip(), question.reference.strip()
        if not answer:
            return {"stop": 0.0, "form": 0.0, "length": 0.0}
        shortest, longest = len(reference) / FACTOR - ROOM, len(reference) * FACTOR + ROOM
        return {
            "stop": float(reply.stopped),
            "form": float(form_of(answer) == form_of(reference)),
            "length": float(shortest <= len(answer) <= longest),
        }

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        """The reference, or an answer that never ends."""
        reference = question.reference
        return Reply(text=reference) if right else Reply(text=f"{reference}\n- and so on\n" * 20, stopped=False)


class StyleFactory(SuiteFactory):
    """Creates the suite from the recall questions."""

    description = "whether the recall answers end by themselves, with the reference's form and length; a guard"

    def create(self, context: SuiteContext) -> StyleSuite:
        """The suite of the dataset."""
        return StyleSuite(RecallSuite(context.held_out, context.cursor).questions())
