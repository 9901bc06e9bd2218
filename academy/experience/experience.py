"""The record of an experience, in which every source gives what it reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from academy.models.messages import Message, Part, Tool, ToolCall, Transcript, words_of
from academy.records import Record

Kind = Literal["lesson", "task", "commit", "conversation", "file"]
Outcome = Literal["success", "failure", "unknown"]


def system_message(context: Iterable[Message]) -> str:
    """The system message among the messages before a request; empty if there is none."""
    return "\n\n".join(turn.content for turn in context if turn.role == "system")


class Trace(Record):
    """What an exchange has besides the texts of its request and its answer."""

    parts: tuple[Part, ...] = ()  # of the request
    steps: tuple[Message, ...] = ()  # calls and results between the request and the answer
    tool_calls: tuple[ToolCall, ...] = ()  # of the answer
    reasoning: str = ""  # what the assistant thought before the answer
    tools: tuple[Tool, ...] = ()  # that it may use

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value}

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it another exchange; thoughts do not."""
        return {name: value for name, value in self.model_dump(mode="json").items() if name != "reasoning"}

    def transcript(self, context: Iterable[Message], request: str, answer: str) -> Transcript:
        """The whole conversation, which ends with the answer."""
        return Transcript(
            (
                *context,
                Message(role="user", content=request, parts=self.parts),
                *self.steps,
                Message(role="assistant", content=answer, reasoning=self.reasoning, tool_calls=self.tool_calls),
            ),
            self.tools,
        )


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
    context: tuple[Message, ...] = ()  # the messages before the request
    thread: str = ""  # the conversation that it was part of
    rating: int = 0  # 1 to 5; 0: not rated
    gold: bool = False  # a user marked it with a star
    model_made: bool = False  # a model wrote the answer and no user rated it
    trusted: bool = True  # its source is trusted, so that it may be held out for the examination
    rejected: str = ""  # the answer that this one corrects
    adapter: str = ""  # the adapter that answered, where the gateway's answer was rated
    suspect: bool = False  # an examination rejected it, and a person released it
    seq: int = 0  # order of admission to the store; 0: not from the store
    trace: Trace = Trace()
    provenance: dict[str, str]

    @property
    def transcript(self) -> Transcript:
        """The conversation, which ends with the answer."""
        return self.trace.transcript(self.context, self.request, self.answer)

    @property
    def words(self) -> str:
        """The answer, and what it calls in words."""
        return words_of(self.answer, self.trace.tool_calls)

    def stands_in(self, messages: Iterable[Message]) -> bool:
        """Whether messages hold this exchange: its request, and later its answer or its calls."""
        is_asked = False
        for message in messages:
            if message.role == "user":
                is_asked = is_asked or message.content == self.request
            elif is_asked and message.role == "assistant" and message.words == self.words:
                return True
        return False

    @property
    def before(self) -> tuple[Message, ...]:
        """What must be the same for two answers to one request to be comparable: earlier messages and steps."""
        return (*self.context, *self.trace.steps)
