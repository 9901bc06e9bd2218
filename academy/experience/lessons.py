"""LessonsStore: lessons and task histories in SQL. Adding the same content twice changes nothing.

The standing of a lesson is `active`, `set aside` (an examination rejected its batch), `superseded` (a user said that
another answer is right, or corrected it), `undone` (a user undid its batch), `waiting` (its source is not trusted and
no one has decided) or `refused`. Only active lessons are trained on; they are examined if they are trusted. A forgotten
lesson is deleted; only its id stays, so that it cannot be imported again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.corrections import retire_corrected
from academy.experience.experience import Experience, Kind
from academy.experience.importing import CHUNK, UNTRUSTED, Counts, ImportResult, import_lines, of_stranger
from academy.experience.outcomes import outcome_of_lesson, refuse_invalid
from academy.experience.quarantine import scrub
from academy.experience.ratings import erase_ratings
from academy.experience.reading import (
    LONGEST_LINE,
    make_row,
    now,
    read_feedback,
    row_to_experience,
    row_to_line,
)
from academy.experience.standings import erase_rejected, make_way, release, undo
from academy.experience.wording import signs, wording
from academy.models.formats import FORMATS
from academy.store.database import Database, forgotten, lessons
from academy.store.files import write_file

SHORTEST_SHARED = 12
"""Characters of an answer that two requests share because they are wordings of one, and not by chance."""
FEEDBACK_FIELDS = ("outcome", "rating", "gold", "feedback", "model_made", "trusted")
"""Fields of a row that a user's feedback changes."""


