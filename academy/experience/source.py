"""The record that every source gives, and the protocol of a source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from academy.records import Record

Kind = Literal["lesson", "task", "commit", "conversation", "file"]
Outcome = Literal["success", "failure", "unknown"]

SUCCESS_MARKS = frozenset({"success", "successful", "succeeded", "sukces", "ok", "completed", "✅", "✓", "✔"})
FAILURE_MARKS = frozenset(
    {"failure", "failed", "fail", "error", "błąd", "porażka", "cancelled", "canceled", "❌", "✗", "✘"}
)

NEGATIONS = frozenset({"not", "no", "never", "nie", "without"})


class Turn(Record):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Experience(Record):
    """A request, the answer it got, and what became of it.

    `id` names the content; `seq` is the order of admission to the store (0 for what is not stored, such as commits).
    `context` is what was said before the request. `thread` names the conversation that it was part of, `rating` is 1
    to 5 (0: none), `gold` a person's star, `model_made` whether a model wrote the answer and nobody rated it.
    """

    id: str
    kind: Kind
    request: str
    answer: str
    outcome: Outcome
    author: str = ""
    batch: str = ""
    at: str = ""
    tags: tuple[str, ...] = ()
    context: tuple[Turn, ...] = ()
    thread: str = ""
    rating: int = 0
    gold: bool = False
    model_made: bool = False
    seq: int = 0
    provenance: dict[str, str]


class Skipped(Record):
    """Something that a source left out, with its reason in words."""

    what: str
    because: str


class ExperienceSource(Protocol):
    """Gives experience in a stable order. Promises: nothing is given twice, nothing is left out without a Skipped.

    A caller must tolerate that a source ends early when its folder or database goes away (AcademyError).
    """

    def read(self, since: int) -> Iterator[Experience | Skipped]:
        """What came after the cursor `since` (0: everything)."""
        ...


def read_outcome(*texts: object) -> Outcome:
    """An explicit outcome, or the legacy marks in a free text, read as what they are; unknown stays unknown.

    A failure mark wins over a success mark in the same text: what is in doubt is not trained on.
    """
    for text in texts:
        if isinstance(text, bool):
            return "success" if text else "failure"
        words = {word.strip(".,:;!?()[]") for word in str(text or "").lower().split()}
        if words & FAILURE_MARKS or any(mark in str(text) for mark in "❌✗✘"):
            return "failure"
        if words & NEGATIONS:
            return "unknown"
        if words & SUCCESS_MARKS or any(mark in str(text) for mark in "✅✓✔"):
            return "success"
    return "unknown"
