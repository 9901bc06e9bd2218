"""What all readers of experience share: numbered lines, rows for the store, outcomes, and how texts are compared.

Nothing here uses a database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from academy.experience.experience import Experience, Outcome, Trace
from academy.models.messages import Message, settle
from academy.models.tools import check_calls, check_tools
from academy.records import digest_of

LONGEST_LINE = 1_000_000
"""Bytes of one line; a longer line goes to the quarantine unread."""
SUCCESS_MARKS = frozenset({"success", "successful", "succeeded", "sukces", "ok", "completed", "✅", "✓", "✔"})
FAILURE_MARKS = frozenset(
    {"failure", "failed", "fail", "error", "błąd", "porażka", "cancelled", "canceled", "❌", "✗", "✘"}
)
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z]")
NEGATIONS = frozenset({"not", "no", "never", "nie", "without"})


def normalised(text: str) -> str:
    """The text as it is compared: lower case, single spaces, no punctuation at the ends.

    An option of a command keeps its case, because -r and -R are two.
    """
    plain = " ".join(text.lower().split())
    if "-" in text and not text.islower():
        plain = " ".join(word if _OPTION.search(word) else word.lower() for word in text.split())
    return plain.strip(" .,:;!?")


def read_outcome(*texts: object) -> Outcome:
    """The outcome that an explicit value or the marks in free texts show; the first text that shows one decides.

    A failure mark wins over a success mark in the same text: doubtful experience is not trained on.
    """
    for text in texts:
        if isinstance(text, bool):
            return "success" if text else "failure"
        words = {word.strip(".,:;!?()[]") for word in str(text or "").lower().split()}
        if words & FAILURE_MARKS or any(mark in str(text) for mark in "❌✗✘"):
            return "failure"
        if words & NEGATIONS:
            return "unknown"
        if words & SUCCESS_MARKS or any(mark in str(text) for mark in "✅✓✔"):
            return "success"
    return "unknown"


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines. Only the beginning of a line over LONGEST_LINE is returned, so memory stays bounded."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            rest = line
            while len(rest) == LONGEST_LINE + 1 and not rest.endswith(b"\n"):
                rest = stream.readline(LONGEST_LINE + 1)
            yield number, line


STANDINGS = ("active", "set aside", "superseded", "undone", "waiting", "refused")
"""Whether a lesson counts: only an active one does."""
DEFAULTS = {
    "rating": 0, "gold": False, "model_made": False, "thread": "", "context": [], "corrects": "", "trusted": True,
    "trace": {},
}  # fmt: skip
"""Fields of a row that a line may omit."""


SUSPECT = "suspect"
"""The mark in `extra` of a lesson that an examination rejected and a person released."""


REJECTED = "rejected"
"""The mark in `extra` with the answer that a correction replaced: a preference needs both."""


def make_row(correction: str = "", **fields: Any) -> dict[str, Any]:
    """A row of the store. Its id is the digest of kind, situation (with earlier messages), action, result and trace.

    A `correction` takes the place of the action; the row then names the id that it would have without it.
    """
    fields["tags"] = sorted(set(fields["tags"]))
    row = {"standing": "active", **DEFAULTS, **fields}
    if correction and correction != row["action"]:
        trace = {name: value for name, value in row["trace"].items() if name not in ("tool_calls", "reasoning")}
        extra = {**row["extra"], REJECTED: row["action"]}
        row |= {"action": correction, "corrects": _identified(row)["id"], "extra": extra, "trace": trace}
    return _identified(row)


def _identified(row: dict[str, Any]) -> dict[str, Any]:
    identity = [row[key] for key in ("kind", "situation", "action", "result")]
    identity += [row["context"]] if row["context"] else []
    if trace := Trace.model_validate(row["trace"]).identity:
        identity.append(trace)
    return {"id": digest_of(identity), **row}


def row_to_line(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row as a line; empty fields are omitted, and so is the standing of an active one."""
    others = ("seq", "id", "standing", "extra", "trusted")
    line: dict[str, Any] = {str(name): row[name] for name in row if name not in others}
    line["metadata"] = row["extra"]
    line["untrusted"] = not row["trusted"]
    line["standing"] = "" if row["standing"] == "active" else row["standing"]
    return {name: value for name, value in line.items() if value or name in ("situation", "action", "result")}


def row_to_experience(row: Mapping[Any, Any]) -> Experience:
    """A row of the store as a record."""
    return Experience(
        id=row["id"],
        kind=row["kind"],
        request=row["situation"],
        answer=row["action"],
        outcome=row["outcome"],
        author=row["author"],
        batch=row["batch"],
        at=row["at"],
        tags=tuple(row["tags"]),
        context=tuple(Message.model_validate(turn) for turn in row["context"]),
        thread=row["thread"],
        rating=row["rating"],
        gold=row["gold"],
        model_made=row["model_made"],
        trusted=row["trusted"],
        suspect=row["extra"].get(SUSPECT) is True,
        seq=row["seq"],
        rejected=str(row["extra"].get(REJECTED) or ""),
        adapter=str(row["extra"].get("adapter") or ""),
        trace=Trace.model_validate(row["trace"]),
        provenance={"lesson": row["id"], "batch": row["batch"]},
    )


def read_feedback(line: dict[str, Any]) -> dict[str, Any] | str:
    """Rating, star, thread and earlier messages of a line, or the reason why they cannot be read."""
    rating = line.get("rating") or 0
    if isinstance(rating, bool) or not isinstance(rating, int) or not 0 <= rating <= 5:
        return "rating must be a whole number from 1 to 5"
    try:
        context = [Message.model_validate(turn).bare for turn in line.get("context") or []]
    except (ValidationError, TypeError):
        return "context must be a list of turns with role and content"
    try:
        trace = Trace.model_validate(line.get("trace") or {})
    except ValidationError:
        return "trace must be an object with parts, steps, tool_calls, reasoning and tools"
    settled = settled_trace(context, trace)
    if isinstance(settled, str):
        return settled
    gold = line.get("gold", line.get("gold_star"))
    corrects = str(line.get("corrects") or "") if line.get("kind") else ""  # an export writes both
    return {
        "rating": rating,
        "gold": gold is True,
        "model_made": line.get("model_made") is True,
        "thread": str(line.get("thread") or ""),
        "corrects": corrects if re.fullmatch(r"[0-9a-f]{64}", corrects) else "",
        "context": [message.model_dump(mode="json") for message in settled[0]],
        "trace": settled[1].model_dump(mode="json"),
    }


def settled_trace(context: Sequence[Message], trace: Trace) -> tuple[tuple[Message, ...], Trace] | str:
    """Earlier messages and a trace with the ids of one conversation, or why they do not fit together."""
    if isinstance(reason := check_tools(trace.tools), str):
        return reason
    messages = settle(trace.transcript(context, "", "").messages)
    if isinstance(messages, str):
        return messages
    if any(step.role not in ("assistant", "tool") for step in trace.steps):
        return "the steps between a request and its answer are calls and results"
    if reason := check_calls(messages, trace.tools):
        return reason
    steps = tuple(step.bare for step in messages[len(context) + 1 : -1])
    return messages[: len(context)], trace.model_copy(update={"steps": steps, "tool_calls": messages[-1].tool_calls})


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
