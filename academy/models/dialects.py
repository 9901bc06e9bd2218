"""Which shape a foreign row has, by what it holds: a key counts only where its value has what the shape needs.

In this order: a preference (`chosen` and `rejected`), turns in a list, a request beside its answer, a ChatML text. So
an empty column, or one of another format, never decides. docs/reference/formats.md lists what is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from academy.models.calls import UnreadableRowError
from academy.models.contents import MEDIA_KEYS, media_beside
from academy.models.messages import Part, Tool
from academy.models.tools import TOOL_KEYS, read_tools
from academy.models.trajectories import read_trajectory
from academy.models.turns import ROLES, RowTurn, read_text, read_turns, role_of

TURN_KEYS = (
    "messages", "conversations", "conversation", "chat_messages", "contents", "turns", "dialogue", "dialog", "chat",
)  # fmt: skip
"""Keys that hold a list of turns, or an object that holds such a key."""
TEXT_LISTS = ("conversations", "data")
"""Keys whose list of plain texts alternates, the user first (LIMA, UltraChat)."""
SYSTEM_KEYS = ("system", "system_prompt", "system_message", "systemInstruction", "system_instruction")
"""Keys of a system message beside the turns or the request; it comes first."""
REQUEST_KEYS = ("situation", "request", "instruction", "prompt", "question", "query", "input", "inputs")
"""Keys of a request."""
EXTRA_KEYS = ("input", "context")
"""Keys of a text that follows the request after an empty line."""
ANSWER_KEYS = ("action", "response", "answer", "output", "outputs", "completion", "target")
"""Keys of an answer."""
HISTORY_KEYS = ("history", "context")
"""Keys of earlier turns: a list of pairs, or a list of turns."""
PREFERENCES = (("chosen", "rejected"), ("preferred_output", "non_preferred_output"))
"""Keys of the better and the worse answer."""
SCORES = ("score_chosen", "score_rejected")
"""Scores of the better and the worse answer."""
VOTES = ("label", "kto_tag")
"""Keys that are true beside a good answer and false beside a bad one (KTO)."""
CHOICES = ("choices", "options")
AROUND_TOOLS = ("config", "extra", "invocation_params", "kwargs", "request", "body", "parameters", "agent", "data")
"""Keys of objects in which the definitions of tools may stand."""

_CHATML = re.compile(
    r"<\|im_start\|>([^\n<]*+(?:<(?!\|im_start\|>)[^\n<]*+)*+)\n"
    r"([^<]*+(?:<(?!\|im_(?:start|end)\|>)[^<]*+)*+)<\|im_end\|>"
)
_MARK = re.compile(r"<\|im_(?:start|end)\|>")
_OUTSIDE = re.compile(r"<s>|</s>|<\|endoftext\|>|<\|begin_of_text\|>|<\|im_start\|>assistant\s*$|\s")
_SPEAKER = re.compile(r"\n\n(Human|Assistant|System):")
_RENDERED = (
    "[INST]",
    "### Human:",
    "### Instruction:",
    "<|user|>",
    "<|im_user|>",
    "<start_of_turn>",
    "USER:",
    "<|eot_id|>",
)
_DEEPEST = 3


class Dialogue(NamedTuple):
    """The turns of a row. `preferred` says which side of a preference they are; None: the row is not a preference."""

    turns: list[RowTurn]
    preferred: bool | None = None
    tools: tuple[Tool, ...] = ()


def read_dialogues(row: Any) -> list[Dialogue] | str:
    """The conversations of a row (two for a preference, the better one first), or the reason why it cannot be read."""
    if isinstance(row, list) and row and all(isinstance(turn, Mapping) for turn in row):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        return "not a JSON object"
    try:
        tools = _tools_of(row, 0)
        dialogues = _preference(row) or [Dialogue(_turns_of(row))]
    except UnreadableRowError as problem:
        return str(problem)
    media = media_beside(row, (*MEDIA_KEYS, "attachments"))
    return [
        dialogue._replace(turns=_with_media(dialogue.turns, media) if media else dialogue.turns, tools=tools)
        for dialogue in dialogues
    ]


def _with_media(turns: list[RowTurn], media: tuple[Part, ...]) -> list[RowTurn]:
    """The turns with what stands beside them: it belongs to the first request."""
    first = next((n for n, turn in enumerate(turns) if turn.role == "user"), 0)
    return [turn._replace(parts=(*media, *turn.parts)) if n == first else turn for n, turn in enumerate(turns)]


def _tools_of(row: Mapping[str, Any], depth: int) -> tuple[Tool, ...]:
    """The definitions of tools beside the turns, or in an object around them."""
    for key in TOOL_KEYS:
        if row.get(key):
            tools = read_tools(row[key])
            if isinstance(tools, str):
                raise UnreadableRowError(tools)
            return tools
    for key in (*TURN_KEYS, *REQUEST_KEYS, *AROUND_TOOLS):
        inner = row.get(key)
        if isinstance(inner, Mapping) and depth < _DEEPEST and (tools := _tools_of(inner, depth + 1)):
            return tools
    return ()


def read_request(row: Mapping[str, Any]) -> list[RowTurn] | str:
    """System message, earlier turns and request of a row without an answer, or the reason why they cannot be read."""
    try:
        return _request(row)
    except UnreadableRowError as problem:
        return str(problem)


def _preference(row: Mapping[str, Any]) -> list[Dialogue]:
    for better, worse in (*PREFERENCES, *_arena(row)):
        sides = [_side(row.get(better)), _side(row.get(worse))]
        if not sides[0]:
            continue
        prompt = _prompt(row, sides[0])
        dialogues = [
            Dialogue(
                [*prompt, *side] if not any(turn.role == "user" for turn in side) else [*_beside(row, side), *side],
                n == 0,
            )
            for n, side in enumerate(sides)
            if side
        ]
        scores = [score for key in SCORES if isinstance(score := row.get(key), int | float)]
        if len(scores) == 2 and scores[0] < scores[1]:
            raise UnreadableRowError(f"{better} has a lower score than {worse}")
        if len(dialogues) == 2 and _texts(dialogues[0]) == _texts(dialogues[1]):
            raise UnreadableRowError(f"{better} and {worse} are the same")
        return dialogues
    return []


def _arena(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The sides of a vote between two models, the winner first."""
    if not row.get("conversation_a") or not row.get("conversation_b"):
        return []
    sides = ("conversation_a", "conversation_b")
    winner = str(row.get("winner"))
    if winner not in ("model_a", "model_b"):
        raise UnreadableRowError(f"no winner of two conversations ({winner[:40]})")
    return [sides if winner == "model_a" else sides[::-1]]


