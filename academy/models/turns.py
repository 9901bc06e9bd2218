"""Reads the turns of foreign conversations: role names of all common dialects, and contents as texts or lists of parts.

A turn that cannot be read gives a reason. Nothing is passed over, except what a model thinks before its answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant", "tool"]

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer", "systemmessage", "systemmessagechunk"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "humanmessage", "humanmessagechunk"), "user"),
    **dict.fromkeys(
        (
            "assistant", "gpt", "chatgpt", "model", "ai", "bot", "chatbot", "llm", "bard", "bing", "claude", "gemini",
            "aimessage", "aimessagechunk", "function_call", "tool_call", "tool_calls",
        ),
        "assistant",
    ),
    **dict.fromkeys(
        (
            "tool", "function", "observation", "ipython", "function_response", "tool_response", "tool_result",
            "function_call_output", "toolmessage", "functionmessage",
        ),
        "tool",
    ),
}  # fmt: skip
"""Names of the roles; upper case, hyphens and spaces do not matter."""
CALLS = frozenset({"function_call", "tool_call", "tool_calls"})
"""Names of an assistant's turn that only calls a tool."""
ROLE_KEYS = ("role", "from", "sender", "speaker", "author", "type")
CONTENT_KEYS = ("content", "value", "text", "parts", "message", "output")
PAIR_KEYS: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("input", "prompt", "question", "instruction"), "user"),
    **dict.fromkeys(("output", "response", "answer", "completion"), "assistant"),
}
"""Keys of a turn that holds a request and its answer (Capybara, XTuner)."""

MEDIA_KEYS = (
    "image", "images", "image_url", "image_urls", "video", "videos", "audio", "audios",
)  # fmt: skip
"""Keys of pictures, films and sounds beside a text, in a turn or a row. The text may make no sense without them."""
FILE_KEYS = ("attachments", "files")
"""Keys of files beside the text of a turn."""

_TEXTS = frozenset({"text", "input_text", "output_text"})
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning", "thought"})
_CALL_PARTS = frozenset({"tool_use", "server_tool_use", "tool_call", "function_call", "functioncall", "executablecode"})
_RESULT_PARTS = frozenset(
    {"tool_result", "tool_response", "function_response", "functionresponse", "codeexecutionresult"}
)


class UnreadableRowError(Exception):
    """Why a row cannot be read. The readers return it as a text."""


class RowTurn(NamedTuple):
    """A turn as it stands in a row. `source` is the object it was read from, with its feedback and weight."""

    role: Role
    text: str
    number: int  # in the row, from 1
    calls: bool = False  # it calls a tool, so its text is a preamble
    source: Mapping[str, Any] = {}


class _Content(NamedTuple):
    text: str = ""
    calls: bool = False
    results: bool = False


def role_of(name: Any) -> Role | None:
    """The standard role of a name, or None."""
    return ROLES.get(_plain(name)) if isinstance(name, str) else None


def read_turns(turns: list[Any]) -> list[RowTurn] | str:
    """The turns of a list, or the reason why one cannot be read. Texts without roles alternate, the user first."""
    if turns and all(isinstance(turn, str) for turn in turns):
        roles: tuple[Role, Role] = ("user", "assistant")
        return [RowTurn(roles[n % 2], text, n + 1) for n, text in enumerate(turns)]
    result: list[RowTurn] = []
    for number, turn in enumerate(turns, start=1):
        read = _read_turn(turn, number) if isinstance(turn, Mapping) else f"a turn is not an object (turn {number})"
        if isinstance(read, str):
            return read
        result += read
    return result


def read_text(content: Any, where: str) -> str:
    """The text of a system message or of an answer that stands alone. Raises UnreadableRowError."""
    parsed = _content(content, where)
    return parsed.text


