"""A line of JSONL into rows for the store, or the reason why it cannot be read."""

from __future__ import annotations

from typing import Any

import orjson

from academy.experience.conversations import ConversationFilter, conversation_rows
from academy.experience.reading import LONGEST_LINE, make_row, now, rated
from academy.experience.source import Kind, Outcome, read_outcome

REQUEST_KEYS = ("situation", "request", "instruction", "prompt")
ANSWER_KEYS = ("action", "response", "answer", "output", "completion")


def read_line(line: bytes, kind: Kind, batch: str, wanted: ConversationFilter) -> list[dict[str, Any]] | str:
    """The rows of a line (none where it is empty, or not wanted), or the reason why it cannot be read."""
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    if not line.strip():
        return []
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as problem:
        return f"no JSON ({problem.msg})"
    if not isinstance(found, dict):
        return "no JSON object"
    if kind in ("conversation", "file"):
        return conversation_rows(found, kind, batch, wanted)
    row = _lesson(found, kind, batch)
    return row if isinstance(row, str) else [row]


def _lesson(found: dict[str, Any], kind: Kind, batch: str) -> dict[str, Any] | str:
    request = next((found[key] for key in REQUEST_KEYS if isinstance(found.get(key), str)), "")
    answer = next((found[key] for key in ANSWER_KEYS if isinstance(found.get(key), str)), "")
    outcome = _task_outcome(found) if kind == "task" else read_outcome(found.get("outcome"), found.get("result"))
    if not request.strip() or (not answer.strip() and outcome != "failure"):  # what failed may have no answer
        missing, keys = ("request", REQUEST_KEYS) if not request.strip() else ("answer", ANSWER_KEYS)
        return f"no {missing} ({'/'.join(keys)})"
    extra = found.get("metadata") or {}
    tags = found.get("tags") or []
    if not isinstance(extra, dict) or not isinstance(tags, list):
        return "metadata must be an object and tags a list"
    result = str(found.get("result") or found.get("status") or "")
    if found.get("task_id"):
        extra = {**extra, "task_id": str(found["task_id"])}
    extras = rated(found)
    if isinstance(extras, str):
        return extras
    return make_row(
        kind=_kind(found, kind),
        situation=request,
        action=answer,
        result=result,
        feedback=str(found.get("feedback") or ""),
        tags=[str(tag) for tag in tags],
        outcome=outcome,
        author=str(found.get("author") or ""),
        batch=str(found.get("batch") or batch),
        at=str(found.get("at") or found.get("timestamp") or now()),
        extra=extra,
        **extras,
    )


def _kind(found: dict[str, Any], kind: Kind) -> Kind:
    """The line's own kind, as an export writes it, or that of its file."""
    own = found.get("kind")
    return own if own in ("lesson", "task", "conversation", "file") else kind


def _task_outcome(found: dict[str, Any]) -> Outcome:
    """A task counts when it was completed and, where that is told, successful."""
    if read_outcome(found.get("status")) != "success":
        return "failure"
    return read_outcome(found["success"]) if "success" in found else "success"
