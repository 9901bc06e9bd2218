"""What an examination is made of: questions, answers, scores, and the protocols of suites and players."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from academy.artifacts import Record, digest_of

Slice = Literal["guard", "new"]


class Question(Record):
    """One item. `group` is the unit of independence (for lessons: the answer); `slice` says whether it was held out
    before the lessons that the challenger learned anew."""

    id: str
    request: str
    reference: str
    group: str
    slice: Slice
    tags: tuple[str, ...] = ()


class Generation(Record):
    """How answers are generated: greedily, at most so many tokens."""

    max_new_tokens: int

    @property
    def digest(self) -> str:
        """Names the settings: cached answers carry it."""
        return digest_of(self)[:16]


class Answer(Record):
    """A player's answer to one question, scored from 0 to 1 by the suite."""

    question: str
    text: str
    score: float


class Player(Protocol):
    """Answers requests. Promises one answer for each request, in order; the same request gives the same answer."""

    @property
    def identity(self) -> str:
        """An adapter's digest, or the base model's."""
        ...

    def answer(self, requests: Sequence[str], generation: Generation) -> list[str]:
        """Answers without special tokens."""
        ...


class Suite(Protocol):
    """Questions and their grader together."""

    @property
    def name(self) -> str:
        """As shown to people."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever a question, a reference or the grader changes."""
        ...

    @property
    def decisive(self) -> bool:
        """Whether it may decide a verdict, or is only told."""
        ...

    def questions(self) -> Sequence[Question]:
        """All questions, in a stable order."""
        ...

    def grade(self, question: Question, answer: str) -> float:
        """A score from 0 (wrong) to 1 (right)."""
        ...
