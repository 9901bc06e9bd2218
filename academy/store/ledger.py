"""The append-only ledger: verdicts, promotions, rollbacks and what people decided.

MLflow shows who is champion; this ledger decides it. A row's `key` says what may happen only once; two promotions
that start from the same champion carry the same key, so of racing ones exactly one is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from academy.errors import PromotionError
from academy.records import Record
from academy.store.database import Database, ledger
from academy.store.ledger_rows import (
    ChampionEntry,
    Entry,
    PromotionEntry,
    RenewalEntry,
    RollbackEntry,
    Row,
    VerdictEntry,
)

BASE = "base"
"""What stands for "no adapter" wherever an adapter's digest or version is expected."""
EntryT = TypeVar("EntryT", bound=Entry)
ChampionT = TypeVar("ChampionT", bound=ChampionEntry)


class Champion(Record):
    """Who answers now, and since which row. Generation 0 is the base model itself."""

    seq: int = 0
    version: str = BASE
    adapter: str = BASE
    generation: int = 0
    cursor: int = 0  # the last lesson (seq) that was there when its examination was held

    @property
    def name(self) -> str:
        """As shown to people: `v7` or `base`."""
        return self.version if self.version == BASE else f"v{self.version}"


class Ledger:
    """The rows of one family."""

    def __init__(self, database: Database, family: str) -> None:
        self.database = database
        self.family = family

    def rows(self, *entries: type[EntryT]) -> Iterator[Row[EntryT]]:
        """Rows of the family with these kinds of entries, or all rows; oldest first."""
        query = sa.select(ledger).where(ledger.c.family == self.family).order_by(ledger.c.seq)
        if entries:
            query = query.where(ledger.c.kind.in_([entry.kind for entry in entries]))
        with self.database.read() as connection:
            found = connection.execute(query).mappings().all()
        return (Row.model_validate(dict(row)) for row in found)

    def latest(
        self,
        *entries: type[EntryT],
        limit: int | None = None,
        before: int | None = None,
        versions: Collection[str] | None = None,
    ) -> list[Row[EntryT]]:
        """At most `limit` rows with these kinds of entries, newest first, older than the row `before`.

        `versions` leaves only rows whose body names one of these version numbers, as what came or as what went.
        """
        kinds = [entry.kind for entry in entries]
        query = sa.select(ledger).where(ledger.c.family == self.family, ledger.c.kind.in_(kinds))
        if before is not None:
            query = query.where(ledger.c.seq < before)
        if versions is not None:
            named = (ledger.c.body[name].as_string().in_(versions) for name in ("version", "replaces"))
            query = query.where(sa.or_(*named))
        with self.database.read() as connection:
            found = connection.execute(query.order_by(ledger.c.seq.desc()).limit(limit)).mappings().all()
        return [Row.model_validate(dict(row)) for row in found]

    def find(self, entry: type[EntryT], key: str) -> Row[EntryT] | None:
        """The row with this key, if it was written with this kind of entry."""
        with self.database.read() as connection:
            row = _find(connection, key)
        return row if row is not None and row.kind == entry.kind else None

    def append(self, key: str, entry: EntryT, connection: sa.Connection | None = None) -> Row[EntryT]:
        """Write a row once. A second call with the same key returns the first row and changes nothing."""
        if connection is None:
            with self.database.write() as own:
                return self.append(key, entry, own)
        if known := _find(connection, key):
            return known
        at = datetime.now(UTC).isoformat(timespec="seconds")
        values = {"at": at, "family": self.family, "kind": entry.kind, "key": key, "body": entry.as_json()}
        written = connection.execute(sa.insert(ledger).values(values).returning(ledger.c.seq)).scalar_one()
        return Row(seq=written, at=at, family=self.family, kind=entry.kind, key=key, body=entry)

    def champion(self) -> Champion:
        """Who is champion: what the last promotion or rollback says, or the base model where there is none."""
        with self.database.read() as connection:
            return self._champion(connection)

    def rollback_target(self) -> str | None:
        """The version (or "base") that a plain rollback goes back to; None where the base model is where all began.

        After a promotion that is whom it replaced; a second rollback goes one step further back.
        """
        crowned = list(self.rows(PromotionEntry, RollbackEntry))
        if not crowned or crowned[-1].kind == "promotion":
            return crowned[-1].body.replaces if crowned else None
        for row in reversed(crowned):
            if row.kind == "promotion" and row.body.version == crowned[-1].body.version:
                return row.body.replaces
        return None

    def set_champion(self, expected: Champion, entry: ChampionT) -> Row[ChampionT]:
        """Replace the expected champion, or raise PromotionError where somebody else already did.

        Repeating the same call is harmless.
        """
        key = f"champion:{self.family}:{expected.seq}"
        with self.database.write() as connection:
            known = _find(connection, key)
            if known is None and self._champion(connection).seq == expected.seq:
                change = entry.model_copy(update={"replaces": expected.version, "since": expected.seq})
                return self.append(key, change, connection)
        if known is not None and known.kind == entry.kind and known.body.adapter == entry.adapter:
            return known
        raise PromotionError(
            f"The champion is no longer {expected.name}: another promotion or rollback came first.",
            "Look at `academy status` and decide again.",
        )

    def verdicts_spent(self) -> int:
        """Examinations that could have promoted since the hold-out was renewed: each spends a share of the budget."""
        spent = 0
        for row in self.rows(VerdictEntry, RenewalEntry):
            spent = spent + row.body.spends if isinstance(row.body, VerdictEntry) else 0
        return spent

    def budget_left(self, horizon: int) -> int:
        """Examinations that may still promote, of so many."""
        return max(0, horizon - self.verdicts_spent())

    def _champion(self, connection: sa.Connection) -> Champion:
        query = sa.select(ledger).where(ledger.c.family == self.family)
        query = query.where(ledger.c.kind.in_((PromotionEntry.kind, RollbackEntry.kind)))
        latest = connection.execute(query.order_by(ledger.c.seq.desc()).limit(1)).mappings().first()
        if latest is None:
            return Champion()
        row: Row[ChampionEntry] = Row.model_validate(dict(latest))
        facts = row.body
        return Champion(
            seq=row.seq,
            version=facts.version,
            adapter=facts.adapter,
            generation=facts.generation,
            cursor=facts.cursor,
        )


def _find(connection: sa.Connection, key: str) -> Row[Any] | None:
    row = connection.execute(sa.select(ledger).where(ledger.c.key == key)).mappings().first()
    return Row.model_validate(dict(row)) if row else None
