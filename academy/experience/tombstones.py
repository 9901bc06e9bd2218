"""Tombstones: ids of what a user had forgotten, without any text, so that it is not taken again."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from academy.experience.reading import now
from academy.store.database import Database, forgotten


def bury(id_: str, because: str, connection: sa.Connection) -> None:
    """Write the tombstone of an experience, once."""
    if not connection.execute(sa.select(forgotten.c.id).where(forgotten.c.id == id_)).first():
        connection.execute(sa.insert(forgotten).values(id=id_, at=now(), because=because))


def buried(database: Database, ids: Sequence[str]) -> set[str]:
    """Those of the ids that were forgotten."""
    tombstones: set[str] = set()
    with database.read() as connection:
        for begin in range(0, len(ids), 500):
            query = sa.select(forgotten.c.id).where(forgotten.c.id.in_(ids[begin : begin + 500]))
            tombstones |= {id_ for (id_,) in connection.execute(query)}
    return tombstones
