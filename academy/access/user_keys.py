"""Keys of the gateway's users: each has a name, which says who asked and who rated. Only digests are stored."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

import sqlalchemy as sa

from academy.access.rules import KEY_PREFIX
from academy.errors import InputError
from academy.records import Record, digest_of_bytes
from academy.store.database import Database, user_keys

OWNER, ANONYMOUS = "owner", "anonymous"
"""Who sends a request without a key of their own: this account on loopback, and anybody else."""
IMPORTED = "import"
"""The source of lessons that were imported as untrusted."""
LONGEST_TOKEN = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}")


class UserKey(Record):
    """A user's key; `at` is when it was made, ISO 8601 in UTC."""

    name: str
    at: str


class UserKeys:
    """The users' keys of a home."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, name: str) -> str:
        """Make a key and return it: it is not stored and cannot be shown again. Raises InputError for the name."""
        if not _NAME.fullmatch(name) or name in (OWNER, ANONYMOUS, IMPORTED):
            raise InputError(
                f"'{name[:60]}' cannot be the name of a key.",
                f"Use up to 48 lower-case letters, digits, dots and dashes; {OWNER}, {ANONYMOUS} and {IMPORTED} are "
                "taken.",
            )
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        row = {"name": name, "digest": _digest(key), "at": datetime.now(UTC).isoformat(timespec="seconds")}
        with self.database.write() as connection:
            if connection.execute(sa.select(user_keys.c.name).where(user_keys.c.name == name)).first():
                raise InputError(f"A key of the name {name} exists.", f"Remove it first: academy keys remove {name}")
            connection.execute(sa.insert(user_keys).values(row))
        return key

    def remove(self, name: str) -> None:
        """Remove a key: requests with it are refused at once. Raises InputError where there is none."""
        with self.database.write() as connection:
            if not connection.execute(sa.delete(user_keys).where(user_keys.c.name == name)).rowcount:
                raise InputError(f"No key has the name {name[:60]}.", "`academy keys users` lists them.")

    def all(self) -> list[UserKey]:
        """All keys, by name."""
        query = sa.select(user_keys.c.name, user_keys.c.at).order_by(user_keys.c.name)
        with self.database.read() as connection:
            return [UserKey(name=row.name, at=row.at) for row in connection.execute(query)]

    def holder(self, token: str) -> str:
        """The name of the key; empty for an unknown key."""
        if not token.startswith(KEY_PREFIX) or len(token) > LONGEST_TOKEN:
            return ""
        query = sa.select(user_keys.c.name).where(user_keys.c.digest == _digest(token))
        with self.database.read() as connection:
            return connection.execute(query).scalar() or ""


def _digest(key: str) -> str:
    return digest_of_bytes(key.encode())
