"""Requests and their answers: what a model learns from the turns of a conversation.

An exchange is a request and all that the assistant does about it. Between the request and the last answer are its
steps: messages that call tools, and their results. Each message that calls a tool is an answer to what stands before
it, and so is the text after the last result. The assistant's texts without a result between them belong together,
because some programs write an answer in pieces. Requests in a row are one request: many chat templates refuse a
repeated role.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from academy.models.messages import Message, Tool, settle
from academy.models.tools import check_calls
from academy.models.turns import UNCLEAR_WEIGHTS, WEIGHTS, RowTurn


class Reply(NamedTuple):
    """A message of the assistant with the turns that it was read from."""

    message: Message
    turns: list[RowTurn]

    @property
    def is_learned(self) -> bool:
        """Whether a turn of it may be learned."""
        return any(weight_of(turn) != 0 for turn in self.turns)


class Exchange(NamedTuple):
    """A request, what follows it, and the place of the request among all messages."""

    request: Message
    steps: tuple[Message, ...]  # calls and results before the last answer
    calling: dict[int, Reply]  # of the steps, by their place in `steps`, those that call tools
    pieces: list[RowTurn]  # of the last answer; none where it only calls
    start: int  # number of messages before the request

    @property
    def learned(self) -> list[RowTurn]:
        """The pieces that may be learned: those without weight 0. None where no text is among them."""
        pieces = [piece for piece in self.pieces if weight_of(piece) != 0]
        return pieces if any(piece.says_something for piece in pieces) else []

    @property
    def learned_calls(self) -> dict[int, Reply]:
        """The steps that may be learned."""
        return {place: reply for place, reply in self.calling.items() if reply.is_learned}


class Conversation(NamedTuple):
    """All messages, and the exchanges among them that may be learned."""

    messages: tuple[Message, ...]
    exchanges: list[Exchange]
    tools: tuple[Tool, ...] = ()


def answer_of(pieces: Sequence[RowTurn]) -> str:
    """An answer from its pieces."""
    return "\n".join(piece.text for piece in pieces if piece.says_something)


def message_of(pieces: Sequence[RowTurn]) -> Message:
    """An answer as a message, with its thoughts."""
    return Message(
        role="assistant",
        content=answer_of(pieces),
        parts=tuple(part for piece in pieces for part in piece.parts),
        reasoning="\n".join(piece.reasoning for piece in pieces if piece.reasoning.strip()),
        tool_calls=tuple(call for piece in pieces for call in piece.calls),
    )


def weight_of(turn: RowTurn) -> float | str:
    """The weight of a turn (1 where none is set), or the reason why it cannot be read."""
    for name, reason in UNCLEAR_WEIGHTS.items():
        if turn.source.get(name) not in (None, [], ""):
            return f"{reason} (turn {turn.number})"
    for name in WEIGHTS:
        value = turn.source.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or value in ("true", "false", "True", "False"):
            return float(str(value).lower() == "true")
        try:
            weight = float(value) if isinstance(value, int | float | str) else -1.0
        except (ValueError, OverflowError):
            weight = -1.0
        if not 0 <= weight <= 1:
            return f"{name} is not a number from 0 to 1 (turn {turn.number})"
        if weight == 0:
            return 0.0
    return 1.0


def converse(turns: Sequence[RowTurn], tools: Sequence[Tool] = ()) -> Conversation | str:
    """The exchanges of a conversation, or the reason why nothing can be learned from it."""
    for turn in turns:
        if turn.role == "assistant" and isinstance(weight := weight_of(turn), str):
            return weight
    reader = _Reader()
    for turn in turns:
        reader.add(turn)
    reader.close()
    if reader.problem:
        return reader.problem
    messages = settle(reader.messages)
    if isinstance(messages, str):
        return messages
    if reason := check_calls(messages, tools):
        return reason
    answered = [exchange for exchange in reader.exchanges if exchange.request.content.strip()]
    if not answered:
        return "no request with an answer"
    learned = [_settled(exchange, messages) for exchange in answered if exchange.learned or exchange.learned_calls]
    return Conversation(messages, learned, tuple(tools)) if learned else "every answer has weight 0"


class _Reader:
    """Collects messages and exchanges, turn by turn."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.exchanges: list[Exchange] = []
        self.problem = ""
        self._requests: list[RowTurn] = []
        self._steps: list[Message] = []
        self._calling: dict[int, Reply] = {}
        self._pending: list[RowTurn] = []  # the assistant's turns since the last result

    def add(self, turn: RowTurn) -> None:
        if turn.role == "tool":
            self._step()
            result = turn.result
            message = Message(
                role="tool", content=turn.text, parts=turn.parts,
                tool_call_id=result.id if result else "", name=result.name if result else "",
            )  # fmt: skip
            (self._steps if self._requests else self.messages).append(message)
        elif turn.role == "assistant":
            if self._requests:
                if turn.says_something and any(earlier.calls for earlier in self._pending):
                    self.problem = self.problem or f"a call without its result (turn {turn.number})"
                self._pending.append(turn)
            elif turn.calls or turn.says_something:  # a greeting; a call before any request has no one who asked
                self._append(message_of([turn]).bare)
        else:
            self.close()
            if turn.role == "user":
                self._requests.append(turn)
            elif turn.says_something:
                self._append(Message(role="system", content=turn.text, parts=turn.parts))

    def close(self) -> None:
        """End the exchange, if the request was answered."""
        pieces = [turn for turn in self._pending if turn.says_something or turn.reasoning.strip()]
        if any(turn.calls for turn in self._pending):
            self._step()
            pieces = []
        elif not any(turn.says_something for turn in pieces):
            pieces = []
        self._pending = []
        if not pieces and not self._steps:
            return
        request = Message(
            role="user",
            content="\n".join(turn.text for turn in self._requests),
            parts=tuple(part for turn in self._requests for part in turn.parts),
        )
        exchange = Exchange(request, tuple(self._steps), self._calling, pieces, len(self.messages))
        self.exchanges.append(exchange)
        self.messages += [request, *(step.bare for step in self._steps)]
        if pieces:
            self.messages.append(message_of(exchange.learned or pieces).bare)
        self._requests, self._steps, self._calling = [], [], {}

    def _step(self) -> None:
        """The pending turns become a step that calls tools, or a text before a result that has no call."""
        turns = [turn for turn in self._pending if turn.calls or turn.says_something or turn.reasoning.strip()]
        self._pending = []
        if turns:
            message = message_of(turns)
            if message.tool_calls:
                self._calling[len(self._steps)] = Reply(message, turns)
            self._steps.append(message)

    def _append(self, message: Message) -> None:
        """Add a message; a repeated role continues the message before it."""
        last = self.messages[-1] if self.messages else None
        if last is None or last.role != message.role or last.tool_calls or message.tool_calls:
            self.messages.append(message)
        elif last.content != message.content:
            content = f"{last.content}\n{message.content}"
            self.messages[-1] = last.model_copy(update={"content": content, "parts": (*last.parts, *message.parts)})


def _settled(exchange: Exchange, messages: Sequence[Message]) -> Exchange:
    """An exchange whose calls have the ids of the whole conversation."""
    first = exchange.start + 1
    steps = tuple(messages[first : first + len(exchange.steps)])
    calling = {
        place: reply._replace(message=reply.message.model_copy(update={"tool_calls": steps[place].tool_calls}))
        for place, reply in exchange.calling.items()
    }
    return exchange._replace(steps=steps, calling=calling)
