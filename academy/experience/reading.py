"""What all readers of experience share: numbered lines, rows for the store, and how texts are compared.

Nothing here touches a database.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from academy.experience.source import Turn
from academy.records import digest_of

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