def _texts(dialogue: Dialogue) -> list[str]:
    return [turn.text for turn in dialogue.turns if turn.role == "assistant"]


def _side(value: Any) -> list[RowTurn]:
    """One side of a preference: an answer, its turn, or a whole conversation. Empty where there is none."""
    if isinstance(value, str) and value.strip():
        return _transcript(value) or [RowTurn("assistant", value, 1)]
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) for turn in value):
        return _checked(read_turns(value))
    return []


def _prompt(row: Mapping[str, Any], answer: list[RowTurn]) -> list[RowTurn]:
    """What stands before the sides of a preference."""
    if any(turn.role == "user" for turn in answer):
        return []
    if (turns := _turn_list(row, 0)) is not None:
        while turns and turns[-1].role == "assistant":
            turns.pop()
        return turns
    return _request(row)


def _transcript(text: str) -> list[RowTurn]:
    """The turns of a text with "Human:" and "Assistant:" in it (HH); empty where it is none."""
    if text.startswith("Human:") and "\n\nAssistant:" in text:
        text = f"\n\n{text}"
    if not text.startswith("\n\nHuman:"):
        return []
    pieces = _SPEAKER.split(text)
    pairs = zip(pieces[1::2], pieces[2::2], strict=True)
    return [RowTurn(ROLES[name.lower()], words.strip(), n) for n, (name, words) in enumerate(pairs, start=1)]


