"""LessonsStore: lessons and task histories in SQL, idempotent by content.

A lesson stands `active`, `set aside` (its batch was refused by an examination), `superseded` (a person said that
another answer is right) or `undone` (a person took its batch out). Only active ones are trained on and examined. A
forgotten one is gone: its id alone stays, so that it does not come back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.lines import read_line
from academy.experience.reading import LONGEST_LINE, make_row, normalised, now, numbered_lines, rated
from academy.experience.source import Experience, Kind, Turn, read_outcome
from academy.records import Record, digest_of
from academy.store.database import Database, forgotten, lessons
from academy.store.files import write_file

__all__ = ["LONGEST_LINE", "ImportResult", "LessonsStore", "normalised", "set_aside"]

CHUNK = 2_000
"""Rows that are written at once: the memory of an import does not grow with its file."""
RATED = ("outcome", "rating", "gold", "feedback", "model_made")
"""What somebody's feedback says of a row."""
PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
"""How packed files begin."""


class ImportResult(Record):
    """What became of a file: lines admitted, known already, set aside as unreadable."""

    batch: str
    admitted: int
    known: int
    forgotten: int = 0  # refused, for somebody had them forgotten
    unreadable: tuple[str, ...]  # "file:line: reason"
    quarantine: str = ""  # the file that keeps the unreadable lines


