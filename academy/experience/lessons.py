"""LessonsStore: lessons and task histories in SQL, idempotent by content.

A lesson stands `active`, `set aside` (its batch was refused by an examination) or `superseded` (a person said that
another answer is right). Only active ones are trained on and examined.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.artifacts import Record, digest_of, write_file
from academy.database import Database, lessons
from academy.errors import InputError
from academy.experience.source import Experience, Kind, Outcome, read_outcome

REQUEST_KEYS = ("situation", "request", "instruction", "prompt")
ANSWER_KEYS = ("action", "response", "answer", "output", "completion")
LONGEST_LINE = 1_000_000
"""Bytes of one line; a longer one is set aside unread."""


class Import(Record):
    """What became of a file: lines admitted, known already, set aside as unreadable."""

    batch: str
    admitted: int
    known: int
    unreadable: tuple[str, ...]  # "file:line: reason"
    quarantine: str = ""  # the file that keeps the unreadable lines


class LessonsStore:
    """Adds and reads lessons. An acknowledged lesson is on the disk."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add_lesson(
        self,
        situation: str,
        action: str,
        result: str,
        feedback: str = "",
        tags: Sequence[str] = (),
        metadata: dict[str, Any] | None = None,
    ) -> str:
        """Add one lesson and return its id; adding the same again changes nothing.

        `metadata` may carry outcome, author, batch and at; the rest of it is kept as it is.
        """
        try:
            "".join((situation, action, result, feedback, *tags)).encode()
        except UnicodeEncodeError as problem:
            raise InputError("The lesson holds bytes that are no text.", "Give it in UTF-8.") from problem
        extra = dict(metadata or {})
        row = _row(
            kind="lesson",
            situation=situation,
            action=action,
            result=result,
            feedback=feedback,
            tags=tags,
            outcome=read_outcome(extra.pop("outcome", None), result),
            author=str(extra.pop("author", "")),
            batch=str(extra.pop("batch", "by hand")),
            at=str(extra.pop("at", "")) or _now(),
            extra=extra,
        )
        with self.database.write() as connection:
            _insert(connection, [row])
        return str(row["id"])

    def import_file(self, path: Path, quarantine: Path, kind: Kind = "lesson") -> Import:
        """Read a JSONL file of lessons or tasks as one batch, named after the file.

        Unreadable lines go to a file in `quarantine` with their number and reason; the rest is admitted in one
        transaction. Raises InputError where the file itself cannot be read.
        """
        if not path.is_file():
            raise InputError(f"There is no file {path}.", "Check the path; a JSONL file has one lesson a line.")
        rows, unreadable = [], []
        try:
            for number, line in _lines(path):
                found = _read_line(line, kind, path.stem)
                if isinstance(found, str):
                    unreadable.append(
                        {"file": path.name, "line": number, "because": found, "text": line.decode(errors="replace")}
                    )
                elif found is not None:
                    rows.append(found)
        except OSError as problem:
            raise InputError(
                f"The file {path} cannot be read ({problem.strerror}).", "Check its permissions."
            ) from problem
        with self.database.write() as connection:
            admitted = _insert(connection, rows)
        kept = ""
        if unreadable:
            name = f"{path.stem}-{digest_of(unreadable)[:8]}.jsonl"  # two files may have one name
            kept = str(write_file(quarantine / name, (orjson.dumps(line) + b"\n" for line in unreadable)))
        return Import(
            batch=path.stem,
            admitted=admitted,
            known=len(rows) - admitted,
            unreadable=tuple(f"{path}:{bad['line']}: {bad['because']}" for bad in unreadable),
            quarantine=kept,
        )

    def read(self, since: int = 0) -> Iterator[Experience]:
        """Active lessons and tasks, in order of admission (an ExperienceSource)."""
        query = sa.select(lessons).where(lessons.c.standing == "active", lessons.c.seq > since).order_by(lessons.c.seq)
        with self.database.read() as connection:
            for row in connection.execute(query).mappings():
                yield _experience(row)

    def by_id(self, ids: Iterable[str]) -> dict[str, Experience]:
        """Lessons by their ids, whatever their standing; what is not there (any more) is left out."""
        wanted = sorted(set(ids))
        found: dict[str, Experience] = {}
        with self.database.read() as connection:
            for start in range(0, len(wanted), 500):
                query = sa.select(lessons).where(lessons.c.id.in_(wanted[start : start + 500]))
                found |= {row["id"]: _experience(row) for row in connection.execute(query).mappings()}
        return found

    def get_all_lessons(self, limit: int | None = None) -> list[Experience]:
        """The newest lessons first, whatever their outcome and standing."""
        query = sa.select(lessons).order_by(lessons.c.seq.desc()).limit(limit)
        with self.database.read() as connection:
            return [_experience(row) for row in connection.execute(query).mappings()]

    def get_lessons_by_tags(self, tags: Iterable[str]) -> list[Experience]:
        """Lessons that carry at least one of the tags, newest first."""
        wanted = set(tags)
        return [lesson for lesson in self.get_all_lessons() if wanted & set(lesson.tags)]

    def get_statistics(self) -> dict[str, Any]:
        """Counts: total_lessons, by outcome, standing, batch and tag; `newest` is the last number given."""
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(lessons.c.outcome, lessons.c.standing, lessons.c.batch, lessons.c.tags, lessons.c.seq)
            ).all()
        return {
            "total_lessons": len(rows),
            "outcomes": dict(Counter(row.outcome for row in rows)),
            "standings": dict(Counter(row.standing for row in rows)),
            "batches": dict(sorted(Counter(row.batch for row in rows).items())),
            "tag_distribution": dict(Counter(tag for row in rows for tag in row.tags).most_common()),
            "newest": max((row.seq for row in rows), default=0),
        }

    def trainable(self, since: int = 0, until: int | None = None) -> int:
        """How many active and successful ones came after `since` (and not after `until`)."""
        query = sa.select(sa.func.count()).where(
            lessons.c.standing == "active", lessons.c.outcome == "success", lessons.c.seq > since
        )
        if until is not None:
            query = query.where(lessons.c.seq <= until)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def newest(self) -> int:
        """The last number given to a lesson (0: none)."""
        with self.database.read() as connection:
            return int(connection.execute(sa.select(sa.func.max(lessons.c.seq))).scalar() or 0)

    def release(self, batch: str | None, connection: sa.Connection) -> int:
        """Let lessons that were set aside count again, as if they had come in just now. Returns how many."""
        query = sa.select(lessons).where(lessons.c.standing == "set aside").order_by(lessons.c.seq)
        if batch is not None:
            query = query.where(lessons.c.batch == batch)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        for row in rows:
            connection.execute(sa.delete(lessons).where(lessons.c.seq == row.pop("seq")))
            connection.execute(sa.insert(lessons).values({**row, "standing": "active"}))
        return len(rows)

    def supersede(self, situation: str, action: str, connection: sa.Connection) -> int:
        """Say which answer to a request is right: active lessons with another one retire. Returns how many."""
        wanted = normalised(situation)
        rows = connection.execute(
            sa.select(lessons.c.seq, lessons.c.situation, lessons.c.action).where(lessons.c.standing == "active")
        ).all()
        wrong = {row.action for row in rows if normalised(row.situation) == wanted and row.action != action}
        retired = [row.seq for row in rows if row.action in wrong]
        if retired:
            connection.execute(sa.update(lessons).where(lessons.c.seq.in_(retired)).values(standing="superseded"))
        return len(retired)


