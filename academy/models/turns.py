"""Reads the turns of foreign conversations: role names of all common dialects, contents, calls of tools and results.

A turn that cannot be read gives a reason. Nothing is passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from academy.models.calls import (
    Item,
    Result,
    Thought,
    UnreadableRowError,
    call_in,
    calls_beside,
    calls_in,
    items_of,
)
from academy.models.contents import FILE_KEYS, MEDIA_KEYS, items_in, media_beside, plain, result_items, thoughts_in
from academy.models.messages import Part, Role, ToolCall

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer", "systemmessage", "systemmessagechunk"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "humanmessage", "humanmessagechunk"), "user"),
    **dict.fromkeys(
        (
            "assistant", "gpt", "chatgpt", "model", "ai", "bot", "chatbot", "llm", "bard", "bing", "claude", "gemini",
            "aimessage", "aimessagechunk", "agent", "function_call", "tool_call", "tool_calls", "custom_tool_call",
            "local_shell_call", "reasoning",
        ),
        "assistant",
    ),
    **dict.fromkeys(
        (
            "tool", "function", "observation", "ipython", "function_response", "tool_response", "tool_result",
            "function_call_output", "custom_tool_call_output", "local_shell_call_output", "toolmessage",
            "toolmessagechunk", "functionmessage",
        ),
        "tool",
    ),
}  # fmt: skip
"""Names of the roles; upper case, hyphens and spaces do not matter."""
CALLS = frozenset({"function_call", "tool_call", "tool_calls", "custom_tool_call", "local_shell_call"})
"""Names of an assistant's turn that only calls a tool."""
ROLE_KEYS = ("role", "from", "sender", "speaker", "author", "type")
CONTENT_KEYS = ("content", "value", "text", "parts", "message", "output")
PAIR_KEYS: dict[str, Role] = {
    "system": "system",
    **dict.fromkeys(("input", "prompt", "question", "instruction"), "user"),
    **dict.fromkeys(("output", "response", "answer", "completion"), "assistant"),
}
"""Keys of a turn that holds a request and its answer (Capybara, XTuner)."""

THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of what an assistant thought, beside its text."""
WEIGHTS = ("weight", "train", "training", "train_on_turn", "loss", "loss_weight", "loss_scale", "loss_mask")
"""Fields of a turn that say whether it is learned: a number, or true and false. 0 and false mean context only."""
UNCLEAR_WEIGHTS = {
    "mask": "mask does not say whether 1 is learned or omitted",
    "train_detail": "train_detail marks parts of an answer",
}
"""Fields of a turn that cannot be followed."""


class RowTurn(NamedTuple):
    """A turn as it stands in a row. `source` is the object it was read from, with its feedback and weight."""

    role: Role
    text: str
    number: int  # in the row, from 1
    calls: tuple[ToolCall, ...] = ()
    source: Mapping[str, Any] = {}
    result: Result | None = None  # of a tool's turn
    reasoning: str = ""
    parts: tuple[Part, ...] = ()

    @property
    def says_something(self) -> bool:
        """Whether it has a text that is not blank."""
        return bool(self.text.strip())


def role_of(name: Any) -> Role | None:
    """The standard role of a name, or None."""
    return ROLES.get(plain(name)) if isinstance(name, str) else None


def read_turns(turns: list[Any]) -> list[RowTurn] | str:
    """The turns of a list, or the reason why one cannot be read. Texts without roles alternate, the user first."""
    if turns and all(isinstance(turn, str) for turn in turns):
        roles: tuple[Role, Role] = ("user", "assistant")
        return [RowTurn(roles[n % 2], text, n + 1) for n, text in enumerate(turns)]
    result: list[RowTurn] = []
    for number, turn in enumerate(turns, start=1):
        try:
            read = _read_turn(turn, number) if isinstance(turn, Mapping) else f"a turn is not an object (turn {number})"
        except UnreadableRowError as problem:
            return str(problem)
        if isinstance(read, str):
            return read
        result += read
    return result


def read_text(content: Any, where: str) -> str:
    """The text of a system message or of an answer that stands alone. Raises UnreadableRowError."""
    items = list(items_in(content, where))
    if any(isinstance(item, ToolCall | Result | Part) for item in items):
        raise UnreadableRowError(f"content is not text ({where})")
    return _texts(items)


def _read_turn(turn: Mapping[str, Any], number: int) -> list[RowTurn] | str:
    if turn.get("type") == "constructor" and isinstance(turn.get("kwargs"), Mapping):  # LangChain's own JSON
        name = turn["id"][-1] if isinstance(turn.get("id"), list) and turn["id"] else None
        turn = {**turn["kwargs"], "role": name}
    name = _role_name(turn)
    if name is None:
        if media := media_beside(turn, (*MEDIA_KEYS, *FILE_KEYS)):
            return f"a {media[0].kind} without a role (turn {number})"
        return _pair_turn(turn, number)
    role = role_of(name)
    if role is None:
        return f"unknown role {str(name)[:40]!r} (turn {number})"
    where = f"turn {number}"
    parts = turn.get("parts")  # Vercel's AI SDK writes the text twice: in `content`, and with the calls in `parts`
    has_calls = isinstance(parts, list) and any(
        isinstance(part, Mapping) and "tool" in str(part.get("type")) for part in parts
    )
    key = "parts" if has_calls else next((key for key in CONTENT_KEYS if turn.get(key) is not None), "")
    data = turn.get("data")
    if not key and isinstance(data, Mapping):  # LangChain's messages as dictionaries
        turn, key = {**turn, **data, "type": turn.get("type")}, "content"
    media = media_beside(turn, (*MEDIA_KEYS, *FILE_KEYS))
    if plain(name) in CALLS:
        calls = _called(turn, key, where)
        return [RowTurn("assistant", "", number, tuple(calls), turn, None, "", media)]
    items = [*media, *([] if plain(name) == "reasoning" else _items(turn, key, role, where))]
    if role == "assistant":
        for thought_key in THOUGHT_KEYS:
            value = turn.get(thought_key)
            if isinstance(value, str) and value.strip():
                items.insert(0, Thought(value))
                break
        if plain(name) == "reasoning" and (words := thoughts_in(turn)):
            items.insert(0, Thought(words))
        if not any(isinstance(item, ToolCall) for item in items):  # LangChain has them in the content as well
            items += calls_beside(turn, where)
        return _assistant_turns(items, number, turn)
    if any(isinstance(item, ToolCall) for item in items):
        return f"a call that is not the assistant's ({where})"
    return _other_turns(items, role, number, turn)


def _called(turn: Mapping[str, Any], key: str, where: str) -> list[ToolCall]:
    """The calls of a turn that only calls."""
    if isinstance(turn.get("name"), str) or plain(turn.get("type")) in CALLS:
        return [call_in({"name": plain(turn.get("type")).removesuffix("_call"), **turn}, where)]
    if beside := calls_beside(turn, where):
        return beside
    value = turn.get(key)
    if isinstance(value, str) and (marked := [item for item in items_of(value, where) if isinstance(item, ToolCall)]):
        return marked
    return calls_in(value, where)


def _items(turn: Mapping[str, Any], key: str, role: Role, where: str) -> list[Item]:
    if role == "tool":
        value = turn.get(key)
        items = list(items_in(value, where)) if isinstance(value, list) else []
        results: list[Item] = [item for item in items if isinstance(item, Result)]
        return results or [result_items({**turn, "content": value}, where)]
    items = list(items_in(turn.get(key), where))
    if role != "assistant":
        return items
    return [
        inner
        for item in items
        for inner in (items_of(item, where) if isinstance(item, str) and not isinstance(item, Thought) else [item])
    ]


def _assistant_turns(items: list[Item], number: int, source: Mapping[str, Any]) -> list[RowTurn]:
    """An assistant's turn; results inside of it divide it. Its feedback belongs to the last text."""
    groups: list[list[Item]] = [[]]
    for item in items:
        if groups[-1] and isinstance(groups[-1][-1], Result) and not isinstance(item, Result):
            groups.append([])
        groups[-1].append(item)
    weights = {name: source[name] for name in (*WEIGHTS, *UNCLEAR_WEIGHTS) if name in source}
    turns: list[RowTurn] = []
    for place, group in enumerate(groups, start=1):
        calls = tuple(item for item in group if isinstance(item, ToolCall))
        parts = tuple(item for item in group if isinstance(item, Part))
        thoughts = "\n".join(item for item in group if isinstance(item, Thought))
        own = source if place == len(groups) else weights
        turns.append(RowTurn("assistant", _texts(group), number, calls, own, None, thoughts, parts))
        turns += _results(group, number)
    return turns


def _other_turns(items: list[Item], role: Role, number: int, source: Mapping[str, Any]) -> list[RowTurn]:
    """Another's turn: results come first, whatever stands before them."""
    turns = _results(items, number)
    text = _texts(items)
    parts = tuple(item for item in items if isinstance(item, Part))
    if role != "tool" and (text.strip() or parts or not turns):
        turns.append(RowTurn(role, text, number, (), source, None, "", parts))
    return turns


def _results(items: list[Item], number: int) -> list[RowTurn]:
    return [
        RowTurn("tool", item.text, number, (), {}, item, "", item.parts) for item in items if isinstance(item, Result)
    ]


def _texts(items: list[Item]) -> str:
    return "".join(item for item in items if isinstance(item, str) and not isinstance(item, Thought))


def _role_name(turn: Mapping[str, Any]) -> Any:
    for key in ROLE_KEYS:
        name = turn.get(key)
        if key == "author" and isinstance(name, Mapping):
            name = name.get("role")
        if key == "type" and name in ("message", "text"):
            continue
        if name is not None:
            return name
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
        result.append(RowTurn(role, value, number, (), turn if role == "assistant" else {}))
    order = ("system", "user", "assistant")
    return sorted(result, key=lambda row_turn: order.index(row_turn.role)) or f"a turn has no role (turn {number})"
