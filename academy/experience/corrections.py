"""A correction retires the answer that it corrects, whichever of the two is imported first.

A corrected row names the id that it would have with the wrong answer (`corrects`). Only rows of the same conversation
(`thread`) are retired: where another conversation gave the same answer, both stay and are shown as a contradiction.
A correction from a source that is not trusted retires no lesson of a trusted one, and one that waits for a person's
decision retires nothing: not even where a trusted lesson gives the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from academy.store.database import lessons

RETIRED = ("active", "set aside")
"""Standings of lessons that a correction supersedes."""


def retire_corrected(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Supersede what these rows of the store correct, and those of them that an active row corrects.

    Of several corrections of one answer the last one counts. A row that is not active corrects nothing.
    """
    corrections = {row["id"]: row for row in rows if row["corrects"] and row["standing"] == "active"}
    for stored in _active(connection, lessons.c.id.in_(corrections)):
        row = corrections[stored.id]
        earlier = (lessons.c.corrects == row["corrects"]) & (lessons.c.seq < stored.seq)
        which = (lessons.c.id == row["corrects"]) | earlier
        _supersede(connection, stored.trusted and row["trusted"], which, lessons.c.thread == row["thread"])
        if not stored.corrects and (row["trusted"] or not stored.trusted):
            # the right answer was known, and now it corrects another one
            change = sa.update(lessons).where(lessons.c.seq == stored.seq)
            connection.execute(change.values(corrects=row["corrects"]))
    for stored in _active(connection, lessons.c.corrects.in_([row["id"] for row in rows])):
        _supersede(connection, stored.trusted, lessons.c.id == stored.corrects, lessons.c.thread == stored.thread)


def _active(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
    columns = (lessons.c.seq, lessons.c.id, lessons.c.thread, lessons.c.corrects, lessons.c.trusted)
    return connection.execute(sa.select(*columns).where(condition, lessons.c.standing == "active")).all()


def _supersede(connection: sa.Connection, trusted: bool, *conditions: sa.ColumnElement[bool]) -> None:
    if not trusted:
        conditions = (*conditions, lessons.c.trusted.is_(False))
    change = sa.update(lessons).where(*conditions, lessons.c.standing.in_(RETIRED))
    connection.execute(change.values(standing="superseded"))
