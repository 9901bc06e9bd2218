"""What users do to lessons by hand: add, forget, undo, release, supersede. Each change of standing is a ledger row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from academy.curriculum.dataset import group_of
from academy.curriculum.holdout import request_key
from academy.errors import InputError
from academy.lifecycle import forgetting
from academy.lifecycle.forgetting import Forgotten
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger_rows import ReleaseEntry, SupersedeEntry, UndoEntry


def add_lesson(
    home: Home, request: str, answer: str, outcome: str, feedback: str, tags: Sequence[str], author: str
) -> str:
    """Add one lesson and return its id. Raises InputError where the request or the answer is empty.

    `outcome` is any text; a lesson counts as a success unless it clearly says that it failed.
    """
    if not request.strip() or not answer.strip():
        raise InputError("A lesson needs a request and an answer.", "Give both, in quotes.")
    return home.store.add_lesson(request, answer, outcome, feedback, list(tags), {"author": author} if author else None)


def forget_lesson(home: Home, lesson: str, because: str) -> Forgotten:
    """Erase a lesson everywhere in this home. Raises InputError where its id is unknown or ambiguous."""
    return forgetting.forget(home.database, home.settings.home.resolve(), home.mlflow, lesson, because)


def undo_batch(home: Home, batch: str, *, restore: bool) -> int:
    """Remove a batch from training and examination, or restore it: how many lessons. Raises InputError for none."""
    with home.database.write() as connection:
        count = home.store.undo(batch, connection, restore=restore)
        if count:
            entry = UndoEntry(batch=batch, lessons=count, restored=restore)
            home.ledger.append(f"undo:{_now()}", entry, connection)
    if not count:
        raise InputError(
            f"The batch {batch} has no lessons to {'restore' if restore else 'undo'}.",
            "`academy lessons stats` lists the batches.",
        )
    return count


def release_lessons(home: Home, batch: str | None, *, vouched: bool = False) -> int:
    """Release lessons that a REJECT set aside. The number of lessons; raises InputError for none.

    They are trained on again, and are suspects: examinations do not ask their questions, and an adapter that answers
    other questions with their answers is rejected. Lessons that a person has `vouched` for are as before.
    """
    with home.database.write() as connection:
        count = home.store.release(batch, connection, vouched=vouched)
        if count:
            entry = ReleaseEntry(batch=batch, lessons=count, vouched=vouched)
            home.ledger.append(f"release:{_now()}", entry, connection)
    if not count:
        raise InputError(
            f"No lessons{f' of batch {batch}' if batch else ''} are set aside.",
            "`academy lessons stats` lists the batches.",
        )
    return count


class Superseded(Record):
    """What `supersede_answers` did: lessons that it retired, and whether a lesson with the right answer counts."""

    retired: int
    has_right_answer: bool


def supersede_answers(home: Home, request: str, answer: str) -> Superseded:
    """Retire the lessons that give another answer to a request, and store none. Raises InputError for none retired."""
    with home.database.write() as connection:
        count = home.store.supersede(request, answer, connection)
        has_right_answer = home.store.has_answer(request, answer, connection)
        if count:
            # digests only: the ledger is append-only, and a user may ask to forget the lesson
            entry = SupersedeEntry(request=request_key("recall", request), answer=group_of(answer), retired=count)
            home.ledger.append(f"supersede:{_now()}", entry, connection)
    if not count:
        raise InputError(
            "No active lesson gives another answer to this request.",
            "Write the request as it stands in the lesson, in quotes.",
        )
    return Superseded(retired=count, has_right_answer=has_right_answer)


def _now() -> str:
    return datetime.now(UTC).isoformat()
