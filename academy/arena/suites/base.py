"""What an examination is made of: questions, answers, scores, and the protocols of suites and players."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from pydantic import Field

from academy.records import Record, canonical, digest_of

Slice = Literal["guard", "new"]
Role = Literal["target", "guard", "leak", "told"]
"""What a suite does to the verdict: a target can promote, a guard can only block, one leak rejects, told is shown."""


class Question(Record):
    """One item. `group` is the unit of independence (for lessons: the answer); `slice` says whether it was held out
    before the lessons that the challenger learned anew. With `choices` it is answered by the one held most likely."""

    id: str
    request: str
    reference: str
    group: str
    slice: Slice
    tags: tuple[str, ...] = ()
    choices: tuple[str, ...] = Field(default=(), exclude_if=lambda choices: not choices)

    @property
    def key(self) -> str:
        """What an answer is kept under: among other choices it is another question."""
        return f"\0choose {canonical([self.request, self.choices]).decode()}" if self.choices else self.request


class Generation(Record):
    """How answers are generated: greedily, at most so many tokens."""

    max_new_tokens: int

    @property
    def digest(self) -> str:
        """Names the settings: cached answers carry it."""
        return digest_of(self)[:16]


class Reply(Record):
    """What a player said. `stopped`: it ended by itself and was not cut off; `first`: seconds until its first token."""

    text: str
    tokens: int = 0
    stopped: bool = True
    first: float | None = None


class Answer(Record):
    """A reply to one question, scored from 0 to 1 by the suite; `details` are finer scores that decide nothing."""

    question: str
    text: str
    score: float
    details: dict[str, float] = Field(default_factory=dict)


class Player(Protocol):
    """Answers requests. Promises one reply for each request, in order; the same request gives the same reply.

    Raises ExaminationError where it cannot go on; what it had answered in earlier calls is kept.
    """

    @property
    def identity(self) -> str:
        """Whatever decides the answers: an adapter's digest, the base model's, an endpoint's address and model."""
        ...

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        """Replies without special tokens."""
        ...

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """For each request with its choices, the choice that is the likeliest answer; the first of equals."""
        ...


class Suite(Protocol):
    """Questions and their grader together.

    `grade` may be called from several threads. Whatever it raises makes the examination CANNOT DECIDE.
    """

    @property
    def name(self) -> str:
        """As shown to people."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever a question, a reference or the grader changes."""
        ...

    @property
    def role(self) -> Role:
        """What it does to the verdict."""
        ...

    def questions(self) -> Sequence[Question]:
        """All questions, in a stable order."""
        ...

    def grade(self, question: Question, reply: Reply) -> float:
        """A score from 0 (wrong) to 1 (right)."""
        ...

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """Finer scores, for the report alone."""
        ...

    def planted(self, question: Question, *, right: bool) -> Reply:
        """A reply that is right, or one that is wrong: the stand-in players of the liveness proof say these."""
        ...