def set_aside(since: int, until: int, connection: sa.Connection) -> int:
    """Take the active lessons numbered (since, until] out of training and examination. Returns how many."""
    return int(
        connection.execute(
            sa.update(lessons)
            .where(lessons.c.seq > since, lessons.c.seq <= until, lessons.c.standing == "active")
            .values(standing="set aside")
        ).rowcount
    )


def normalised(text: str) -> str:
    """The text as it is compared: lower case, single spaces, no punctuation at the ends."""
    return " ".join(text.lower().split()).strip(" .,:;!?")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
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


def _read_line(line: bytes, kind: Kind, batch: str) -> dict[str, Any] | str | None:
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
    return _row(
        kind=kind,
        situation=request,
        action=answer,
        result=result,
        feedback=str(found.get("feedback") or ""),
        tags=[str(tag) for tag in tags],
        outcome=outcome,
        author=str(found.get("author") or ""),
        batch=batch,
        at=str(found.get("at") or found.get("timestamp") or _now()),
        extra=extra,
    )


def _task_outcome(found: dict[str, Any]) -> Outcome:
    """A task counts when it was completed and, where that is told, successful."""
    if read_outcome(found.get("status")) != "success":
        return "failure"
    return read_outcome(found["success"]) if "success" in found else "success"


def _row(**fields: Any) -> dict[str, Any]:
    fields["tags"] = sorted(set(fields["tags"]))
    identity = [fields[key] for key in ("kind", "situation", "action", "result")]
    return {"id": digest_of(identity), "standing": "active", **fields}


def _insert(connection: sa.Connection, rows: list[dict[str, Any]]) -> int:
    """Insert what is not known yet; a row that comes twice counts once."""
    admitted = 0
    for row in rows:
        if connection.execute(sa.select(lessons.c.seq).where(lessons.c.id == row["id"])).first() is None:
            connection.execute(sa.insert(lessons).values(row))
            admitted += 1
    return admitted


def _experience(row: sa.RowMapping) -> Experience:
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
        seq=row["seq"],
        provenance={"lesson": row["id"], "batch": row["batch"]},
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
