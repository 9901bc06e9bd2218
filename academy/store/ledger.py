"""The append-only ledger: verdicts, promotions, rollbacks and what people decided.

MLflow shows who is champion; this ledger decides it. A row's `key` says what may happen only once; two promotions
that start from the same champion carry the same key, so of racing ones exactly one is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy as sa

from academy.errors import PromotionError
from academy.records import Record
from academy.store.database import Database, ledger

Kind = Literal[
    "verdict", "promotion", "rollback", "approval", "archive", "restore",
    "release", "supersede", "undo", "allow", "renewal", "refuse",
]  # fmt: skip
BASE = "base"
"""What stands for "no adapter" wherever an adapter's digest or version is expected."""


class Row(Record):
    """One row; `at` is ISO 8601 in UTC, `family` the digest of the base model."""

    seq: int
    at: str
    family: str
    kind: str
    key: str
    body: dict[str, Any]


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

    def rows(self, *kinds: Kind) -> Iterator[Row]:
        """Rows of the family, oldest first."""
        query = sa.select(ledger).where(ledger.c.family == self.family).order_by(ledger.c.seq)
        if kinds:
            query = query.where(ledger.c.kind.in_(kinds))
        with self.database.read() as connection:
            found = connection.execute(query).mappings().all()
        return (Row.model_validate(dict(row)) for row in found)

    def latest(
        self,
        *kinds: Kind,
        limit: int | None = None,
        before: int | None = None,
        versions: Collection[str] | None = None,
    ) -> list[Row]:
        """At most `limit` rows of these kinds, newest first, older than the row `before`.

        `versions` leaves only rows whose body names one of these version numbers, as what came or as what went.
        """
        query = sa.select(ledger).where(ledger.c.family == self.family, ledger.c.kind.in_(kinds))
        if before is not None:
            query = query.where(ledger.c.seq < before)
        if versions is not None:
            named = (ledger.c.body[name].as_string().in_(versions) for name in ("version", "replaces"))
            query = query.where(sa.or_(*named))
        with self.database.read() as connection:
            found = connection.execute(query.order_by(ledger.c.seq.desc()).limit(limit)).mappings().all()
        return [Row.model_validate(dict(row)) for row in found]

    def find(self, key: str) -> Row | None:
        """The row with this key, if it was written."""
        with self.database.read() as connection:
            return _find(connection, key)

    def append(self, kind: Kind, key: str, body: dict[str, Any], connection: sa.Connection | None = None) -> Row:
        """Write a row once. A second call with the same key returns the first row and changes nothing."""
        if connection is None:
            with self.database.write() as own:
                return self.append(kind, key, body, own)
        if known := _find(connection, key):
            return known
        at = datetime.now(UTC).isoformat(timespec="seconds")
        written = connection.execute(
            sa.insert(ledger).values(at=at, family=self.family, kind=kind, key=key, body=body).returning(ledger.c.seq)
        ).scalar_one()
        return Row(seq=written, at=at, family=self.family, kind=kind, key=key, body=body)

    def champion(self) -> Champion:
        """Who is champion: what the last promotion or rollback says, or the base model where there is none."""
        with self.database.read() as connection:
            return self._champion(connection)

    def way_back(self) -> str | None:
        """The version (or "base") that a plain rollback goes back to; None where the base model is where all began.

        After a promotion that is whom it replaced; a second rollback goes one step further back.
        """
        crowned = list(self.rows("promotion", "rollback"))
        if not crowned or crowned[-1].kind == "promotion":
            return str(crowned[-1].body["replaces"]) if crowned else None
        for row in reversed(crowned):
            if row.kind == "promotion" and row.body["version"] == crowned[-1].body["version"]:
                return str(row.body["replaces"])
        return None

    def crown(self, kind: Literal["promotion", "rollback"], expected: Champion, body: dict[str, Any]) -> Row:
        """Replace the expected champion, or raise PromotionError where somebody else already did.

        `body` carries version, adapter, generation and cursor of the new champion. Repeating the same call is harmless.
        """
        key = f"champion:{self.family}:{expected.seq}"
        with self.database.write() as connection:
            known = _find(connection, key)
            if known is None and self._champion(connection).seq == expected.seq:
                return self.append(kind, key, {**body, "replaces": expected.version, "since": expected.seq}, connection)
        if known is not None and known.kind == kind and known.body.get("adapter") == body["adapter"]:
            return known
        raise PromotionError(
            f"The champion is no longer {expected.name}: another promotion or rollback came first.",
            "Look at `academy status` and decide again.",
        )

    def verdicts_spent(self) -> int:
        """Examinations that could have promoted since the hold-out was renewed: each spends a share of the budget."""
        spent = 0
        for row in self.rows("verdict", "renewal"):
            spent = 0 if row.kind == "renewal" else spent + bool(row.body.get("spends", True))
        return spent

    def budget_left(self, horizon: int) -> int:
        """Examinations that may still promote, of so many."""
        return max(0, horizon - self.verdicts_spent())

    def _champion(self, connection: sa.Connection) -> Champion:
        row = connection.execute(
            sa.select(ledger.c.seq, ledger.c.body)
            .where(ledger.c.family == self.family, ledger.c.kind.in_(("promotion", "rollback")))
            .order_by(ledger.c.seq.desc())
            .limit(1)
        ).first()
        if row is None:
            return Champion()
        body = row.body
        return Champion(
            seq=row.seq,
            version=body["version"],
            adapter=body["adapter"],
            generation=body["generation"],
            cursor=body["cursor"],
        )


def _find(connection: sa.Connection, key: str) -> Row | None:
    row = connection.execute(sa.select(ledger).where(ledger.c.key == key)).mappings().first()
    return Row.model_validate(dict(row)) if row else None