class LessonsStore:
    """Adds and reads lessons. An acknowledged lesson is on the disk."""

    def __init__(self, database: Database | None = None) -> None:
        """The store of a database; without one that of the settings' home."""
        if database is None:
            from academy.settings import load_settings

            database = Database(load_settings().database)
            database.migrate()
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

        `metadata` may carry outcome, author, batch, at, rating (1 to 5), gold, model_made, thread and context; the rest
        of it is kept as it is. Raises InputError for what cannot be kept, and for a lesson that was forgotten.
        """
        try:
            "".join((situation, action, result, feedback, *tags)).encode()
        except UnicodeEncodeError as problem:
            raise InputError("The lesson holds bytes that are no text.", "Give it in UTF-8.") from problem
        if (size := sum(map(len, (situation, action, result, feedback)))) > LONGEST_LINE:
            raise InputError(
                f"A lesson of {size:,} characters is too long; {LONGEST_LINE:,} can be kept.",
                "Keep what was learned of it.",
            )
        extra = dict(metadata or {})
        extras = rated(extra)
        if isinstance(extras, str):
            raise InputError(f"The lesson cannot be kept: {extras}.", "Correct its metadata.")
        for name in (*extras, "gold_star"):
            extra.pop(name, None)
        row = make_row(
            kind="lesson",
            situation=situation,
            action=action,
            result=result,
            feedback=feedback,
            tags=tags,
            outcome=read_outcome(extra.pop("outcome", None), result),
            author=str(extra.pop("author", "")),
            batch=str(extra.pop("batch", "by hand")),
            at=str(extra.pop("at", "")) or now(),
            extra=extra,
            **extras,
        )
        with self.database.write() as connection:
            if _insert(connection, [row])[1]:
                raise InputError("This very lesson was forgotten.", "Word it otherwise if it may come back.")
        return str(row["id"])

    def import_file(
        self, path: Path, quarantine: Path, kind: Kind = "lesson", wanted: ConversationFilter | None = None
    ) -> ImportResult:
        """Read a JSONL file of lessons, tasks, conversations or examples (`file`) as one batch, named after the file.

        Unreadable lines go to a file in `quarantine` with their number and reason; the rest is admitted in one
        transaction. Raises InputError where the file itself cannot be read.
        """
        if not path.is_file():
            raise InputError(f"There is no file {path}.", "Check the path; a JSONL file has one lesson a line.")
        with path.open("rb") as stream:
            beginning = stream.read(8)
        if packed := next((name for mark, name in PACKED.items() if beginning.startswith(mark)), ""):
            raise InputError(f"{path} is packed ({packed}).", "Unpack it and look how large it is; then import it.")
        admitted = known = refused = 0
        rows: list[dict[str, Any]] = []
        unreadable: list[dict[str, Any]] = []
        try:
            with self.database.write() as connection:
                for number, line in numbered_lines(path):
                    found = read_line(line, kind, path.stem, wanted or ConversationFilter())
                    if isinstance(found, str):
                        unreadable.append(
                            {"file": path.name, "line": number, "because": found, "text": line.decode(errors="replace")}
                        )
                    else:
                        rows += found
                    if len(rows) >= CHUNK:
                        admitted, known, refused = _sum((admitted, known, refused), _counted(connection, rows))
                        rows = []
                admitted, known, refused = _sum((admitted, known, refused), _counted(connection, rows))
        except OSError as problem:
            raise InputError(
                f"The file {path} cannot be read ({problem.strerror}).", "Check its permissions."
            ) from problem
        kept = ""
        if unreadable:
            name = f"{path.stem}-{digest_of(unreadable)[:8]}.jsonl"  # two files may have one name
            kept = str(write_file(quarantine / name, (orjson.dumps(line) + b"\n" for line in unreadable)))
        return ImportResult(
            batch=path.stem,
            admitted=admitted,
            known=known,
            forgotten=refused,
            unreadable=tuple(f"{path}:{bad['line']}: {bad['because']}" for bad in unreadable),
            quarantine=kept,
        )

    def keep(self, rows: Sequence[dict[str, Any]]) -> list[str]:
        """Admit rows of conversations; one that is known is replaced where it is rated otherwise now. Returns the ids.

        A rating that comes later, or another one, counts as new: the row gets a new number. What was forgotten stays
        so, and what nobody rated replaces nothing.
        """
        with self.database.write() as connection:
            for row in rows:
                known = connection.execute(sa.select(lessons).where(lessons.c.id == row["id"])).mappings().first()
                if known is None:
                    _insert(connection, [row])
                elif _is_rated(row) and any(known[name] != row[name] for name in RATED):
                    connection.execute(sa.delete(lessons).where(lessons.c.id == row["id"]))
                    connection.execute(sa.insert(lessons).values({**row, "standing": known["standing"]}))
        return [str(row["id"]) for row in rows]

    def read(self, since: int = 0) -> Iterator[Experience]:
        """Active lessons and tasks, in order of admission (an ExperienceSource)."""
        yield from self._stream(
            sa.select(lessons).where(lessons.c.standing == "active", lessons.c.seq > since).order_by(lessons.c.seq)
        )

    def every(self) -> Iterator[Experience]:
        """All lessons, whatever their outcome and standing, in order of admission."""
        yield from self._stream(sa.select(lessons).order_by(lessons.c.seq))

    def beginning_with(self, id_: str) -> list[Experience]:
        """The first two lessons whose ids begin so: one is the one that is meant."""
        query = sa.select(lessons).where(lessons.c.id.startswith(id_, autoescape=True)).limit(2)
        return list(self._stream(query))

    def _stream(self, query: sa.Select[Any]) -> Iterator[Experience]:
        """Rows a few at a time: memory does not grow with their number."""
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
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
        newest = self._stream(sa.select(lessons).order_by(lessons.c.seq.desc()))
        return [lesson for lesson in newest if wanted & set(lesson.tags)]

    def get_statistics(self) -> dict[str, Any]:
        """Counts: total_lessons, by outcome, standing, batch and tag; `newest` is the last number given."""
        tags: Counter[str] = Counter()
        with self.database.read() as connection:
            groups = [lessons.c.outcome, lessons.c.standing, lessons.c.batch]
            outcomes, standings, batches = (
                dict(connection.execute(sa.select(one, sa.func.count()).group_by(one)).tuples().all()) for one in groups
            )
            written = sa.cast(lessons.c.tags, sa.Text)  # PostgreSQL groups no JSON
            alike = sa.select(written, sa.func.count()).group_by(written)
            for found, count in connection.execution_options(yield_per=CHUNK).execute(alike).tuples():
                tags.update(dict.fromkeys(orjson.loads(found), count))
        return {
            "total_lessons": sum(outcomes.values()),
            "outcomes": outcomes,
            "standings": standings,
            "batches": dict(sorted(batches.items())),
            "tag_distribution": dict(sorted(tags.items(), key=lambda pair: (-pair[1], pair[0]))),
            "newest": self.newest(),
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
        query = sa.select(lessons).where(lessons.c.standing == "set aside")
        if batch is not None:
            query = query.where(lessons.c.batch == batch)
        return self._as_new(query, connection)

    def _as_new(self, query: sa.Select[Any], connection: sa.Connection) -> int:
        """Give lessons new numbers, so that they count as new."""
        rows = [dict(row) for row in connection.execute(query.order_by(lessons.c.seq)).mappings()]
        for row in rows:
            connection.execute(sa.delete(lessons).where(lessons.c.seq == row.pop("seq")))
            connection.execute(sa.insert(lessons).values({**row, "standing": "active"}))
        return len(rows)

    def undo(self, batch: str, connection: sa.Connection, *, restore: bool = False) -> int:
        """Take a whole batch out of training and examination, or put it back as if it came in just now. How many."""
        if restore:
            return self._as_new(
                sa.select(lessons).where(lessons.c.standing == "undone", lessons.c.batch == batch), connection
            )
        wanted = sa.update(lessons).where(lessons.c.batch == batch, lessons.c.standing.in_(("active", "set aside")))
        return int(connection.execute(wanted.values(standing="undone")).rowcount)

    def forget(self, lesson: str, because: str, connection: sa.Connection) -> None:
        """Remove a lesson (by its whole id) and keep its tombstone. `scrub` cleans the files afterwards."""
        gone = connection.execute(sa.delete(lessons).where(lessons.c.id == lesson)).rowcount
        if gone:
            connection.execute(sa.insert(forgotten).values(id=lesson, at=now(), because=because))

    def scrub(self, lesson: Experience, quarantine: Path) -> None:
        """Erase a forgotten lesson's text from the quarantine and from the pages that SQLite keeps for later."""
        for path in quarantine.glob("*.jsonl"):
            lines = path.read_bytes().splitlines()
            kept = [line for line in lines if not _holds(line, lesson)]
            if len(kept) != len(lines):
                write_file(path, (line + b"\n" for line in kept))
        self.database.scrub()

    def export(self, path: Path, batch: str | None = None) -> int:
        """Write lessons, whatever their outcome, as JSONL that `import_file` reads back to the same ids. How many."""
        query = sa.select(lessons).order_by(lessons.c.seq)
        if batch is not None:
            query = query.where(lessons.c.batch == batch)
        count = 0

        def rows() -> Iterator[bytes]:
            nonlocal count
            with self.database.read() as connection:
                for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
                    count += 1
                    yield orjson.dumps(_exported(row)) + b"\n"

        write_file(path, rows())
        return count

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


