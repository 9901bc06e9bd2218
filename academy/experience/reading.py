"""Reading lessons: lines of a file, or the arguments of a call, into rows for the store.

A line that cannot be read becomes a reason in words. Nothing here touches a database.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from academy.artifacts import digest_of
from academy.experience.source import Kind, Outcome, Turn, read_outcome

REQUEST_KEYS = ("situation", "request", "instruction", "prompt")
ANSWER_KEYS = ("action", "response", "answer", "output", "completion")
LONGEST_LINE = 1_000_000
"""Bytes of one line; a longer one is set aside unread."""


def normalised(text: str) -> str:
    """The text as it is compared: lower case, single spaces, no punctuation at the ends."""
    return " ".join(text.lower().split()).strip(" .,:;!?")


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; of one longer than LONGEST_LINE only the beginning is kept, so that memory stays bounded."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            rest = line
            while len(rest) == LONGEST_LINE + 1 and not rest.endswith(b"\n"):
                rest = stream.readline(LONGEST_LINE + 1)
            if number == 1 and len(line) <= LONGEST_LINE:
                line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
            yield number, line


def read_line(line: bytes, kind: Kind, batch: str) -> dict[str, Any] | str | None:
    """A row, or the reason why the line cannot be read, or None for an empty line."""
    if len(line) > LONGEST_LINE:
        return f"longer than {LONGEST_LINE:,} bytes"
    if not line.strip():
        return None
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as problem:
        return f"no JSON ({problem.msg})"
    if not isinstance(found, dict):
        return "no JSON object"
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


PLAIN = {"rating": 0, "gold": False, "model_made": False, "thread": "", "context": []}
"""What a lesson is where nobody says otherwise."""


def make_row(**fields: Any) -> dict[str, Any]:
    """A row under the name of its content: kind, what was asked (with what was said before), answer and result."""
    fields["tags"] = sorted(set(fields["tags"]))
    row = {"standing": "active", **PLAIN, **fields}
    identity = [row[key] for key in ("kind", "situation", "action", "result")]
    return {"id": digest_of([*identity, row["context"]] if row["context"] else identity), **row}


def rated(found: dict[str, Any]) -> dict[str, Any] | str:
    """Rating, star, thread and earlier turns of a line, or the reason why they cannot be read."""
    rating = found.get("rating") or 0
    if isinstance(rating, bool) or not isinstance(rating, int) or not 0 <= rating <= 5:
        return "rating must be a whole number from 1 to 5"
    try:
        context = [Turn.model_validate(turn).model_dump() for turn in found.get("context") or []]
    except (ValidationError, TypeError):
        return "context must be a list of turns with role and content"
    gold = found.get("gold", found.get("gold_star"))
    return {
        "rating": rating,
        "gold": gold is True,
        "model_made": found.get("model_made") is True,
        "thread": str(found.get("thread") or ""),
        "context": context,
    }


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
