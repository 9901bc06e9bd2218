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
_OPENING = re.compile(
    r"(?P<hermes><tool_call>\s*+(?=[\[{]))|(?P<glaive><functioncall>\s*+(?=\{))"
    r"|(?P<details><details\s++type=\"tool_calls\")|(?P<thought><details\s++type=\"reasoning\")"
)
"""What begins a call or a thought; its end is looked for once, so a text of many beginnings takes linear time."""
_CLOSING = {"hermes": "</tool_call>", "details": "</details>", "thought": "</details>"}
_GLAIVE_END = re.compile(r"\}(?=\s*(?:<\|endoftext\|>|\Z|\n\n))")
_OPEN = re.compile(r"<tool_call>\s*+[\[{]|<functioncall>\s*+\{|<details\s++type=\"tool_calls\"")
_ATTRIBUTE = re.compile(r"(?<![\w-])([\w-]++)=\"([^\"]*+)\"")
_RESPONSE = ("<tool_response>", "</tool_response>")
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
    bare = text.strip()
    is_wrapped = bare.startswith(_RESPONSE[0]) and bare.endswith(_RESPONSE[1]) and len(bare) >= sum(map(len, _RESPONSE))
    name, id_ = _text(fields, NAME_KEYS), _text(fields, ID_KEYS[:-1]) or _text(inner, ID_KEYS)
    if is_wrapped:
        text = bare.removeprefix(_RESPONSE[0]).removesuffix(_RESPONSE[1]).strip()
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
    for kind, start, inside, end in _marked(text):
        if before := text[position:start].strip():
            yield before
        position = end
        if kind == "hermes":
            yield from calls_in(inside, where)
        elif kind == "glaive":
            yield from calls_in(_requoted(inside), where)
        elif kind == "thought":
            words = _without_summaries(html.unescape(inside.partition(">")[2])).strip()
            yield Thought("\n".join(line.removeprefix("> ") for line in words.splitlines()))
        else:
            yield from _open_webui(inside.partition(">")[0], where)
    rest = text[position:].removesuffix("<|endoftext|>").strip() if position else text
    if _OPEN.search(rest):
        raise UnreadableRowError(f"a call that is cut off ({where})")
    if rest:
        yield rest


def _marked(text: str) -> Iterator[tuple[str, int, str, int]]:
    """Kind, start, content and end of each call and thought that is marked in a text and has an end."""
    position = 0
    without_end: set[str] = set()  # kinds of which no end follows
    for match in _OPENING.finditer(text):
        kind = match.lastgroup or ""
        if match.start() < position or kind in without_end:
            continue
        if kind == "glaive":
            closing = _GLAIVE_END.search(text, match.end())
            end, after = (closing.end(), closing.end()) if closing else (-1, -1)
        else:
            end = text.find(_CLOSING[kind], match.end())
            after = end + len(_CLOSING[kind])
        if end < 0:
            without_end.add(kind)
            continue
        position = after
        yield kind, match.start(), text[match.end() : end].rstrip(), after


def _without_summaries(text: str) -> str:
    head, closing, rest = text.rpartition("</summary>")
    return _SUMMARY.sub("", head + closing) + rest


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
    body = text.rstrip().removesuffix("}").rstrip()
    opening = _QUOTED.search(body)
    if opening is None or not body.endswith("'") or opening.end() >= len(body):
        return text
    arguments = body[opening.end() : -1].replace("\\'", "'")
    return f"{text[: opening.end() - 1]}{orjson.dumps(arguments).decode()}}}"


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
