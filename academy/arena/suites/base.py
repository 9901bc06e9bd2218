"""The protocol of a suite: questions together with their grader; and the records that suites and players exchange.

To add a suite, write one module in this folder with a class that has the attributes of `Suite` and a `SuiteFactory`
(factory.py) that creates it, and add one line to the table in table.py. A package outside this project registers its
factory with an entry point instead:

    [project.entry-points."academy.suites"]
    mine = "my_package.suite:MyFactory"

Then name the suite in ACADEMY_SUITES, or with `academy examine --suite`. The entry's name is the suite's name.

An implementation promises:
* The same context gives the same questions in the same order, and the same digest.
* The digest changes whenever a question, a reference, a slice or the grader changes. An examination is identified by
  the digests of its suites.
* `grade` is a pure function of question and reply, gives a number from 0 to 1, and may be called from several threads.
* `control_answer` gives an answer that `grade` scores as right, and one that it scores as wrong. The self-check runs
  them through the grader before the suite can decide anything.
* Where the suite cannot run, the factory returns `Unavailable` with the reason. It raises InputError only for a
  setting that the user must correct.

A caller must tolerate:
* A suite without questions. It is skipped, unless its role is `target`.
* Any exception from `grade`. It makes the examination CANNOT DECIDE and spends nothing.
* Identical requests in different suites. The player answers each request once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from pydantic import BeforeValidator, Field

from academy.models.chat_template import Message
from academy.records import Record, canonical, digest_of

FORMER_ROLES = {"told": "informational"}
"""Former name -> name. Stored records and suite files may contain the former one."""


def current_role(role: Any) -> Any:
    """Translate the former name of a role."""
    return FORMER_ROLES.get(role, role) if isinstance(role, str) else role


Prompt = str | Sequence[Message]
"""What a player answers: a user's text, or that text after a system message."""


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as a conversation."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


Slice = Literal["guard", "new"]
Role = Annotated[Literal["target", "guard", "leak", "suspect", "informational"], BeforeValidator(current_role)]
"""Effect on the verdict: a gain on a target promotes, a guard can only block, one leak and one answer of a suspect
reject, an informational suite is reported and has no effect."""


def role_in_digests(role: Role) -> str:
    """The name of a role in digests: the former one, so that digests of earlier examinations stay valid."""
    return next((former for former, name in FORMER_ROLES.items() if name == role), role)


class Question(Record):
    """One item. `group` is the unit of independence (for lessons: the answer). `slice` says whether the question was
    held out before the lessons that are new to the challenger. With `choices`, the player picks the likeliest one.
    `system` is the system message before the request."""

    id: str
    request: str
    reference: str
    group: str
    slice: Slice
    tags: tuple[str, ...] = ()
    choices: tuple[str, ...] = Field(default=(), exclude_if=lambda choices: not choices)
    system: str = Field(default="", exclude_if=lambda system: not system)

    @property
    def prompt(self) -> Prompt:
        """What the player is asked."""
        if not self.system:
            return self.request
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.request}]

    @property
    def key(self) -> str:
        """The cache key of its answer: the request, then the system message.

        The same request with other choices, or after another system message, is another question.
        """
        if self.choices:
            return f"\0choose {canonical([self.request, self.choices]).decode()}"
        return f"{self.request}\0{self.system}" if self.system else self.request


class Generation(Record):
    """Generation settings: greedy decoding, up to `max_new_tokens` tokens."""

    max_new_tokens: int

    @property
    def digest(self) -> str:
        """Identifies the settings; cached answers carry it."""
        return digest_of(self)[:16]


class Reply(Record):
    """A player's reply. `stopped`: it ended by itself and was not truncated; `first`: seconds to the first token.

    `raw`: the text with the thoughts before it, which are not graded; empty if there are none.
    """

    text: str
    raw: str = Field(default="", exclude_if=lambda raw: not raw)
    tokens: int = 0
    stopped: bool = True
    first: float | None = None


class Answer(Record):
    """A reply to one question with its score from 0 to 1. `details` are finer scores that have no effect."""

    question: str
    text: str
    score: float
    details: dict[str, float] = Field(default_factory=dict)
    raw: str = Field(default="", exclude_if=lambda raw: not raw)  # with thoughts; empty if there are none


class Player(Protocol):
    """Answers requests. Promises one reply for each request, in order; the same request gives the same reply.

    Raises ExaminationError where it cannot continue; replies of earlier calls stay in the cache.
    """

    @property
    def identity(self) -> str:
        """Everything that determines the answers: an adapter's digest, the base model's, an endpoint and its model."""
        ...

    def answer(self, requests: Sequence[Prompt], generation: Generation) -> list[Reply]:
        """Replies without special tokens."""
        ...

    def choose(self, asked: Sequence[tuple[str, tuple[str, ...]]]) -> list[Reply]:
        """For each request with its choices, the likeliest choice; the first one of equals."""
        ...


class Suite(Protocol):
    """Questions and their grader. The module's docstring states what an implementation promises."""

    @property
    def name(self) -> str:
        """The name that users see."""
        ...

    @property
    def digest(self) -> str:
        """Changes whenever a question, a reference or the grader changes."""
        ...

    @property
    def role(self) -> Role:
        """Its effect on the verdict."""
        ...

    def questions(self) -> Sequence[Question]:
        """All questions, in a stable order."""
        ...

    def grade(self, question: Question, reply: Reply) -> float:
        """A score from 0 (wrong) to 1 (right)."""
        ...

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """Finer scores, for the report only."""
        ...

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        """A reply that the grader must score as right, or one that it must score as wrong."""
        ...
