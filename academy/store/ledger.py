"""The append-only ledger: verdicts, promotions, rollbacks and the decisions of people.

The ledger decides which version is champion; MLflow only shows it. A row's `key` is unique: two promotions that start
from the same champion have the same key, so exactly one of two concurrent promotions is written.
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
"""The base model without an adapter, in place of an adapter's digest or a version."""
EntryT = TypeVar("EntryT", bound=Entry)
ChampionT = TypeVar("ChampionT", bound=ChampionEntry)


class Champion(Record):
    """The version that answers now, and the row that made it champion. Generation 0 is the base model."""

    seq: int = 0
    version: str = BASE
    adapter: str = BASE
    generation: int = 0
    cursor: int = 0  # the last lesson (seq) that its dataset covers

    @property
    def name(self) -> str:
        """The name for people: `v7` or `base`."""
        return self.version if self.version == BASE else f"v{self.version}"


class Ledger:
    """The rows of one family."""

    def __init__(self, database: Database, family: str) -> None:
        self.database = database
        self.family = family

    def rows(self, *entries: type[EntryT]) -> Iterator[Row[EntryT]]:
        """The family's rows with these kinds of entries, or all of its rows; oldest first."""
        query = sa.select(ledger).where(ledger.c.family == self.family).order_by(ledger.c.seq)
        if entries:
            query = query.where(ledger.c.kind.in_([entry.kind for entry in entries]))
        with self.database.read() as connection:
            rows = connection.execute(query).mappings().all()
        return (Row.model_validate(dict(row)) for row in rows)

    def latest(
        self,
        *entries: type[EntryT],
        limit: int | None = None,
        before: int | None = None,
        versions: Collection[str] | None = None,
    ) -> list[Row[EntryT]]:
        """At most `limit` rows with these kinds of entries, newest first, older than the row `before`.

        With `versions`, only rows whose `version` or `replaces` is one of these numbers.
        """
        kinds = [entry.kind for entry in entries]
        query = sa.select(ledger).where(ledger.c.family == self.family, ledger.c.kind.in_(kinds))
        if before is not None:
            query = query.where(ledger.c.seq < before)
        if versions is not None:
            fields = (ledger.c.body[name].as_string().in_(versions) for name in ("version", "replaces"))
            query = query.where(sa.or_(*fields))
        with self.database.read() as connection:
            rows = connection.execute(query.order_by(ledger.c.seq.desc()).limit(limit)).mappings().all()
        return [Row.model_validate(dict(row)) for row in rows]

    def find(self, entry: type[EntryT], key: str) -> Row[EntryT] | None:
        """The row with this key and this kind of entry, if it exists."""
        with self.database.read() as connection:
            row = _find(connection, key)
        return row if row is not None and row.kind == entry.kind else None

    def append(self, key: str, entry: EntryT, connection: sa.Connection | None = None) -> Row[EntryT]:
        """Write a row once. A second call with the same key returns the first row and changes nothing."""
        if connection is None:
            with self.database.write() as transaction:
                return self.append(key, entry, transaction)
        if existing := _find(connection, key):
            return existing
        at = datetime.now(UTC).isoformat(timespec="seconds")
        values = {"at": at, "family": self.family, "kind": entry.kind, "key": key, "body": entry.as_json()}
        seq = connection.execute(sa.insert(ledger).values(values).returning(ledger.c.seq)).scalar_one()
        return Row(seq=seq, at=at, family=self.family, kind=entry.kind, key=key, body=entry)

    def champion(self) -> Champion:
        """The champion by the last promotion or rollback; the base model if there is none."""
        with self.database.read() as connection:
            return self._champion(connection)

    def rollback_target(self) -> str | None:
        """The version (or "base") that a rollback without a name restores; None if the base model was never replaced.

        After a promotion it is the version that was replaced. Each further rollback goes one step further back.
        """
        changes = list(self.rows(PromotionEntry, RollbackEntry))
        if not changes or changes[-1].kind == "promotion":
            return changes[-1].body.replaces if changes else None
        for row in reversed(changes):
            if row.kind == "promotion" and row.body.version == changes[-1].body.version:
                return row.body.replaces
        return None

    def set_champion(self, expected: Champion, entry: ChampionT) -> Row[ChampionT]:
        """Replace the expected champion. Raises PromotionError if another change of the champion came first.

        Repeating the same call changes nothing.
        """
        key = f"champion:{self.family}:{expected.seq}"
        with self.database.write() as connection:
            existing = _find(connection, key)
            if existing is None and self._champion(connection).seq == expected.seq:
                change = entry.model_copy(update={"replaces": expected.version, "since": expected.seq})
                return self.append(key, change, connection)
        if existing is not None and existing.kind == entry.kind and existing.body.adapter == entry.adapter:
            return existing
        raise PromotionError(
            f"The champion is no longer {expected.name}: another promotion or rollback came first.",
            "Check `academy status` and decide again.",
        )

    def verdicts_spent(self) -> int:
        """Examinations since the hold-out's last renewal that could promote: each spends a share of the budget."""
        count = 0
        for row in self.rows(VerdictEntry, RenewalEntry):
            count = count + row.body.spends if isinstance(row.body, VerdictEntry) else 0
        return count

    def budget_left(self, horizon: int) -> int:
        """How many of `horizon` examinations can still promote."""
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