def _insert(connection: sa.Connection, rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Insert what is not known yet; a row that comes twice counts once. Returns (admitted, forgotten)."""
    ids = [row["id"] for row in rows]
    there = {id_ for (id_,) in connection.execute(sa.select(lessons.c.id).where(lessons.c.id.in_(ids)))}
    gone = {id_ for (id_,) in connection.execute(sa.select(forgotten.c.id).where(forgotten.c.id.in_(ids)))}
    fresh: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["id"] not in there and row["id"] not in gone:
            fresh.setdefault(row["id"], row)
    if fresh:
        connection.execute(sa.insert(lessons), list(fresh.values()))
    return len(fresh), sum(1 for id_ in ids if id_ in gone)


def _is_rated(row: dict[str, Any]) -> bool:
    return bool(row["rating"] or row["gold"] or row["outcome"] != "unknown")


def _counted(connection: sa.Connection, rows: list[dict[str, Any]]) -> tuple[int, int, int]:
    admitted, refused = _insert(connection, rows) if rows else (0, 0)
    return admitted, len(rows) - admitted - refused, refused


def _sum(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _holds(line: bytes, lesson: Experience) -> bool:
    text = str(orjson.loads(line).get("text", ""))
    return lesson.request in text or lesson.answer in text


def _exported(row: sa.RowMapping) -> dict[str, Any]:
    """A row as a line: what is empty is left out."""
    line: dict[str, Any] = {str(name): row[name] for name in row if name not in ("seq", "id", "standing", "extra")}
    line["metadata"] = row["extra"]
    return {name: value for name, value in line.items() if value or name in ("situation", "action", "result")}


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
        context=tuple(Turn.model_validate(turn) for turn in row["context"]),
        thread=row["thread"],
        rating=row["rating"],
        gold=row["gold"],
        model_made=row["model_made"],
        seq=row["seq"],
        provenance={"lesson": row["id"], "batch": row["batch"]},
    )
