"""Alpaca, ShareGPT, ChatML, OpenAI: a conversation written as one JSON row, and rows of many dialects read.

A conversation is a list of messages, `{"role": "system" | "user" | "assistant", "content": text}`: an optional system
message, then alternating user and assistant, the assistant last. Readers accept more than writers write
(models/dialects.py) and return the reason for an unreadable row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from academy.errors import InputError
from academy.models.chat_template import Message
from academy.models.dialects import VOTES, read_dialogues
from academy.models.exchanges import answer_of, converse

Row = dict[str, Any]

SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
_MARK = re.compile(r"<\|im_(?:start|end)\|>")


class Format(NamedTuple):
    """`write` returns a row."""

    write: Callable[[list[Message]], Row]


def to_openai(messages: list[Message]) -> Row:
    """`{"messages": [...]}`, the format of OpenAI's fine-tuning and of the trainer."""
    return {"messages": [{"role": m["role"], "content": m["content"]} for m in messages]}


def to_sharegpt(messages: list[Message]) -> Row:
    """`{"conversations": [{"from": "human", "value": ...}, ...]}`."""
    return {"conversations": [{"from": SHAREGPT[m["role"]], "value": m["content"]} for m in messages]}


def to_chatml(messages: list[Message]) -> Row:
    """`{"text": "<|im_start|>user\\n...<|im_end|>\\n..."}`. Raises InputError if a text contains such marks."""
    text = "".join([f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages])
    if text.count("<|im_") != 2 * len(messages) and any(_MARK.search(m["content"]) for m in messages):
        raise InputError("A text contains ChatML marks.", "Write this dataset in another format.")
    return {"text": text}


def to_alpaca(messages: list[Message]) -> Row:
    """`{"instruction", "input", "output"}`; a system message and earlier turns go to `system` and `history`."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else ""
    turns = messages[1:] if system or messages[0]["role"] == "system" else messages
    row: Row = {"instruction": turns[-2]["content"], "input": "", "output": turns[-1]["content"]}
    if messages[0]["role"] == "system":
        row["system"] = system
    if len(turns) > 2:
        row["history"] = [[turns[n]["content"], turns[n + 1]["content"]] for n in range(0, len(turns) - 2, 2)]
    return row


FORMATS = {
    "openai": Format(to_openai),
    "sharegpt": Format(to_sharegpt),
    "chatml": Format(to_chatml),
    "alpaca": Format(to_alpaca),
}
"""By name."""


def read_row(row: Any) -> list[Message] | str:
    """Messages of a row up to its last answer that may be learned, or the reason why it cannot be read.

    Of a preference, the better answer counts.
    """
    dialogues = read_dialogues(row)
    if isinstance(dialogues, str):
        return dialogues
    if isinstance(row, Mapping) and any(row.get(name) is False for name in VOTES):
        return "the answer is marked as bad"
    conversation = converse(dialogues[0].turns)
    if isinstance(conversation, str):
        return conversation
    last = conversation.exchanges[-1]
    question: Message = {"role": "user", "content": last.request}
    return [*conversation.messages[: last.start], question, {"role": "assistant", "content": answer_of(last.learned)}]
