"""OpenAI, ShareGPT, ChatML, ATIF, Alpaca: a conversation written as one JSON row, and rows of many dialects read.

A conversation is a list of messages (models/messages.py): an optional system message, requests of the user, what the
assistant says and calls, and the results of its calls; an answer of the assistant is the last. Readers accept more than
writers write (models/dialects.py) and return the reason for an unreadable row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson

from academy.errors import InputError
from academy.models.dialects import VOTES, read_dialogues
from academy.models.exchanges import converse, message_of
from academy.models.messages import ToolCall, Transcript
from academy.models.trajectories import trajectory

Row = dict[str, Any]

SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}
_MARK = re.compile(r"<\|im_(?:start|end)\|>")
_TOOL_MARK = re.compile(r"</?tool_(?:call|response)>")


class Format(NamedTuple):
    """`write` returns a row."""

    write: Callable[[Transcript], Row]


def to_openai(transcript: Transcript) -> Row:
    """`{"messages": [...], "tools": [...]}`, the format of OpenAI's fine-tuning and of the trainer."""
    return {"messages": [message.written() for message in transcript.messages], **_tools(transcript)}


def to_sharegpt(transcript: Transcript) -> Row:
    """`{"conversations": [{"from": "human", "value": ...}, ...], "tools": "[...]"}`.

    Calls are turns of function_call with JSON, results turns of observation.
    """
    _refuse_parts(transcript, "ShareGPT")
    turns: list[Row] = []
    for message in transcript.messages:
        if message.role == "tool":
            turns.append({"from": "observation", "value": message.content, "tool_call_id": message.tool_call_id})
            continue
        if message.content or not message.tool_calls:
            turn = {"from": SHAREGPT[message.role], "value": message.content}
            turns.append({**turn, "reasoning_content": message.reasoning} if message.reasoning else turn)
        if message.tool_calls:
            calls = [_call(call) for call in message.tool_calls]
            turns.append({"from": "function_call", "value": _json(calls if len(calls) > 1 else calls[0])})
            if message.reasoning and not message.content:
                turns[-1]["reasoning_content"] = message.reasoning
    row: Row = {"conversations": turns}
    if transcript.tools:
        row["tools"] = _json([tool.as_function for tool in transcript.tools])
    return row


def to_chatml(transcript: Transcript) -> Row:
    """`{"text": "<|im_start|>user\\n...<|im_end|>\\n...", "tools": [...]}`. Calls and results have Hermes's marks.

    Raises InputError if a text contains such marks.
    """
    _refuse_parts(transcript, "ChatML")
    texts = []
    for message in transcript.messages:
        marks = (_MARK, _TOOL_MARK) if transcript.has_tools else (_MARK,)
        if any(mark.search(message.words) for mark in marks):
            raise InputError("A text contains ChatML marks.", "Write this dataset in another format.")
        content = message.content
        if message.role == "tool":
            result = {"tool_call_id": message.tool_call_id, "name": message.name, "content": message.content}
            content = f"<tool_response>\n{_json(result)}\n</tool_response>"
        elif message.tool_calls:
            calls = (f"<tool_call>\n{_json(_call(call))}\n</tool_call>" for call in message.tool_calls)
            content = "\n".join([*([content] if content else []), *calls])
        texts.append(f"<|im_start|>{message.role}\n{content}<|im_end|>\n")
    return {"text": "".join(texts), **_tools(transcript)}


def to_alpaca(transcript: Transcript) -> Row:
    """`{"instruction", "input", "output"}`; a system message and earlier turns go to `system` and `history`.

    Raises InputError for a conversation with tools: the format has no place for them.
    """
    if transcript.has_tools:
        raise InputError("Alpaca cannot hold tools.", "Write it as openai, sharegpt, chatml or atif.")
    _refuse_parts(transcript, "Alpaca")
    messages = transcript.messages
    turns = messages[1:] if messages[0].role == "system" else messages
    row: Row = {"instruction": turns[-2].content, "input": "", "output": turns[-1].content}
    if messages[0].role == "system":
        row["system"] = messages[0].content
    if len(turns) > 2:
        row["history"] = [[turns[n].content, turns[n + 1].content] for n in range(0, len(turns) - 2, 2)]
    return row


FORMATS = {
    "openai": Format(to_openai),
    "sharegpt": Format(to_sharegpt),
    "chatml": Format(to_chatml),
    "alpaca": Format(to_alpaca),
    "atif": Format(trajectory),
}
"""By name."""


def read_row(row: Any) -> Transcript | str:
    """A row up to its last answer that may be learned, or the reason why it cannot be read.

    Of a preference, the better answer counts.
    """
    dialogues = read_dialogues(row)
    if isinstance(dialogues, str):
        return dialogues
    if isinstance(row, Mapping) and any(row.get(name) is False for name in VOTES):
        return "the answer is marked as bad"
    conversation = converse(dialogues[0].turns, dialogues[0].tools)
    if isinstance(conversation, str):
        return conversation
    last = conversation.exchanges[-1]
    if last.learned:
        steps, answer = last.steps, message_of(last.learned)
    else:
        place, reply = max(last.learned_calls.items())
        steps, answer = last.steps[:place], reply.message
    before = conversation.messages[: last.start]
    return Transcript((*before, last.request, *(step.bare for step in steps), answer), conversation.tools)


def _tools(transcript: Transcript) -> Row:
    return {"tools": [tool.as_function for tool in transcript.tools]} if transcript.tools else {}


def _call(call: ToolCall) -> Row:
    return {"id": call.id, "name": call.name, "arguments": call.values}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _refuse_parts(transcript: Transcript, form: str) -> None:
    """Raise InputError where a message has more than text."""
    part = next((part for message in transcript.messages for part in message.parts), None)
    if part is not None:
        raise InputError(f"{form} cannot hold this part of a message: {part.kind}.", "Write it as openai or atif.")