def _turns_of(row: Mapping[str, Any]) -> list[RowTurn]:
    if (steps := read_trajectory(row)) is not None:
        return _checked(read_turns(steps))
    if (turns := _turn_list(row, 0)) is not None:
        if turns and turns[-1].role in ("user", "tool"):  # a logged request, with its answer beside it
            turns += _answer(row) or []
        return turns
    if (answer := _answer(row)) is not None and any(row.get(key) for key in REQUEST_KEYS):
        return [*_request(row), *answer]
    if isinstance(row.get("text"), str) and _MARK.search(row["text"]):
        return _chatml(row["text"])
    raise UnreadableRowError(_why_not(row))


def _turn_list(row: Mapping[str, Any], depth: int) -> list[RowTurn] | None:
    """The turns under one of the keys, behind the system message beside them. None where no key holds turns."""
    for key in (*TURN_KEYS, "data"):
        value = row.get(key)
        if isinstance(value, str) and value.lstrip().startswith("[{"):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                continue
        if isinstance(value, Mapping) and depth < _DEEPEST:
            if (inner := _turn_list(value, depth + 1)) is not None:
                return [*_beside(row, inner), *inner]
        elif isinstance(value, list) and value:
            if all(isinstance(turn, str) for turn in value):
                if key not in TEXT_LISTS:
                    raise UnreadableRowError(f"{key} is a list of texts without roles")
            elif key == "data" or not any(isinstance(turn, Mapping) for turn in value):
                continue
            turns = _checked(read_turns(value))
            return [*_beside(row, turns), *turns]
    return None


def _beside(row: Mapping[str, Any], turns: list[RowTurn]) -> list[RowTurn]:
    """The system message beside the turns, unless they begin with it."""
    for key in SYSTEM_KEYS:
        if row.get(key):
            text = read_text(row[key], key)
            repeated = any(turn.role == "system" and turn.text == text for turn in turns)
            return [RowTurn("system", text, 0)] if text.strip() and not repeated else []
    return []


def _request(row: Mapping[str, Any]) -> list[RowTurn]:
    """System message, history and request of a row."""
    values = [(key, row[key]) for key in REQUEST_KEYS if _holds(row.get(key))]
    if not values:
        raise UnreadableRowError(f"no request ({'/'.join(REQUEST_KEYS)})")
    key, value = values[0]
    for other in CHOICES:
        if row.get(other):
            raise UnreadableRowError(f"a question with {other} cannot be read")
    if not isinstance(value, str):
        turns = _deep(value, key, REQUEST_KEYS)
        return [*_beside(row, turns), *turns]
    if turns := _transcript(value):
        while turns and turns[-1].role == "assistant" and not turns[-1].text:
            turns.pop()
        return [*_beside(row, turns), *turns]
    texts = [value]
    for other, text in values[1:]:
        if other not in EXTRA_KEYS and not (isinstance(text, str) and (text in value or value in text)):
            raise UnreadableRowError(f"two requests ({key}, {other})")
    for other in EXTRA_KEYS:
        extra = row.get(other)
        if other == key or extra in (None, "", [], {}) or (other == "context" and isinstance(extra, list)):
            continue
        if not isinstance(extra, str):
            raise UnreadableRowError(f"{other} is not text")
        if extra.strip():
            texts.append(extra)
    turns = [*_history(row), RowTurn("user", "\n\n".join(texts), 1)]
    return [*_beside(row, turns), *turns]


def _history(row: Mapping[str, Any]) -> list[RowTurn]:
    for key in HISTORY_KEYS:
        turns = row.get(key)
        if not turns or isinstance(turns, str):
            continue
        if isinstance(turns, list) and all(isinstance(turn, Mapping) for turn in turns):
            return _checked(read_turns(turns))
        if not isinstance(turns, list) or not all(
            isinstance(turn, list) and len(turn) == 2 and all(isinstance(text, str) for text in turn) for turn in turns
        ):
            raise UnreadableRowError(f"{key} is not a list of pairs of texts")
        return [RowTurn("user" if n == 0 else "assistant", turn[n], 0) for turn in turns for n in (0, 1)]
    return []


