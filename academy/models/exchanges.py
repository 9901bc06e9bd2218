"""Requests and their answers: what a model learns from the turns of a conversation.

The answer to a request is what the assistant said last before the next request. Its texts after the last tool call
belong together, because some programs write an answer in pieces; a text before a tool call is only a preamble ("Let me
look that up.") and never an answer. Requests in a row are one request: many chat templates refuse a repeated role.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from academy.models.chat_template import Message
from academy.models.turns import RowTurn

WEIGHTS = ("weight", "train", "training", "train_on_turn", "loss", "loss_weight", "loss_scale", "loss_mask")
"""Fields of a turn that say whether it is learned: a number, or true and false. 0 and false mean context only."""
UNCLEAR_WEIGHTS = {
    "mask": "mask does not say whether 1 is learned or omitted",
    "train_detail": "train_detail marks parts of an answer",
}
"""Fields of a turn that cannot be followed."""


class Exchange(NamedTuple):
    """A request, the assistant's texts that answer it, and the place of the request among all messages."""

    request: str
    pieces: list[RowTurn]
    start: int  # number of messages before the request

    @property
    def learned(self) -> list[RowTurn]:
        """The pieces that may be learned: those without weight 0."""
        return [piece for piece in self.pieces if weight_of(piece) != 0]


class Conversation(NamedTuple):
    """All messages without tool steps, and the exchanges among them."""

    messages: list[Message]
    exchanges: list[Exchange]


def answer_of(pieces: Sequence[RowTurn]) -> str:
    """An answer from its pieces."""
    return "\n".join(piece.text for piece in pieces)


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


def converse(turns: Sequence[RowTurn]) -> Conversation | str:
    """The exchanges of a conversation, or the reason why nothing can be learned from it."""
    messages: list[Message] = []
    exchanges: list[Exchange] = []
    requests: list[str] = []
    pieces: list[RowTurn] = []

    def close() -> None:
        if not pieces:
            return
        exchange = Exchange("\n".join(requests), list(pieces), len(messages))
        exchanges.append(exchange)
        messages.append({"role": "user", "content": exchange.request})
        messages.append({"role": "assistant", "content": answer_of(exchange.learned or exchange.pieces)})
        requests.clear()
        pieces.clear()

    for turn in turns:
        if turn.role == "assistant" and isinstance(weight := weight_of(turn), str):
            return weight
        if turn.role == "tool" or turn.calls:
            pieces.clear()
        elif turn.role == "assistant":
            if requests and turn.text.strip():
                pieces.append(turn)
            elif not requests and turn.text.strip():  # a greeting
                _append(messages, "assistant", turn.text)
        else:
            close()
            if turn.role == "user":
                requests.append(turn.text)
            elif turn.text.strip():
                _append(messages, "system", turn.text)
    close()
    answered = [exchange for exchange in exchanges if exchange.request.strip()]
    if not answered:
        return "no request with an answer"
    learned = [exchange for exchange in answered if exchange.learned]
    return Conversation(messages, learned) if learned else "every answer has weight 0"


def _append(messages: list[Message], role: str, text: str) -> None:
    """Add a message; a repeated role continues the message before it."""
    if messages and messages[-1]["role"] == role:
        if messages[-1]["content"] != text:
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n{text}"}
    else:
        messages.append({"role": role, "content": text})