class LessonsStore:
    """Adds and reads lessons. A lesson whose id was returned is on disk."""

    def __init__(self, database: Database | None = None) -> None:
        """The store of a database; by default that of the home in the settings."""
        if database is None:
            from academy.settings import load_settings

            database = Database(load_settings().database)
            database.migrate()
        self.database = database

    def add_lesson(
        self,
        situation: str,
        action: str,
        result: str = "",
        feedback: str = "",
        tags: Sequence[str] | None = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> str:
        """Add a lesson and return its id. Adding the same lesson again changes nothing.

        It counts as a success unless `result` clearly says that it failed, or `metadata` has another outcome.
        `metadata` may have outcome, author, batch, at, rating (1 to 5), gold, model_made, thread and context; other
        keys are stored as they are. Raises InputError for an invalid lesson and for one that was forgotten.
        """
        tags = (tags,) if isinstance(tags, str) else tuple(tags or ())  # one tag, not its letters
        refuse_invalid(
            {"situation": situation, "action": action, "result": result, "feedback": feedback}, tags, metadata
        )
        if (size := sum(map(len, (situation, action, result, feedback)))) > LONGEST_LINE:
            raise InputError(
                f"The lesson is too long: {size:,} characters (maximum {LONGEST_LINE:,}).",
                "Shorten it to what was learned.",
            )
        extra = dict(metadata or {})
        outcome = outcome_of_lesson(result, extra)
        extra.pop("outcome", None)
        if outcome == "success" and not action.strip():
            raise InputError("A lesson needs an action: the answer.", "Pass it as text.")
        feedback_fields = read_feedback(extra)
        if isinstance(feedback_fields, str):
            raise InputError(f"The lesson's metadata is invalid: {feedback_fields}.", "Correct the metadata.")
        for name in (*feedback_fields, "gold_star"):
            extra.pop(name, None)
        row = make_row(
            kind="lesson",
            situation=situation,
            action=action,
            result=result,
            feedback=feedback,
            tags=tags,
            outcome=outcome,
            author=str(extra.pop("author", "")),
            batch=str(extra.pop("batch", "by hand")),
            at=str(extra.pop("at", "")) or now(),
            extra=extra,
            **feedback_fields,
        )
        with self.database.write() as connection:
            if _insert(connection, [row])[1]:
                raise InputError("This lesson was forgotten and cannot be added again.", "Add it in other words.")
        return str(row["id"])

    def import_file(
        self,
        path: Path,
        quarantine: Path,
        kind: Kind = "lesson",
        only: ConversationFilter | None = None,
        *,
        trusted: bool = True,
    ) -> ImportResult:
        """Import a file of lessons, tasks, conversations or examples (`file`) as one batch named after the file.

        If the file is not `trusted`, its lessons wait for a person's decision (`academy review`).

        Unreadable lines go to a file in `quarantine` as they came, with their numbers and reasons beside it. The other
        lines are admitted in one transaction. Raises InputError if the file is of another kind or cannot be read.
        """
        if not path.is_file():
            raise InputError(
                f"The file {path} does not exist.", "Check the path; a JSONL file has one lesson on each line."
            )
        batch = path.stem if trusted else f"{path.stem}{UNTRUSTED}"
        with self.database.write() as connection:

            def insert(rows: list[dict[str, Any]]) -> Counts:
                return _insert_counting(connection, rows if trusted else [of_stranger(row, batch) for row in rows])

            result = import_lines(path, quarantine, kind, only or ConversationFilter(), insert)
        return result.model_copy(update={"waiting": not trusted, "batch": batch})

    def keep(self, rows: Sequence[dict[str, Any]], connection: sa.Connection | None = None) -> list[str]:
        """Admit rows of conversations and return their ids. A known row is replaced if its feedback is new.

        A later or changed rating counts as new: the row gets a new number. A forgotten row stays forgotten, a row
        without feedback replaces nothing, and an untrusted row replaces nothing that a trusted person rated.
        """
        if connection is None:
            with self.database.write() as transaction:
                return self.keep(rows, transaction)
        for row in rows:
            previous = connection.execute(sa.select(lessons).where(lessons.c.id == row["id"])).mappings().first()
            if previous is None:
                _insert(connection, [row])
            elif previous["trusted"] and not row["trusted"] and _has_feedback(dict(previous)):
                continue
            elif _has_feedback(row) and any(previous[name] != row[name] for name in FEEDBACK_FIELDS):
                standing = "active" if previous["standing"] in ("waiting", "refused") else previous["standing"]
                connection.execute(sa.delete(lessons).where(lessons.c.id == row["id"]))
                connection.execute(sa.insert(lessons).values({**row, "standing": standing}))
            retire_corrected(connection, [row])
        return [str(row["id"]) for row in rows]

    def read(self, since: int = 0) -> Iterator[Experience]:
        """Active lessons and tasks numbered above `since`, in order of admission."""
        yield from self._stream(
            sa.select(lessons).where(lessons.c.standing == "active", lessons.c.seq > since).order_by(lessons.c.seq)
        )

    def every(self, *standings: str) -> Iterator[Experience]:
        """Lessons of any outcome with one of these standings (all, without any), in order of admission."""
        query = sa.select(lessons).order_by(lessons.c.seq)
        yield from self._stream(query.where(lessons.c.standing.in_(standings)) if standings else query)

    def beginning_with(self, id_: str) -> list[Experience]:
        """At most two lessons whose ids begin with these digits: two mean that the prefix is ambiguous."""
        query = sa.select(lessons).where(lessons.c.id.startswith(id_, autoescape=True)).limit(2)
        return list(self._stream(query))

    def _stream(self, query: sa.Select[Any]) -> Iterator[Experience]:
        """Rows in chunks, so that memory does not grow with their number."""
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
                yield row_to_experience(row)

    def by_id(self, ids: Iterable[str]) -> dict[str, Experience]:
        """Lessons by id, whatever their standing. Ids that are not in the store are omitted."""
        distinct = sorted(set(ids))
        by_id: dict[str, Experience] = {}
        with self.database.read() as connection:
            for start in range(0, len(distinct), 500):
                query = sa.select(lessons).where(lessons.c.id.in_(distinct[start : start + 500]))
                by_id |= {row["id"]: row_to_experience(row) for row in connection.execute(query).mappings()}
        return by_id

    def get_all_lessons(self, limit: int | None = None) -> list[Experience]:
        """The newest lessons first, whatever their outcome and standing."""
        query = sa.select(lessons).order_by(lessons.c.seq.desc()).limit(limit)
        with self.database.read() as connection:
            return [row_to_experience(row) for row in connection.execute(query).mappings()]

    def get_lessons_by_tags(self, tags: Iterable[str]) -> list[Experience]:
        """Lessons with at least one of the tags, newest first."""
        any_of = set(tags)
        newest_first = self._stream(sa.select(lessons).order_by(lessons.c.seq.desc()))
        return [lesson for lesson in newest_first if any_of & set(lesson.tags)]

    def get_statistics(self) -> dict[str, Any]:
        """Counts: total_lessons, by outcome, standing, batch and tag; `newest` is the newest lesson's number."""
        tags: Counter[str] = Counter()
        with self.database.read() as connection:
            groups = [lessons.c.outcome, lessons.c.standing, lessons.c.batch]
            outcomes, standings, batches = (
                dict(connection.execute(sa.select(column, sa.func.count()).group_by(column)).tuples().all())
                for column in groups
            )
            tag_list = sa.cast(lessons.c.tags, sa.Text)  # PostgreSQL cannot group by JSON
            query = sa.select(tag_list, sa.func.count()).group_by(tag_list)
            for tags_json, count in connection.execution_options(yield_per=CHUNK).execute(query).tuples():
                tags.update(dict.fromkeys(orjson.loads(tags_json), count))
        return {
            "total_lessons": sum(outcomes.values()),
            "outcomes": outcomes,
            "standings": standings,
            "batches": dict(sorted(batches.items())),
            "tag_distribution": dict(sorted(tags.items(), key=lambda pair: (-pair[1], pair[0]))),
            "newest": self.newest(),
            "not_counted": self.not_counted(),
        }

    def not_counted(self) -> dict[str, int]:
        """Numbers of the lessons and tasks that are not trained on, by reason: their standing, or else their outcome.

        Reasons are "set aside", "superseded", "undone", "outcome unknown" and "outcome failure".
        """
        query = sa.select(lessons.c.standing, lessons.c.outcome, sa.func.count()).group_by(
            lessons.c.standing, lessons.c.outcome
        )
        counts: Counter[str] = Counter()
        with self.database.read() as connection:
            for standing, outcome, count in connection.execute(query).tuples():
                if (standing, outcome) != ("active", "success"):
                    counts[f"outcome {outcome}" if standing == "active" else standing] += count
        return dict(sorted(counts.items()))

    def trainable(self, since: int = 0, until: int | None = None, tags: Sequence[str] = ()) -> int:
        """Number of active, successful lessons and tasks with numbers in (since, until], with one of the tags."""
        if tags:
            numbers = (number for number, has_tag in self._by_tags(since, tags) if has_tag)
            return sum(1 for number in numbers if until is None or number <= until)
        query = sa.select(sa.func.count()).where(
            lessons.c.standing == "active", lessons.c.outcome == "success", lessons.c.seq > since
        )
        if until is not None:
            query = query.where(lessons.c.seq <= until)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def covered_by(self, tags: Sequence[str], since: int) -> int:
        """The number up to which every trainable lesson after `since` has one of the tags."""
        others = (number for number, has_tag in self._by_tags(since, tags) if not has_tag)
        return next(others, self.newest() + 1) - 1

    def _by_tags(self, since: int, tags: Sequence[str]) -> Iterator[tuple[int, bool]]:
        """The numbers of trainable lessons and tasks after `since`, each with whether it has one of the tags."""
        query = (
            sa.select(lessons.c.seq, lessons.c.tags)
            .where(lessons.c.standing == "active", lessons.c.outcome == "success", lessons.c.seq > since)
            .order_by(lessons.c.seq)
        )
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=CHUNK).execute(query):
                yield row.seq, not set(tags).isdisjoint(row.tags)

    def newest(self) -> int:
        """The number of the newest lesson (0: the store is empty)."""
        with self.database.read() as connection:
            return int(connection.execute(sa.select(sa.func.max(lessons.c.seq))).scalar() or 0)

    def release(self, batch: str | None, connection: sa.Connection, *, vouched: bool = False) -> int:
        """Make lessons that were set aside active again, as new lessons. Returns how many.

        They are suspects, whose questions are not asked in examinations, unless a person vouches for them.
        """
        return release(batch, connection, vouched=vouched)

    def undo(self, batch: str, connection: sa.Connection, *, restore: bool = False) -> int:
        """Exclude a batch from training and examination, or restore it as new lessons. Returns how many."""
        return undo(batch, connection, restore=restore)

    def untrusted(self, *standings: str) -> list[Experience]:
        """Lessons of untrusted sources with these standings, in order of admission."""
        query = sa.select(lessons).where(lessons.c.trusted.is_(False), lessons.c.standing.in_(standings))
        return list(self._stream(query.order_by(lessons.c.seq)))

    def forget(self, lesson: str, because: str, connection: sa.Connection) -> None:
        """Delete a lesson (by its whole id) and write its tombstone. `scrub` cleans the files afterwards."""
        if connection.execute(sa.delete(lessons).where(lessons.c.id == lesson)).rowcount:
            connection.execute(sa.insert(forgotten).values(id=lesson, at=now(), because=because))
        erase_ratings(lesson, connection)
        erase_rejected(lesson, connection)

    def scrub(self, lesson: Experience, quarantine: Path) -> None:
        """Erase a forgotten lesson's text from the quarantine and from the free pages of SQLite."""
        scrub(quarantine, (lesson.request, lesson.answer))
        self.database.scrub()

    def export(self, path: Path, batch: str | None = None, form: str = "") -> int:
        """Write lessons of any outcome as JSONL that `import_file` imports with the same ids. Returns how many.

        With `form`, one of FORMATS, those that can be learned from, as conversations. Raises InputError for an unknown
        format, and for a lesson that the format cannot hold.
        """
        query = sa.select(lessons).order_by(lessons.c.seq)
        if form:
            if form not in FORMATS:
                raise InputError(f"Unknown format {form}.", f"Choose one of {', '.join(FORMATS)}.")
            query = query.where(lessons.c.standing == "active", lessons.c.outcome == "success")
        if batch is not None:
            query = query.where(lessons.c.batch == batch)
        count = 0

        def rows() -> Iterator[bytes]:
            nonlocal count
            with self.database.read() as connection:
                for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
                    count += 1
                    line = FORMATS[form].write(row_to_experience(row).transcript) if form else row_to_line(row)
                    yield orjson.dumps(line) + b"\n"

        write_file(path, rows())
        return count

    def supersede(self, situation: str, action: str, connection: sa.Connection) -> int:
        """Retire active lessons that answer this request otherwise. Returns how many.

        Other requests with the same wrong answer are other wordings and retire, too, unless the answer is short: "No."
        """
        request = wording(situation), signs(situation)
        rows = connection.execute(
            sa.select(lessons.c.seq, lessons.c.situation, lessons.c.action).where(lessons.c.standing == "active")
        ).all()
        wrong = {
            row.action
            for row in rows
            if (wording(row.situation), signs(row.situation)) == request and row.action != action
        }
        alone = {answer for answer in wrong if len(answer) < SHORTEST_SHARED}
        numbers = [
            row.seq
            for row in rows
            if row.action in wrong
            and (row.action not in alone or (wording(row.situation), signs(row.situation)) == request)
        ]
        if numbers:
            connection.execute(sa.update(lessons).where(lessons.c.seq.in_(numbers)).values(standing="superseded"))
        return len(numbers)

    def has_answer(self, situation: str, action: str, connection: sa.Connection) -> bool:
        """Whether an active success gives this answer to this request, in any of its spellings."""
        query = sa.select(lessons.c.situation).where(
            lessons.c.standing == "active", lessons.c.outcome == "success", lessons.c.action == action
        )
        request = wording(situation)
        return any(wording(text) == request for text in connection.execute(query).scalars())


