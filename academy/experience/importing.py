"""Imports a file into the store: each of its lines is read, skipped by a filter, or set aside with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from academy.access.user_keys import IMPORTED
from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Kind
from academy.experience.files import Piece, looks_like, pieces_of
from academy.experience.lines import read_line
from academy.experience.quarantine import Quarantine
from academy.experience.reading import REJECTED, SUSPECT, now
from academy.records import Record

CHUNK = 2_000
"""Rows that are written at once, so that the memory of an import does not grow with its file."""

UNTRUSTED = "-untrusted"
"""The end of the batch of an untrusted file: its name can be that of a trusted batch."""
MARKS = (REJECTED, SUSPECT, "adapter", "version", "row", "rating", "stated")
"""Fields of `extra` that the Academy writes."""

Counts = tuple[int, int, int]
"""Rows that were admitted, known and forgotten."""


class ImportResult(Record):
    """The result of importing a file, in numbers of lessons; `lines` are those of the file that are not blank.

    Every line is read, skipped or unreadable.
    """

    batch: str
    admitted: int
    known: int  # in the store already
    forgotten: int = 0  # rejected because a user had them forgotten
    unreadable: tuple[str, ...]  # "file:line: reason"
    quarantine: str = ""  # the file that keeps the unreadable lines
    lines: int = 0
    skipped: int = 0  # lines that the options do not select
    waiting: bool = False  # the file is not trusted: its lessons wait for a person's decision
    undecided: int = 0  # lessons read whose outcome is unknown: they are not trained on
    reasons: Mapping[str, int] = Field(default_factory=dict)  # unreadable lines by reason
    looks_like: str = ""  # what a file seems to be of which nothing could be read

    @property
    def is_refused(self) -> bool:
        """Whether the file has lines and none could be read."""
        return self.lines > 0 and len(self.unreadable) == self.lines


def import_lines(
    path: Path, quarantine: Path, kind: Kind, only: ConversationFilter, insert: Callable[[list[dict[str, Any]]], Counts]
) -> ImportResult:
    """Read a file, insert its rows in chunks, and set the rest aside. Raises InputError if the file cannot be read."""
    counts: Counts = (0, 0, 0)
    rows: list[dict[str, Any]] = []
    lines = skipped = undecided = 0
    with Quarantine(path.name) as aside:
        for piece in _pieces(path):
            line_rows = read_line(piece.text, kind, path.stem, only)
            if not line_rows and not piece.text.strip():
                continue
            lines += 1
            if isinstance(line_rows, str):
                aside.add(piece, line_rows)
                continue
            skipped += not line_rows
            undecided += sum(row["outcome"] == "unknown" for row in line_rows)
            rows += line_rows
            if len(rows) >= CHUNK:
                counts, rows = _sum(counts, insert(rows)), []
        counts = _sum(counts, insert(rows)) if rows else counts
        return ImportResult(
            batch=path.stem,
            admitted=counts[0],
            known=counts[1],
            forgotten=counts[2],
            unreadable=tuple(f"{path}:{reason['line']}: {reason['because']}" for reason in aside.reasons),
            quarantine=aside.write(quarantine),
            lines=lines,
            skipped=skipped,
            undecided=undecided,
            reasons=Counter(str(reason["because"]).partition(" (")[0] for reason in aside.reasons),
            looks_like=looks_like(path) if 0 < lines == len(aside.reasons) else "",
        )


def of_stranger(row: dict[str, Any], batch: str) -> dict[str, Any]:
    """A row of an untrusted file. Its batch, author and time are ours: quotas keep the newest of a batch and an author.

    What the file says of itself stays in `extra`, without the marks that the Academy writes there.
    """
    stated = {name: row[name] for name in ("author", "batch", "at") if row[name]}
    extra = {name: value for name, value in row["extra"].items() if name not in MARKS}
    return {
        **row, "standing": "waiting", "trusted": False, "author": IMPORTED, "batch": batch, "at": now(),
        "extra": {**extra, "stated": stated},
    }  # fmt: skip


def _pieces(path: Path) -> Iterator[Piece]:
    try:
        yield from pieces_of(path)
    except OSError as problem:
        raise InputError(f"The file {path} cannot be read ({problem.strerror}).", "Check its permissions.") from problem


def _sum(a: Counts, b: Counts) -> Counts:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]
