"""Reads calls of tools and their results from foreign objects and texts.

Calls stand in fields and parts of many names, and in texts: `<tool_call>` (Hermes, Qwen), `<functioncall>` (Glaive),
and `<details type="tool_calls">` (Open WebUI). What cannot be read raises UnreadableRowError.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from academy.models.messages import LONGEST_NAME, Part, ToolCall, canonical_object
from academy.records import canonical

ID_KEYS = ("tool_call_id", "toolCallId", "tool_use_id", "call_id", "source_call_id", "id")
NAME_KEYS = ("name", "toolName", "tool_name", "function_name", "tool")
ARGUMENT_KEYS = ("arguments", "args", "input", "parameters", "action")
_OBJECTS = ("function", "functionCall", "function_call", "toolInvocation", "functionResponse", "function_response")
"""Keys of an object that holds the name and the arguments of a call."""
_RESULT_KEYS = ("output", "result", "content", "response", "rawOutput", "errorText", "error")
_TO_END = r"[^<]*+(?:<(?!/details>|details\s{1,20}type=\"(?:tool_calls|reasoning)\")[^<]*+)*+"
_MARKED = re.compile(
    r"<tool_call>\s{0,20}(?P<hermes>[\[{][^<]*+(?:<(?!/tool_call>|tool_call>\s{0,20}[\[{])[^<]*+)*+)</tool_call>"
    r"|<functioncall>\s{0,20}(?P<glaive>\{[^<}]*+"
    r"(?:(?:<(?!functioncall>)|\}(?!\s*(?:<\|endoftext\|>|\Z|\n\n)))[^<}]*+)*+\})\s*(?=<\|endoftext\|>|\Z|\n\n)"
    rf"|<details\s{{1,20}}type=\"tool_calls\"(?P<details>[^<>]*+(?:<(?!details)[^<>]*+)*+)>{_TO_END}</details>"
    rf"|<details\s{{1,20}}type=\"reasoning\"[^<>]*+(?:<(?!details)[^<>]*+)*+>(?P<thought>{_TO_END})</details>"
)
"""A mark ends where the next one begins, so a text of beginnings without ends takes linear time, too."""
_OPEN = re.compile(r"<tool_call>\s*+[\[{]|<functioncall>\s*+\{|<details\s++type=\"tool_calls\"")
_ATTRIBUTE = re.compile(r"(?<![\w-])([\w-]++)=\"([^\"]*+)\"")
_RESPONSE, _END_OF_RESPONSE = "<tool_response>", "</tool_response>"
_SUMMARY = re.compile(r"<summary>[^<]*+(?:<(?!/?summary>)[^<]*+)*+</summary>")
_QUOTED = re.compile(r"\"arguments\"\s*+:\s*+'")


class UnreadableRowError(Exception):
    """Why a row cannot be read. The readers return it as a text."""


class Thought(str):
    """What an assistant thought before its answer."""

    __slots__ = ()


class Result(NamedTuple):
    """What a tool gave back, with the id and the name of its call as they are written there."""

    text: str
    id: str = ""
    name: str = ""
    parts: tuple[Part, ...] = ()


Item = str | Thought | ToolCall | Result | Part
"""What may stand in a content, in order."""


def call_in(source: Mapping[str, Any], where: str, name: str = "") -> ToolCall:
    """The call that an object describes."""
    inner: Mapping[str, Any] = next((source[key] for key in _OBJECTS if isinstance(source.get(key), Mapping)), {})
    fields = {**source, **inner}
    name = name or _text(fields, NAME_KEYS)
    if not name or len(name) > LONGEST_NAME:
        raise UnreadableRowError(f"a call without the name of its tool ({where})")
    value: Any = next((fields[key] for key in ARGUMENT_KEYS if fields.get(key) is not None), {})
    if source.get("type") == "custom_tool_call" and isinstance(value, str):  # its input is any text
        value = {"input": value}
    try:
        arguments = canonical_object(value)
    except ValueError as problem:
        raise UnreadableRowError(f"the arguments of a call are {problem} ({where})") from None
    return ToolCall(id=_text(source, ID_KEYS) or _text(inner, ID_KEYS), name=name, arguments=arguments)


def calls_in(value: Any, where: str) -> list[ToolCall]:
    """The calls of a list, of one object, or of the JSON text of either."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise UnreadableRowError(f"the arguments of a call are no JSON ({where})") from None
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise UnreadableRowError(f"a call is not an object ({where})")
    return [call_in(entry, where) for entry in entries]


