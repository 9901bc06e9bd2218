"""Reads a line of JSONL into rows for the store, or says why it cannot be read.

A reason names its kind first and its place in parentheses, so that equal reasons can be counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from academy.experience.conversations import ConversationFilter, conversation_rows, no_weight
from academy.experience.experience import Kind, Outcome, Trace
from academy.experience.feedback import Unreadable, feedback_beside
from academy.experience.reading import LONGEST_LINE, STANDINGS, make_row, now, read_feedback, read_outcome
from academy.models.contents import LESSON_KEYS, media_beside
from academy.models.dialects import PREFERENCES, TURN_KEYS, read_dialogues, read_request
from academy.models.exchanges import answer_of, converse, message_of
from academy.models.messages import Message
from academy.models.turns import RowTurn

OPTIONS: dict[str, str] = {"task": "--tasks", "conversation": "--conversations", "file": "--examples"}
"""The option of `academy lessons import` for each kind; lessons need none."""
OWN_KINDS = ("lesson", "task", "conversation", "file")
"""Kinds that an export writes into its lines."""
_PYTHON = re.compile(rb"\{\s*+'|[\[{,:]\s*+(?:None|True|False)\s*+[,}\]]")
UNFINISHED = ("running", "in progress", "pending", "queued", "scheduled", "processing")
"""Statuses of a task that has no outcome yet."""


def read_line(line: bytes, kind: Kind, batch: str, only: ConversationFilter) -> list[dict[str, Any]] | str:
    """The rows of a line (none if it is empty or filtered), or the reason why it cannot be read."""
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    if not line.strip():
        return []
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError as problem:
        return _not_json(line, problem.msg)
    if other := _other_kind(content, kind):
        return other
    if kind in ("conversation", "file"):
        return conversation_rows(content, kind, batch, only)
    if not isinstance(content, dict):
        return "not a JSON object"
    row = _lesson(content, kind, batch)
    return row if isinstance(row, str) else [row]


def _not_json(line: bytes, message: str) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError as problem:
        return f"not UTF-8 (byte 0x{line[problem.start]:02x} at {problem.start + 1})"
    if "\r" in text.strip():
        return "not JSON: lines end with carriage returns only"
    if _PYTHON.search(line):
        return "not JSON: Python's notation (True, None or single quotes)"
    return f"not JSON ({message})"


def _other_kind(content: Any, kind: Kind) -> str:
    """That a line is of another kind than its file is said to be, and the option that reads it. Empty: it is not."""
    if not isinstance(content, dict):
        is_list = isinstance(content, list) and bool(content) and all(isinstance(turn, dict) for turn in content)
        return (
            _instead(f"a conversation, not a {kind}", "conversation", kind)
            if is_list and kind in ("lesson", "task")
            else ""
        )
    own = content.get("kind")
    if "situation" in content and "action" in content:
        if own in OWN_KINDS:  # a line of an export
            return "" if kind in ("lesson", own) else _instead(f"an exported {own}", "lesson", kind)
        is_right = kind == "lesson" or (kind == "task" and _is_task(content))
        return "" if is_right else _instead("a lesson", "lesson", kind)
    if kind in ("lesson", "task") and _has_turns(content):
        return _instead(f"a conversation, not a {kind}", "conversation", kind)
    if kind == "lesson" and _is_task(content) and not content.get("outcome"):
        return _instead("a task, not a lesson", "task", kind)
    if kind == "task" and not _is_task(content):
        return _instead("a lesson, not a task (no status)", "lesson", kind)
    return ""


def _instead(what: str, right: Kind, kind: Kind) -> str:
    if right == "lesson":
        return f"{what}: import it without {OPTIONS[kind]}"
    return f"{what}: import it with {'--tasks' if right == 'task' else '--conversations or --examples'}"


def _is_task(content: Mapping[str, Any]) -> bool:
    return content.get("task_id") is not None or content.get("status") is not None


def _has_turns(content: Mapping[str, Any]) -> bool:
    return any(isinstance(content.get(key), list | dict) and content[key] for key in TURN_KEYS) or any(
        content.get(better) and content.get(worse) for better, worse in PREFERENCES
    )


def _lesson(content: dict[str, Any], kind: Kind, batch: str) -> dict[str, Any] | str:
    if no_weight(content):
        return "the row has weight 0"
    extra = content.get("metadata") or {}
    tags = content.get("tags") or []
    if not isinstance(extra, dict) or not isinstance(tags, list):
        return "metadata must be an object and tags a list"
    if not all(isinstance(tag, str | int) for tag in tags):
        return "tags must be a list of texts"
    standing = content.get("standing") or "active" if _is_own(content) else "active"  # as an export writes it
    if standing not in STANDINGS:
        return f"standing must be one of {', '.join(STANDINGS)}"
    words = content.get("feedback") if _is_own(content) else None  # a lesson's own feedback is a text as it stands
    stated = {**content, "rating": content.get("rating") or None}
    feedback = feedback_beside({**stated, "feedback": None} if isinstance(words, str) else stated)
    if isinstance(feedback, Unreadable):
        return feedback.because
    own = {name: content.get(name) if _is_own(content) else None for name in ("context", "trace")}
    row_fields = read_feedback({**content, "rating": feedback.rating, **own})
    if isinstance(row_fields, str):
        return row_fields
    is_task = kind == "task" and "kind" not in content and not content.get("outcome")
    if feedback.correction:
        outcome: Outcome = "success"  # what failed is the answer that it replaces
    elif is_task or (_kind(content, kind) == "task" and "status" in content):
        outcome = _task_outcome(content)
    else:
        outcome = _lesson_outcome(content, feedback.outcome)
    texts = _texts(content, outcome)
    if isinstance(texts, str):
        return texts
    request, answer, context, trace = texts
    if not trace.parts and not _has_turns(content):
        trace = trace.model_copy(update={"parts": media_beside(content, LESSON_KEYS)})
    if content.get("task_id"):
        extra = {**extra, "task_id": str(content["task_id"])}
    return make_row(
        standing=standing,
        trusted=content.get("untrusted") is not True,
        kind=_kind(content, kind),
        situation=request,
        action=answer,
        correction=feedback.correction,
        result=str(content.get("result") or content.get("status") or ""),
        feedback=words if isinstance(words, str) else feedback.comment,
        tags=[str(tag) for tag in tags],
        outcome=outcome,
        author=str(content.get("author") or ""),
        batch=str(content.get("batch") or batch),
        at=str(content.get("at") or content.get("timestamp") or now()),
        extra=extra,
        **{
            **row_fields,
            "gold": row_fields["gold"] or feedback.gold_star,
            "context": row_fields["context"] or [message.model_dump(mode="json") for message in context],
            "trace": row_fields["trace"] or trace.model_dump(mode="json"),
        },
    )


def _is_own(content: Mapping[str, Any]) -> bool:
    """Whether a line has the shape that an export writes."""
    return isinstance(content.get("situation"), str)


def _texts(content: dict[str, Any], outcome: Outcome) -> tuple[str, str, tuple[Message, ...], Trace] | str:
    """Request, answer, earlier messages and trace of a lesson. Only a failure, and a call, may have no answer."""
    situation, action = content.get("situation"), content.get("action")
    if isinstance(situation, str) and isinstance(action, str) and situation.strip():
        calls = _is_own(content) and isinstance(content.get("trace"), dict) and content["trace"].get("tool_calls")
        if action.strip() or calls:
            return situation, action, (), Trace()
    dialogues = read_dialogues(content)
    turns = dialogues if isinstance(dialogues, str) else dialogues[0].turns
    no_answer = isinstance(turns, str) and outcome == "failure"
    if no_answer and not isinstance(request := read_request(content), str):
        turns = [*request, RowTurn("assistant", "none", 0)]
    if isinstance(turns, str):
        return turns
    conversation = converse(turns, () if isinstance(dialogues, str) else dialogues[0].tools)
    if isinstance(conversation, str):
        return conversation
    last = conversation.exchanges[-1]
    if not last.learned:
        return "no request with an answer"
    thoughts = message_of(last.learned).reasoning
    trace = Trace(parts=last.request.parts, steps=last.steps, reasoning=thoughts, tools=conversation.tools)
    answer = "" if no_answer else answer_of(last.learned)
    return last.request.content, answer, conversation.messages[: last.start], trace


def _kind(content: dict[str, Any], kind: Kind) -> Kind:
    """The line's own kind, which an export writes, or the kind of its file."""
    line_kind = content.get("kind")
    return line_kind if line_kind in OWN_KINDS else kind


def _lesson_outcome(content: Mapping[str, Any], feedback: Outcome) -> Outcome:
    """The line's own outcome; otherwise what its result and its feedback say. A failure of either is a failure."""
    stated = content.get("outcome")
    if stated == "unknown" or read_outcome(stated) != "unknown":
        return read_outcome(stated)
    signs = {feedback, read_outcome(content.get("result"))}
    return "failure" if "failure" in signs else "success" if "success" in signs else "unknown"


def _task_outcome(content: dict[str, Any]) -> Outcome:
    """A task counts if it was completed and, where the line says so, successful. One that still runs is unknown."""
    if str(content.get("status") or "").strip().lower().replace("_", " ").replace("-", " ") in UNFINISHED:
        return "unknown"
    if read_outcome(content.get("status")) != "success":
        return "failure"
    return read_outcome(content["success"]) if "success" in content else "success"
