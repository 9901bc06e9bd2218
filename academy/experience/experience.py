"""The record of an experience, in which every source gives what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from academy.records import Record

Kind = Literal["lesson", "task", "commit", "conversation", "file"]
Outcome = Literal["success", "failure", "unknown"]


class Turn(Record):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def system_message(context: Iterable[Turn]) -> str:
    """The system message among the messages before a request; empty if there is none."""
    return "\n\n".join(turn.content for turn in context if turn.role == "system")


class Experience(Record):
    """A request, its answer, and the outcome."""

    id: str  # digest of the content
    kind: Kind
    request: str
    answer: str
    outcome: Outcome
    author: str = ""
    batch: str = ""  # the import or run that it came with
    at: str = ""  # ISO 8601
    tags: tuple[str, ...] = ()
    context: tuple[Turn, ...] = ()  # the messages before the request
    thread: str = ""  # the conversation that it was part of
    rating: int = 0  # 1 to 5; 0: not rated
    gold: bool = False  # a user marked it with a star
    model_made: bool = False  # a model wrote the answer and no user rated it
    trusted: bool = True  # its source is trusted, so that it may be held out for the examination
    suspect: bool = False  # an examination rejected it, and a person released it
    seq: int = 0  # order of admission to the store; 0: not from the store
    provenance: dict[str, str]