def calls_beside(turn: Mapping[str, Any], where: str) -> list[ToolCall]:
    """The calls in the fields of an assistant's turn."""
    extra = turn.get("additional_kwargs")
    beside = extra if isinstance(extra, Mapping) else {}
    if turn.get("invalid_tool_calls"):
        raise UnreadableRowError(f"the arguments of a call are no JSON ({where})")
    for key in ("tool_calls", "toolCalls", "function_call"):
        if value := turn.get(key) or beside.get(key):
            return calls_in(value, where)
    return []


def result_in(source: Mapping[str, Any], text: str | None = None, parts: tuple[Part, ...] = ()) -> Result:
    """The result that an object describes; its text may be read already."""
    inner: Mapping[str, Any] = next((source[key] for key in _OBJECTS if isinstance(source.get(key), Mapping)), {})
    fields = {**source, **inner}
    if text is None:
        text = result_text(next((fields[key] for key in _RESULT_KEYS if fields.get(key) is not None), ""))
    marked = text.strip()
    name, id_ = _text(fields, NAME_KEYS), _text(fields, ID_KEYS[:-1]) or _text(inner, ID_KEYS)
    if marked.startswith(_RESPONSE) and marked.endswith(_END_OF_RESPONSE):
        text = marked[len(_RESPONSE) : -len(_END_OF_RESPONSE)].strip()
        wrapped = _object(text)
        if "content" in wrapped and any(key in wrapped for key in ("name", "tool_call_id")):
            name, id_ = _text(wrapped, NAME_KEYS) or name, _text(wrapped, ID_KEYS) or id_
            text = result_text(wrapped["content"])
    return Result(text, id_, name, parts)


def result_text(value: Any) -> str:
    """What a tool gave back as a text: as it is, or as JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, Mapping):
        kind = value.get("type")
        if kind in ("text", "json", "error-text", "error-json", "content") and "value" in value:  # Vercel's AI SDK
            return result_text(value["value"])
        if kind in ("text", "input_text", "output_text") and isinstance(value.get("text"), str):
            return str(value["text"])
    if isinstance(value, list) and value and all(_is_text(part) for part in value):
        return "".join(part["text"] for part in value)
    return canonical(value).decode()


def items_of(text: str, where: str) -> Iterator[Item]:
    """An assistant's text, with the calls that are marked in it."""
    if "<" not in text or not (_OPEN.search(text) or "<details" in text):
        yield text
        return
    position = 0
    for match in _MARKED.finditer(text):
        if before := text[position : match.start()].strip():
            yield before
        position = match.end()
        if match["hermes"]:
            yield from calls_in(match["hermes"].strip(), where)
        elif match["glaive"]:
            yield from calls_in(_requoted(match["glaive"]), where)
        elif match["thought"] is not None:
            words = _SUMMARY.sub("", html.unescape(match["thought"])).strip()
            yield Thought("\n".join(line.removeprefix("> ") for line in words.splitlines()))
        else:
            yield from _open_webui(match["details"], where)
    rest = text[position:].removesuffix("<|endoftext|>").strip() if position else text
    if _OPEN.search(rest):
        raise UnreadableRowError(f"a call that is cut off ({where})")
    if rest:
        yield rest


def _open_webui(attributes: str, where: str) -> Iterator[Item]:
    fields: dict[str, Any] = {name: html.unescape(value) for name, value in _ATTRIBUTE.findall(attributes)}
    yield call_in({**fields, "arguments": _unwrapped(fields.get("arguments", ""))}, where)
    if fields.get("done") != "false":
        yield Result(result_text(_unwrapped(fields.get("result", ""))), fields.get("id", ""), fields.get("name", ""))


def _unwrapped(text: str) -> str:
    """A text that was written as JSON once more."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if isinstance(value, str) else text


def _requoted(text: str) -> str:
    """Glaive writes the JSON text of the arguments in single quotes."""
    begin = _QUOTED.search(text)
    inner = text.rstrip().removesuffix("}").rstrip()
    if begin is None or not inner.endswith("'") or begin.end() >= len(inner):
        return text
    arguments = orjson.dumps(inner[begin.end() : -1].replace("\\'", "'")).decode()
    return f"{text[: begin.end() - 1]}{arguments}{text[len(inner) :]}"


def _object(text: str) -> Mapping[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _text(fields: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    return next((fields[key] for key in keys if isinstance(fields.get(key), str) and fields[key]), "")


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"
