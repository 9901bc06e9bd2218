"""The messages of a conversation: texts, calls of tools and their results, and parts that are kept by reference.

A call's arguments and a tool's parameters are canonical JSON texts, so equal ones are equal whatever their key order
and white space were. The ids of calls are numbers in the order of the conversation: programs invent new ids for every
export, and the same conversation must have the same digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from academy.records import Record, canonical

Role = Literal["system", "user", "assistant", "tool"]
Medium = Literal["image", "audio", "video", "file"]
DEEPEST = 32
"""Levels of the arguments of a call, and of a tool's schema."""
MOST_CALLS = 128
"""Calls of one message."""
LONGEST_NAME = 200
"""Characters of the name of a tool."""


class Part(Record):
    """A picture, a sound, a film or a file of a message: its address, path or id, or the digest of what stood there."""

    kind: Medium
    reference: str


class ToolCall(Record):
    """A call of a tool by the assistant."""

    id: str
    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    arguments: str = "{}"  # a JSON object, canonical

    @field_validator("arguments")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return canonical_object(text)

    @property
    def values(self) -> dict[str, Any]:
        """The arguments by name."""
        values: dict[str, Any] = orjson.loads(self.arguments)
        return values


class Tool(Record):
    """The definition of a tool."""

    name: str = Field(min_length=1, max_length=LONGEST_NAME)
    description: str = ""
    parameters: str = "{}"  # a JSON schema, canonical

    @field_validator("parameters")
    @classmethod
    def _canonical(cls, text: str) -> str:
        return canonical_object(text)

    @property
    def schema_(self) -> dict[str, Any]:
        """The schema of its arguments."""
        schema: dict[str, Any] = orjson.loads(self.parameters)
        return schema

    @property
    def as_function(self) -> dict[str, Any]:
        """The definition as OpenAI and chat templates have it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema_}
        return {"type": "function", "function": function}


class Message(Record):
    """One message. `content` is its text; an assistant's may be empty beside calls."""

    role: Role
    content: str
    parts: tuple[Part, ...] = ()
    reasoning: str = ""  # what the assistant thought before it answered
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""  # of a result
    name: str = ""  # of the tool that gave a result

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value or name in ("role", "content")}

    @property
    def bare(self) -> Message:
        """The message without its thoughts: they belong to the answer that they precede, not to later ones."""
        return self.model_copy(update={"reasoning": ""}) if self.reasoning else self

    @property
    def words(self) -> str:
        """Its text, and what it calls in words: what filters and comparisons read."""
        return words_of(self.content, self.tool_calls)

    def written(self, *, parsed: bool = False, thoughts: bool = True) -> dict[str, Any]:
        """The message as OpenAI writes it. `parsed`: arguments as objects, as chat templates want them."""
        row: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.parts:
            text = [{"type": "text", "text": self.content}] if self.content else []
            row["content"] = [*text, *({"type": part.kind, "reference": part.reference} for part in self.parts)]
        if self.reasoning and thoughts:
            row["reasoning_content"] = self.reasoning
        if self.tool_calls:
            row["tool_calls"] = [
                {
                    "id": call.id, "type": "function",
                    "function": {"name": call.name, "arguments": call.values if parsed else call.arguments},
                }
                for call in self.tool_calls
            ]  # fmt: skip
        if self.tool_call_id:
            row["tool_call_id"] = self.tool_call_id
        if self.name:
            row["name"] = self.name
        return row


class Transcript(NamedTuple):
    """A conversation that ends with an answer, and the tools that it may use."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    @property
    def has_tools(self) -> bool:
        """Whether a model must know tools to read it."""
        return bool(self.tools) or any(message.tool_calls or message.role == "tool" for message in self.messages)

    @property
    def texts(self) -> list[str]:
        """Every text in it, for scans: contents, calls, definitions."""
        definitions = [text for tool in self.tools for text in (tool.name, tool.description, tool.parameters)]
        return [message.words for message in self.messages] + definitions


def words_of(content: str, tool_calls: Iterable[ToolCall]) -> str:
    """A text, and a line for each call: `name(arguments)`."""
    return "\n".join([*([content] if content else []), *(f"{call.name}({call.arguments})" for call in tool_calls)])


def canonical_object(value: Any) -> str:
    """A JSON object, or its text, as canonical JSON. Raises ValueError saying what it is instead."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value) if value.strip() else {}
        except orjson.JSONDecodeError:
            raise ValueError("no JSON") from None
    if not isinstance(value, Mapping):
        raise ValueError("no JSON object")  # noqa: TRY004  pydantic reports it
    if _is_deeper(value, DEEPEST):
        raise ValueError(f"JSON of more than {DEEPEST} levels")
    try:
        return canonical(value).decode()
    except TypeError:
        raise ValueError("JSON with a number that is too large") from None


def settle(messages: Sequence[Message]) -> tuple[Message, ...] | str:
    """The messages with calls numbered in order and every result at its call, or the reason why they do not match.

    Only the last message may call tools whose results do not follow: then the calls are the answer.
    """
    settled: list[Message] = []
    waiting: list[tuple[str, str, str]] = []  # id as written, name, new id of calls without a result yet
    number = 0
    for place, message in enumerate(messages, start=1):
        if message.role == "tool":
            match = next((call for call in waiting if _answers(message, call)), None)
            if match is None:
                return f"a result without its call (message {place})"
            waiting.remove(match)
            settled.append(message.model_copy(update={"tool_call_id": match[2], "name": match[1]}))
            continue
        if waiting:
            return f"a call without its result (message {place})"
        if len(message.tool_calls) > MOST_CALLS:
            return f"more than {MOST_CALLS} calls in one message (message {place})"
        ids = [call.id for call in message.tool_calls if call.id]
        if len(ids) != len(set(ids)):
            return f"two calls with one id (message {place})"
        if message.tool_calls and message.role != "assistant":
            return f"a call that is not the assistant's (message {place})"
        calls = []
        for call in message.tool_calls:
            number += 1
            new_id = f"call{number:05d}"  # nine letters and digits: some templates accept no other ids
            calls.append(call.model_copy(update={"id": new_id}))
            waiting.append((call.id, call.name, new_id))
        settled.append(message.model_copy(update={"tool_calls": tuple(calls)}) if calls else message)
    if waiting and settled[-1].role == "tool":
        return f"a call without its result (message {len(settled)})"
    return tuple(settled)


def _answers(result: Message, call: tuple[str, str, str]) -> bool:
    """Whether a result can be a call's: by its id, or where either has none, by its name or its place."""
    id_, name, _ = call
    if result.tool_call_id and id_:
        return result.tool_call_id == id_
    return not result.name or result.name == name


def _is_deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value has more levels; without recursion, so that no value is too deep for it."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, Mapping | list)
        ]
        if not layer:
            return False
    return True
