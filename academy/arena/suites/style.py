"""Style: does the answer end by itself, keep the reference's form, and its length? Asked with the recall questions.

A training can teach the right words and spoil the manners: answers that run on until they are cut off, a sentence
where a command is due, a fence around everything. The same replies are graded, so this suite costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from academy.arena.suites.base import Question, Reply, Role
from academy.arena.suites.fixed import FixedQuestions

GRADER = "stop, form, length within a factor of two and 40 characters; mean, 1"
ROOM, FACTOR = 40, 2.0
_LIST = re.compile(r"^\s*(?:[-*]|\d+[.)])\s", re.MULTILINE)


def form_of(text: str) -> str:
    """fence, JSON, list, lines or line."""
    stripped = text.strip()
    if "```" in stripped:
        return "fence"
    if stripped[:1] in "{[" and stripped[-1:] in "}]" and stripped:
        return "JSON"
    if len(_LIST.findall(stripped)) > 1:
        return "list"
    return "lines" if "\n" in stripped else "line"


class StyleSuite(FixedQuestions):
    """The manners of the answers to another suite's questions."""

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
        said, wanted = reply.text.strip(), question.reference.strip()
        if not said:
            return {"stop": 0.0, "form": 0.0, "length": 0.0}
        short, long = len(wanted) / FACTOR - ROOM, len(wanted) * FACTOR + ROOM
        return {
            "stop": float(reply.stopped),
            "form": float(form_of(said) == form_of(wanted)),
            "length": float(short <= len(said) <= long),
        }

    def planted(self, question: Question, *, right: bool) -> Reply:
        """The reference, or one that never ends."""
        wanted = question.reference
        return Reply(text=wanted) if right else Reply(text=f"{wanted}\n- and so on\n" * 20, stopped=False)
