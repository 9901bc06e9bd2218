"""Reads a line of JSONL into rows for the store, or says why it cannot be read."""

from __future__ import annotations

from typing import Any

import orjson

from academy.experience.conversations import ConversationFilter, conversation_rows
from academy.experience.experience import Kind, Outcome
from academy.experience.reading import LONGEST_LINE, make_row, now, read_feedback, read_outcome

REQUEST_KEYS = ("situation", "request", "instruction", "prompt")
ANSWER_KEYS = ("action", "response", "answer", "output", "completion")


def read_line(line: bytes, kind: Kind, batch: str, only: ConversationFilter) -> list[dict[str, Any]] | str:
    """The rows of a line (none if it is empty or filtered), or the reason why it cannot be read."""
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    if not line.strip():
        return []
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError as problem:
        return f"not JSON ({problem.msg})"
    if not isinstance(content, dict):
        return "not a JSON object"
    if kind in ("conversation", "file"):
        return conversation_rows(content, kind, batch, only)
    row = _lesson(content, kind, batch)
    return row if isinstance(row, str) else [row]


def _lesson(content: dict[str, Any], kind: Kind, batch: str) -> dict[str, Any] | str:
    request = next((content[key] for key in REQUEST_KEYS if isinstance(content.get(key), str)), "")
    answer = next((content[key] for key in ANSWER_KEYS if isinstance(content.get(key), str)), "")
    outcome = _task_outcome(content) if kind == "task" else read_outcome(content.get("outcome"), content.get("result"))
    if not request.strip() or (not answer.strip() and outcome != "failure"):  # a failure may have no answer
        missing, keys = ("request", REQUEST_KEYS) if not request.strip() else ("answer", ANSWER_KEYS)
        return f"no {missing} ({'/'.join(keys)})"
    extra = content.get("metadata") or {}
    tags = content.get("tags") or []
    if not isinstance(extra, dict) or not isinstance(tags, list):
        return "metadata must be an object and tags a list"
    result = str(content.get("result") or content.get("status") or "")
    if content.get("task_id"):
        extra = {**extra, "task_id": str(content["task_id"])}
    feedback = read_feedback(content)
    if isinstance(feedback, str):
        return feedback
    return make_row(
        kind=_kind(content, kind),
        situation=request,
        action=answer,
        result=result,
        feedback=str(content.get("feedback") or ""),
        tags=[str(tag) for tag in tags],
        outcome=outcome,
        author=str(content.get("author") or ""),
        batch=str(content.get("batch") or batch),
        at=str(content.get("at") or content.get("timestamp") or now()),
        extra=extra,
        **feedback,
    )


def _kind(content: dict[str, Any], kind: Kind) -> Kind:
    """The line's own kind, which an export writes, or the kind of its file."""
    line_kind = content.get("kind")
    return line_kind if line_kind in ("lesson", "task", "conversation", "file") else kind


def _task_outcome(content: dict[str, Any]) -> Outcome:
    """A task counts if it was completed and, where the line says so, successful."""
    if read_outcome(content.get("status")) != "success":
        return "failure"
    return read_outcome(content["success"]) if "success" in content else "success"