def media_in(source: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """Why a turn or a row cannot be read from its text alone; empty if it can."""
    return next((f"what {key!r} holds is not text" for key in keys if source.get(key)), "")


def _read_turn(turn: Mapping[str, Any], number: int) -> list[RowTurn] | str:
    if turn.get("type") == "constructor" and isinstance(turn.get("kwargs"), Mapping):  # LangChain's own JSON
        name = turn["id"][-1] if isinstance(turn.get("id"), list) and turn["id"] else None
        turn = {**turn["kwargs"], "role": name}
    if reason := media_in(turn, (*MEDIA_KEYS, *FILE_KEYS)):
        return f"{reason} (turn {number})"
    name = _role_name(turn)
    if name is None:
        return _pair_turn(turn, number)
    role = role_of(name)
    if role is None:
        return f"unknown role {str(name)[:40]!r} (turn {number})"
    key = next((key for key in CONTENT_KEYS if turn.get(key) is not None), "")
    value = turn.get(key)
    if not key and isinstance(turn.get("data"), Mapping):  # LangChain's messages as dictionaries
        value = turn["data"].get("content")
    try:
        content = _content(value, f"turn {number}")
    except UnreadableRowError as problem:
        return str(problem)
    calls = content.calls or _plain(name) in CALLS or bool(turn.get("tool_calls") or turn.get("function_call"))
    if content.results and not content.text.strip():
        role = "tool"
    return [RowTurn(role, "" if _plain(name) in CALLS else content.text, number, calls and role == "assistant", turn)]


def _role_name(turn: Mapping[str, Any]) -> Any:
    for key in ROLE_KEYS:
        name = turn.get(key)
        if key == "author" and isinstance(name, Mapping):
            name = name.get("role")
        if key == "type" and name in ("message", "text"):
            continue
        if name is not None:
            return "assistant" if key == "type" and name == "reasoning" else name
    return None


def _pair_turn(turn: Mapping[str, Any], number: int) -> list[RowTurn] | str:
    """A turn that holds a request and its answer, or one text under the name of its role."""
    result = []
    for key, value in turn.items():
        role = PAIR_KEYS.get(key) or role_of(key)
        if role is None or role == "tool" or value in (None, ""):
            continue
        if not isinstance(value, str):
            return f"content is not text (turn {number}, {key})"
        result.append(RowTurn(role, value, number, False, turn if role == "assistant" else {}))
    order = ("system", "user", "assistant")
    return sorted(result, key=lambda row_turn: order.index(row_turn.role)) or f"a turn has no role (turn {number})"


def _content(value: Any, where: str) -> _Content:
    """The text of a content and whether it calls a tool or has its results. Raises UnreadableRowError."""
    if value is None:
        return _Content()
    if isinstance(value, str):
        return _Content(value)
    if isinstance(value, Mapping):
        parts = value.get("parts")
        value = parts if isinstance(parts, list) else [value]
    if not isinstance(value, list):
        raise UnreadableRowError(f"content is not text ({where}: {type(value).__name__})")
    texts, calls, results = [], False, False
    for part in value:
        if part is None or isinstance(part, str):
            texts.append(part or "")
            continue
        if not isinstance(part, Mapping):
            raise UnreadableRowError(f"content has a part that is not text ({where}: {type(part).__name__})")
        kinds = {_plain(part["type"])} if isinstance(part.get("type"), str) else {_plain(key) for key in part}
        if kinds & _CALL_PARTS:
            calls = True
        elif kinds & _RESULT_PARTS:
            results = True
        elif kinds & _THOUGHTS or part.get("thought") is True:
            continue
        else:
            texts.append(_text_of(part, kinds, where))
    return _Content("".join(texts), calls, results)


def _text_of(part: Mapping[str, Any], kinds: set[str], where: str) -> str:
    text = part.get("text")
    if text is None and "type" not in part:
        text = part.get("content")
    if isinstance(text, Mapping):
        text = text.get("value")
    if not isinstance(text, str) or ("type" in part and not kinds & _TEXTS):
        kind = str(part.get("type") or ", ".join(map(str, part)) or "empty")[:40]
        raise UnreadableRowError(f"a part of type {kind!r} cannot be read ({where})")
    return text


def _plain(name: Any) -> str:
    return str(name).strip().strip(":").casefold().replace("-", "_").replace(" ", "_")
