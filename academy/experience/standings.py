"""Changes of a lesson's standing, in the transaction of the decision: set aside, release, undo, admit, refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from academy.experience.reading import REJECTED, SUSPECT
from academy.store.database import lessons


def set_aside(since: int, until: int, connection: sa.Connection) -> int:
    """Exclude the active lessons numbered (since, until] from training and examination. Returns how many."""
    change = sa.update(lessons).where(lessons.c.seq > since, lessons.c.seq <= until, lessons.c.standing == "active")
    return int(connection.execute(change.values(standing="set aside")).rowcount)


def set_these_aside(ids: Sequence[str], connection: sa.Connection) -> int:
    """Exclude these active lessons, whenever they were admitted. Returns how many."""
    change = sa.update(lessons).where(lessons.c.id.in_(ids), lessons.c.standing == "active")
    return int(connection.execute(change.values(standing="set aside")).rowcount)


def release(batch: str | None, connection: sa.Connection, *, vouched: bool) -> int:
    """Make lessons that were set aside active again, as new lessons. Returns how many.

    An examination rejected them, so they are suspects, whose questions are not asked, unless a person vouches for them.
    """
    query = sa.select(lessons).where(lessons.c.standing == "set aside")
    if batch is not None:
        query = query.where(lessons.c.batch == batch)
    return _as_new(query, connection, suspect=not vouched)


def undo(batch: str, connection: sa.Connection, *, restore: bool) -> int:
    """Exclude a batch from training and examination, or restore it as new lessons. Returns how many."""
    if restore:
        query = sa.select(lessons).where(lessons.c.standing == "undone", lessons.c.batch == batch)
        return _as_new(query, connection)
    change = sa.update(lessons).where(lessons.c.batch == batch, lessons.c.standing.in_(("active", "set aside")))
    return int(connection.execute(change.values(standing="undone")).rowcount)


def admit_waiting(ids: Sequence[str], connection: sa.Connection) -> int:
    """Make waiting lessons active, as new lessons. Returns how many. They stay untrusted: they are not examined."""
    return _as_new(sa.select(lessons).where(lessons.c.standing == "waiting", lessons.c.id.in_(ids)), connection)


def refuse(ids: Sequence[str], connection: sa.Connection) -> int:
    """Exclude untrusted lessons, whatever became of them since: none comes back with its batch. Returns how many."""
    change = sa.update(lessons).where(
        lessons.c.id.in_(ids), lessons.c.trusted.is_(False), lessons.c.standing != "refused"
    )
    return int(connection.execute(change.values(standing="refused")).rowcount)


def make_way(connection: sa.Connection, ids: Sequence[str]) -> None:
    """Delete untrusted lessons that a trusted source gives now: otherwise a stranger could keep them from the exam."""
    connection.execute(
        sa.delete(lessons).where(
            lessons.c.id.in_(ids), lessons.c.trusted.is_(False), lessons.c.standing.in_(("active", "waiting"))
        )
    )


def erase_rejected(lesson: str, connection: sa.Connection) -> None:
    """Erase a forgotten answer from the lessons that correct it."""
    query = sa.select(lessons.c.seq, lessons.c.extra).where(lessons.c.corrects == lesson)
    for row in connection.execute(query).all():
        extra = {name: value for name, value in row.extra.items() if name != REJECTED}
        connection.execute(sa.update(lessons).where(lessons.c.seq == row.seq).values(extra=extra))


def _as_new(query: sa.Select[Any], connection: sa.Connection, *, suspect: bool | None = None) -> int:
    """Make lessons active under new numbers, so that they count as new. `suspect` None: marked as they were."""
    rows = [dict(row) for row in connection.execute(query.order_by(lessons.c.seq)).mappings()]
    for row in rows:
        connection.execute(sa.delete(lessons).where(lessons.c.seq == row.pop("seq")))
        if suspect is not None:
            marks = {name: value for name, value in row["extra"].items() if name != SUSPECT}
            row["extra"] = {**marks, SUSPECT: True} if suspect else marks
        connection.execute(sa.insert(lessons).values({**row, "standing": "active"}))
    return len(rows)
