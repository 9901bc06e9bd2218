"""The one SQL database: lessons, the hold-out register and the ledger. SQLite by default, PostgreSQL by URL.

Every writing transaction on SQLite begins with BEGIN IMMEDIATE: a deferred one that reads and then writes fails as
"locked" under load, whatever its timeout. The schema changes only by migrations (Alembic).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from academy.errors import HomeError

metadata = sa.MetaData()

lessons = sa.Table(
    "lessons",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),  # order of admission: the cursor
    sa.Column("id", sa.String(64), nullable=False, unique=True),  # sha256 of kind, situation, action, result
    sa.Column("kind", sa.String(16), nullable=False),  # lesson | task
    sa.Column("situation", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("feedback", sa.Text, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),  # success | failure | unknown
    sa.Column("author", sa.String(200), nullable=False),
    sa.Column("batch", sa.String(200), nullable=False, index=True),
    sa.Column("at", sa.String(40), nullable=False),  # ISO 8601, UTC
    sa.Column("standing", sa.String(16), nullable=False, index=True),  # one of experience.reading.STANDINGS
    sa.Column("extra", sa.JSON, nullable=False),
    sa.Column("rating", sa.Integer, nullable=False, server_default="0"),  # 1 to 5; 0 means none
    sa.Column("gold", sa.Boolean, nullable=False, server_default=sa.false()),  # a person marked it as a gold answer
    sa.Column("model_made", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("thread", sa.String(200), nullable=False, server_default=""),  # the conversation that it belongs to
    sa.Column("context", sa.JSON, nullable=False, server_default="[]"),  # earlier messages: role and content
    sa.Column("corrects", sa.String(64), nullable=False, server_default="", index=True),  # id with the wrong answer
    sa.Column("trusted", sa.Boolean, nullable=False, server_default=sa.true()),  # false: it is never examined
    sa.Column("trace", sa.JSON, nullable=False, server_default="{}"),  # calls of tools, results, thoughts, other parts
    sqlite_autoincrement=True,  # SQLite never reuses a number, not even after a delete
)

forgotten = sa.Table(
    "forgotten",  # tombstones without text: an import cannot bring a forgotten lesson back
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("because", sa.Text, nullable=False),
)

ratings = sa.Table(
    "ratings",  # feedback that users of the gateway gave, with the answer that it is about
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(40), nullable=False, index=True),  # ISO 8601, UTC
    sa.Column("completion", sa.String(200), nullable=False, index=True),
    sa.Column("source", sa.String(64), nullable=False, index=True),  # who rated: a key's name, owner or anonymous
    sa.Column("asker", sa.String(64), nullable=False),  # who asked, in the same way
    sa.Column("address", sa.String(64), nullable=False, index=True),  # an IPv4 address, or the /64 network of IPv6
    sa.Column("remark", sa.String(200), nullable=False),  # the field `user` of the request
    sa.Column("lesson", sa.String(64), nullable=False, index=True),  # id of the lesson that it would be
    sa.Column("rated", sa.String(64), nullable=False, index=True),  # id with the rated answer: without its correction
    sa.Column("line", sa.JSON, nullable=False),  # messages, answer and feedback, as a line of an import
    sa.Column("over", sa.JSON, nullable=False),  # the worse answer of a blind vote; empty: none
    sa.Column("adapter", sa.String(64), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("row", sa.Integer, nullable=False),  # the ledger row by which the version answered
    sa.Column("standing", sa.String(16), nullable=False, index=True),  # waiting | admitted | refused
    sa.Column("because", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

kept_out = sa.Table(
    "kept_out",  # how many ratings were not stored, by day and reason
    metadata,
    sa.Column("day", sa.String(10), primary_key=True),
    sa.Column("source", sa.String(64), primary_key=True),
    sa.Column("because", sa.String(200), primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
)

user_keys = sa.Table(
    "user_keys",  # keys of the gateway's users: their digests only
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False, unique=True),
    sa.Column("at", sa.String(40), nullable=False),
)

assignments = sa.Table(
    "register",  # the hold-out: the first assignment is permanent
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request", sa.String(64), nullable=False, unique=True),  # sha256 of the normalised request
    sa.Column("text", sa.Text, nullable=False),  # the normalised request, for the comparison with new ones
    sa.Column("suite", sa.String(32), nullable=False),  # recall | commits
    sa.Column("origin", sa.String(64), nullable=False, index=True),
    sa.Column("side", sa.String(16), nullable=False),  # train | holdout | neither
    sa.Column("answer", sa.String(16), nullable=False, server_default=""),  # a name for its first answer
    sqlite_autoincrement=True,
)

ledger = sa.Table(
    "ledger",  # append-only: triggers refuse UPDATE and DELETE
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Column("family", sa.String(64), nullable=False, index=True),  # digest of the base model
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("key", sa.String(200), nullable=False, unique=True),  # unique: a row is written once
    sa.Column("body", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0006"
WAL_SECONDS = 5.0
"""How long to wait for other processes that open a new SQLite file at the same time."""


class Database:
    """One engine. `read()` and `write()` yield a connection inside a transaction."""

    def __init__(self, url: str, timeout: float = 60) -> None:
        """The database at a URL. `timeout`: seconds to wait for the transaction of another process (SQLite)."""
        self.url = url
        try:
            self.engine = sa.create_engine(url, connect_args={"timeout": timeout} if url.startswith("sqlite") else {})
        except (sa.exc.ArgumentError, ModuleNotFoundError) as problem:
            raise HomeError(
                f"The database type '{url.partition('://')[0]}' is not supported here.",
                "Correct ACADEMY_DATABASE_URL. For PostgreSQL run: pip install 'psycopg[binary]>=3.2,<4' 'asyncpg<1'",
            ) from problem
        if self.engine.dialect.name == "sqlite":
            sa.event.listen(self.engine, "connect", _on_connect)
            sa.event.listen(self.engine, "begin", _on_begin)

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection for reading. It does not wait for writers."""
        with self._explain_errors(), self.engine.connect().execution_options(deferred=True) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction for writing. It locks at once, commits at the end and rolls back on any exception."""
        with self._explain_errors(), self.engine.begin() as connection:
            yield connection

    def migrate(self) -> None:
        """Migrate the schema to the newest revision. A current schema costs one query."""
        with self._explain_errors():
            with self.engine.connect().execution_options(deferred=True) as connection:
                if sa.inspect(connection).has_table("alembic_version"):
                    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
                    if revision == HEAD:
                        return
            from alembic import command
            from alembic.config import Config

            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            with self.engine.begin() as connection:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")

    def scrub(self) -> None:
        """Remove deleted rows from SQLite's write-ahead log as well. PostgreSQL removes them when it vacuums."""
        if self.engine.dialect.name == "sqlite":
            with self._explain_errors():
                raw = self.engine.raw_connection()
                try:
                    raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    raw.close()

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.DatabaseError) as problem:
            if isinstance(problem, sa.exc.IntegrityError):
                raise
            address = self.engine.url.render_as_string(hide_password=True)
            raise HomeError(
                f"The database {address} cannot be used: {problem.orig}.",
                "Check that its disk has space and that you can write there, then retry.",
            ) from problem


def _on_connect(connection, _record):  # type: ignore[no-untyped-def]
    connection.isolation_level = None  # _on_begin starts transactions, not the driver
    until = time.monotonic() + WAL_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as problem:
            # SQLite has no timeout here: one of several processes that open a new file at once may fail
            if problem.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)
    connection.execute("PRAGMA synchronous=FULL")  # an acknowledged lesson survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("PRAGMA secure_delete=ON")  # deleted rows are overwritten, so that a lesson can be forgotten


def _on_begin(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql("BEGIN" if options.get("deferred", False) else "BEGIN IMMEDIATE")