def _insert(connection: sa.Connection, rows: list[dict[str, Any]]) -> tuple[int, int]:
    """Insert rows that are new; equal rows count once. Returns the numbers (admitted, forgotten)."""
    ids = [row["id"] for row in rows]
    make_way(connection, [row["id"] for row in rows if row["trusted"]])
    stored_ids = {id_ for (id_,) in connection.execute(sa.select(lessons.c.id).where(lessons.c.id.in_(ids)))}
    tombstones = {id_ for (id_,) in connection.execute(sa.select(forgotten.c.id).where(forgotten.c.id.in_(ids)))}
    fresh: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["id"] not in stored_ids and row["id"] not in tombstones:
            fresh.setdefault(row["id"], row)
    if fresh:
        connection.execute(sa.insert(lessons), list(fresh.values()))
    retire_corrected(connection, rows)
    return len(fresh), sum(1 for id_ in ids if id_ in tombstones)


def _has_feedback(row: dict[str, Any]) -> bool:
    return bool(row["rating"] or row["gold"] or row["outcome"] != "unknown")


def _insert_counting(connection: sa.Connection, rows: list[dict[str, Any]]) -> Counts:
    """Insert rows and return the numbers (admitted, known, forgotten)."""
    new, again_forgotten = _insert(connection, rows) if rows else (0, 0)
    return new, len(rows) - new - again_forgotten, again_forgotten