def _answer(row: Mapping[str, Any]) -> list[RowTurn] | None:
    """The answer beside a request; None where there is none."""
    values = [(key, row[key]) for key in ANSWER_KEYS if _holds(row.get(key))]
    if not values:
        return None
    key, value = values[0]
    for other, text in values[1:]:
        if text != value:
            raise UnreadableRowError(f"two answers ({key}, {other})")
    if isinstance(value, str):
        return [RowTurn("assistant", value, 2)]
    turns = _deep(value, key, ANSWER_KEYS)
    return [turn._replace(role="assistant") if turn.role == "user" and len(turns) == 1 else turn for turn in turns]


def _deep(value: Any, where: str, keys: tuple[str, ...]) -> list[RowTurn]:
    """The turns of a logged call's input or output: turns, one message, or one text under a usual name."""
    if isinstance(value, list):
        if not all(isinstance(turn, Mapping) for turn in value):
            raise UnreadableRowError(f"{where} is not text")
        return _checked(read_turns(value))
    if isinstance(value, Mapping):
        if (turns := _turn_list(value, 1)) is not None:
            return turns
        if isinstance(value.get("choices"), list) and len(value["choices"]) == 1:
            value = value["choices"][0]
        if isinstance(value, Mapping) and isinstance(value.get("message"), Mapping):
            value = value["message"]
        if isinstance(value, Mapping) and any(role_of(value.get(key)) for key in ("role", "from", "type")):
            return _checked(read_turns([value]))
        texts = [value[key] for key in (*keys, "content", "text") if isinstance(value, Mapping) and value.get(key)]
        if len(texts) == 1 and isinstance(texts[0], str):
            return [RowTurn("assistant" if keys is ANSWER_KEYS else "user", texts[0], 1)]
    raise UnreadableRowError(f"{where} is not text")


def _holds(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, list | Mapping) and bool(value)


def _chatml(text: str) -> list[RowTurn]:
    if _MARK.search(outside := _OUTSIDE.sub("", _CHATML.sub("", text))) or outside:
        raise UnreadableRowError("text has words outside of ChatML's marks")
    turns = [{"role": role.strip(), "content": words} for role, words in _CHATML.findall(text)]
    return _checked(read_turns(turns))


def _checked(turns: list[RowTurn] | str) -> list[RowTurn]:
    if isinstance(turns, str):
        raise UnreadableRowError(turns)
    return turns


def _why_not(row: Mapping[str, Any]) -> str:
    return next(_reasons(row))


def _reasons(row: Mapping[str, Any]) -> Iterator[str]:
    if "message_id" in row and "parent_id" in row:
        yield "one message of a tree, not a conversation (message_id, parent_id)"
    if "mapping" in row or (isinstance(row.get("prompt"), Mapping) and "replies" in row["prompt"]):
        yield "a tree of messages, not a conversation"
    if "role" in row or ("from" in row and "value" in row):
        yield "a single message, not a conversation"
    for key in TURN_KEYS:
        if row.get(key):
            yield f"{key} is not a list of turns"
    request, answer = (next((key for key in keys if _holds(row.get(key))), "") for keys in (REQUEST_KEYS, ANSWER_KEYS))
    other_answer = next((key for key in ANSWER_KEYS if row.get(key) not in (None, "", [], {})), "")
    if request and other_answer and not isinstance(row[other_answer], str):
        yield f"{other_answer} is not text"
    if request:
        yield f"no answer ({'/'.join(ANSWER_KEYS)})"
    if answer or any(key in row for key in ("situation", "instruction")):
        yield f"no request ({'/'.join(REQUEST_KEYS)})"
    if isinstance(row.get("text"), str):
        mark = next((mark for mark in _RENDERED if mark in row["text"]), "")
        yield f"text is not ChatML (a rendered prompt with {mark})" if mark else "text is not ChatML"
    for key, value in row.items():
        if isinstance(value, list) and value and all(isinstance(inner, Mapping) for inner in value):
            yield f"rows under {str(key)[:30]!r}: write one row per line"
    yield f"no known format (keys: {', '.join(str(key)[:30] for key in list(row)[:8]) or 'none'})"
