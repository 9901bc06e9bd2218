"""Alpaca, ShareGPT, ChatML, OpenAI: a conversation as one JSON row, written and read back.

A conversation is a list of messages, `{"role": "system" | "user" | "assistant", "content": text}`: an optional system
message, then alternating user and assistant, the assistant last. Readers accept more than writers write: they skip tool
turns and unknown fields, and return the reason for an unreadable row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from academy.errors import InputError
from academy.models.chat_template import Message

Row = dict[str, Any]

SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
}  # fmt: skip
_CHATML = re.compile(r"<\|im_start\|>([a-z]+)\n(.*?)<\|im_end\|>", re.DOTALL)
_MARK = re.compile(r"<\|im_(?:start|end)\|>")


class Format(NamedTuple):
    """`write` returns a row; `read` returns messages, or the reason why it cannot."""

    write: Callable[[list[Message]], Row]
    read: Callable[[Mapping[str, Any]], list[Message] | str]


def to_openai(messages: list[Message]) -> Row:
    """`{"messages": [...]}`, the format of OpenAI's fine-tuning and of the trainer."""
    return {"messages": [{"role": m["role"], "content": m["content"]} for m in messages]}


def from_openai(row: Mapping[str, Any]) -> list[Message] | str:
    """Messages; content in parts is joined."""
    turns = row.get("messages")
    if not isinstance(turns, list):
        return "messages is not a list"
    return _turns([(turn.get("role"), turn.get("content")) for turn in turns if isinstance(turn, dict)])


def to_sharegpt(messages: list[Message]) -> Row:
    """`{"conversations": [{"from": "human", "value": ...}, ...]}`."""
    return {"conversations": [{"from": SHAREGPT[m["role"]], "value": m["content"]} for m in messages]}


def from_sharegpt(row: Mapping[str, Any]) -> list[Message] | str:
    """Messages of a ShareGPT row; a `system` beside the conversation is its first message."""
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return "conversations is not a list"
    pairs = [(turn.get("from"), turn.get("value")) for turn in turns if isinstance(turn, dict)]
    system = row.get("system")
    return _turns([("system", system), *pairs] if isinstance(system, str) and system else pairs)


def to_chatml(messages: list[Message]) -> Row:
    """`{"text": "<|im_start|>user\\n...<|im_end|>\\n..."}`. Raises InputError if a text contains such marks."""
    text = "".join([f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages])
    if text.count("<|im_") != 2 * len(messages) and any(_MARK.search(m["content"]) for m in messages):
        raise InputError("A text contains ChatML marks.", "Write this dataset in another format.")
    return {"text": text}


def from_chatml(row: Mapping[str, Any]) -> list[Message] | str:
    """Messages of a ChatML text."""
    text = row.get("text")
    if not isinstance(text, str) or not _MARK.search(text):
        return "text is not ChatML"
    return _turns(_CHATML.findall(text))


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


def from_alpaca(row: Mapping[str, Any]) -> list[Message] | str:
    """Messages of an Alpaca row; `input` follows the instruction after an empty line."""
    instruction, extra, output = row.get("instruction"), row.get("input") or "", row.get("output")
    if not isinstance(instruction, str) or not isinstance(output, str) or not isinstance(extra, str):
        return "instruction, input and output must be texts"
    pairs: list[tuple[Any, Any]] = [("system", row["system"])] if isinstance(row.get("system"), str) else []
    for turn in row.get("history") or []:
        if not isinstance(turn, list) or len(turn) != 2:
            return "history must be a list of pairs"
        pairs += [("user", turn[0]), ("assistant", turn[1])]
    return _turns([*pairs, ("user", f"{instruction}\n\n{extra}" if extra else instruction), ("assistant", output)])


FORMATS = {
    "openai": Format(to_openai, from_openai),
    "sharegpt": Format(to_sharegpt, from_sharegpt),
    "chatml": Format(to_chatml, from_chatml),
    "alpaca": Format(to_alpaca, from_alpaca),
}
"""By name."""

_SIGNS = {"messages": "openai", "conversations": "sharegpt", "text": "chatml", "instruction": "alpaca"}


def format_of(row: Mapping[str, Any]) -> str:
    """The format of a row by its keys; empty if unknown."""
    return next((name for key, name in _SIGNS.items() if key in row), "")


def read_row(row: Any) -> list[Message] | str:
    """Messages of a row in any of the formats, or the reason why it cannot be read."""
    if not isinstance(row, Mapping):
        return "a line is not a JSON object"
    name = format_of(row)
    return FORMATS[name].read(row) if name else f"not in one of the formats {', '.join(FORMATS)}"


def _turns(pairs: list[tuple[Any, Any]]) -> list[Message] | str:
    messages: list[Message] = []
    for role, content in pairs:
        standard_role = ROLES.get(str(role).lower())
        text = _text(content)
        if standard_role is None or text is None:
            continue  # a tool's turn, or one without text
        messages.append({"role": standard_role, "content": text})
    if not any(m["role"] == "assistant" for m in messages) or not any(m["role"] == "user" for m in messages):
        return "no request with an answer"
    return messages


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str)) or None
    return content if isinstance(content, str) else None
