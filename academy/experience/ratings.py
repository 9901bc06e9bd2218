"""Ratings of the gateway's users: who rated which answer of which version, and whether a person has admitted it.

A rating becomes a lesson only once it is admitted: by itself where its source is trusted, otherwise by a person
(`academy review`). Until then it is in this table only, and nothing reads it for a dataset.

Every rating stays as it was given: what a person said about an answer before and after are two ratings.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field

from academy.errors import InputError
from academy.experience.conversations import ConversationFilter, conversation_rows
from academy.experience.experience import Experience
from academy.experience.reading import now
from academy.models.messages import Message
from academy.records import Record
from academy.store.database import Database, kept_out, ratings

Standing = Literal["waiting", "admitted", "refused"]
CHUNK = 500
_NAME = re.compile(r"r[0-9]{1,9}")
"""The name of a rating."""


class Rater(Record):
    """Who sends a request: the name of a key, `owner` or `anonymous`, and the address (see `network_of`)."""

    source: str
    address: str = ""


class Rating(Record):
    """One rating. `line` is the conversation with the feedback, without secrets, as a line of an import."""

    seq: int = 0
    at: str
    completion: str
    source: str
    asker: str
    address: str = ""
    remark: str = ""  # what the request says of its user: anybody may write anything there
    lesson: str  # the id of the lesson that it would be
    rated: str  # the same without the correction
    line: dict[str, Any]
    over: dict[str, Any] = Field(default_factory=dict)  # of a blind vote: messages, answer, adapter of the worse one
    adapter: str = ""
    version: str = ""
    row: int = 0
    standing: Standing = "waiting"
    because: str = ""

    @property
    def name(self) -> str:
        """The name by which people decide about it: `r12`."""
        return f"r{self.seq}"

    @property
    def batch(self) -> str:
        """The batch of its lesson: the day of the rating."""
        return f"gateway-{self.at[:10]}"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The messages before the answer."""
        return list(self.line["messages"][:-1])

    @property
    def answer(self) -> str:
        """The answer that was rated."""
        return str(self.line["messages"][-1]["content"])

    @property
    def feedback(self) -> dict[str, Any]:
        """The fields of the feedback that were set."""
        return dict(self.line.get("feedback") or {})

    @property
    def teaches(self) -> str:
        """The answer that would be learned: the correction, or what was rated."""
        return str(self.feedback.get("correction") or self.answer)

    def lesson_row(self, trusted: Collection[str]) -> dict[str, Any]:
        """The row of its lesson for the store. Only what a trusted person asked and rated may be examined later."""
        row = rated_row(self.line, self.batch)
        is_trusted = self.source in trusted and self.asker in trusted
        return {
            **row,
            "author": self.source,
            "trusted": is_trusted,
            "batch": self.batch if is_trusted else f"{self.batch}-untrusted",
            "extra": {
                **row["extra"], "adapter": self.adapter, "version": self.version, "row": self.row, "rating": self.name,
            },
        }  # fmt: skip


class Selection(Record):
    """Which ratings and lessons a person decides about. Those that fit every field that is set."""

    sources: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    batches: tuple[str, ...] = ()
    items: tuple[str, ...] = ()  # names of ratings (`r12`) and beginnings of lessons' ids
    everything: bool = False  # a decision without any other field is about everything only if this says so

    @property
    def is_open(self) -> bool:
        """Whether no field limits it."""
        return not (self.sources or self.addresses or self.batches or self.items)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the ratings among the items."""
        return [int(item[1:]) for item in self.items if _NAME.fullmatch(item)]


class Quota(Record):
    """How many ratings one source, and one address, may give."""

    per_hour: int
    per_day: int


class QuotaExceeded(Record):
    """Why a rating is not taken."""

    because: str


def rated_row(line: dict[str, Any], batch: str) -> dict[str, Any]:
    """The lesson's row of a conversation whose last answer is rated. Raises InputError where it cannot be read."""
    rows = conversation_rows(line, "conversation", batch, ConversationFilter())
    if isinstance(rows, str):
        raise InputError(f"The conversation cannot be stored: {rows}.", "Rate an answer to a user's request.")
    return rows[-1]


def network_of(host: str) -> str:
    """An address as it is counted: all of a /64 network of IPv6 belong to one subscriber."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped or address.is_loopback:
            return str(address.ipv4_mapped or address)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class Ratings:
    """The ratings of a home."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, rating: Rating, connection: sa.Connection, quota: Quota | None = None) -> QuotaExceeded | None:
        """Store a rating, unless its source or its address has given too many: then only count it."""
        if quota is not None and (because := _over(rating, quota, connection)):
            _count(rating, because, connection)
            return QuotaExceeded(because=because)
        connection.execute(sa.insert(ratings).values(rating.model_dump(mode="json", exclude={"seq"})))
        return None

    def read(self, *standings: Standing, selection: Selection | None = None) -> Iterator[Rating]:
        """Ratings of these standings (all, without any) that fit a selection, in order."""
        selection = selection or Selection()
        query = sa.select(ratings).order_by(ratings.c.seq)
        if standings:
            query = query.where(ratings.c.standing.in_(standings))
        if selection.sources:
            query = query.where(ratings.c.source.in_(selection.sources))
        if selection.addresses:
            query = query.where(ratings.c.address.in_(selection.addresses))
        if selection.items:
            query = query.where(ratings.c.seq.in_(selection.numbers))
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=CHUNK).execute(query).mappings():
                rating = Rating.model_validate(dict(row))
                if not selection.batches or rating.batch in selection.batches:
                    yield rating

    def decide(self, chosen: Sequence[Rating], standing: Standing, because: str, connection: sa.Connection) -> None:
        """Set the standing of ratings."""
        for begin in range(0, len(chosen), CHUNK):
            numbers = [rating.seq for rating in chosen[begin : begin + CHUNK]]
            change = sa.update(ratings).where(ratings.c.seq.in_(numbers))
            connection.execute(change.values(standing=standing, because=because))

    def erase(self, chosen: Sequence[Rating], connection: sa.Connection) -> None:
        """Delete ratings with their texts."""
        for begin in range(0, len(chosen), CHUNK):
            numbers = [rating.seq for rating in chosen[begin : begin + CHUNK]]
            connection.execute(sa.delete(ratings).where(ratings.c.seq.in_(numbers)))

    def counts(self) -> dict[str, int]:
        """Numbers of ratings by standing."""
        query = sa.select(ratings.c.standing, sa.func.count()).group_by(ratings.c.standing)
        with self.database.read() as connection:
            return dict(connection.execute(query).tuples().all())

    def kept_out(self) -> dict[str, int]:
        """Numbers of ratings that were not stored, by reason."""
        query = sa.select(kept_out.c.because, sa.func.sum(kept_out.c.count)).group_by(kept_out.c.because)
        with self.database.read() as connection:
            return {because: int(number) for because, number in sorted(connection.execute(query).tuples())}


def erase_ratings(lesson: str, connection: sa.Connection) -> None:
    """Delete the ratings that quote a forgotten lesson: the rated answer, its correction, a vote's worse answer."""
    is_worse = ratings.c.over["lesson"].as_string() == lesson
    connection.execute(sa.delete(ratings).where((ratings.c.lesson == lesson) | (ratings.c.rated == lesson) | is_worse))


def erase_quoting(experience: Experience, connection: sa.Connection) -> None:
    """Delete the ratings of later turns of a conversation, which quote a forgotten lesson."""
    for seq, line in connection.execute(sa.select(ratings.c.seq, ratings.c.line)).tuples().all():
        turns = [Message(role=turn["role"], content=turn["content"]) for turn in line["messages"]]
        if experience.stands_in(turns):
            connection.execute(sa.delete(ratings).where(ratings.c.seq == seq))


def _over(rating: Rating, quota: Quota, connection: sa.Connection) -> str:
    """Why a rating is one too many; empty where it is not."""
    for hours, most, name in ((1, quota.per_hour, "hour"), (24, quota.per_day, "day")):
        since = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
        for column, value, what in (
            (ratings.c.source, rating.source, "key"), (ratings.c.address, rating.address, "address"),
        ):  # fmt: skip
            query = sa.select(sa.func.count()).where(column == value, ratings.c.at > since)
            if value and connection.execute(query).scalar_one() >= most:
                return f"more than {most:,} ratings of one {what} in one {name}"
    return ""


def _count(rating: Rating, because: str, connection: sa.Connection) -> None:
    key = (kept_out.c.day == now()[:10], kept_out.c.source == rating.source, kept_out.c.because == because)
    change = sa.update(kept_out).where(*key).values(count=kept_out.c.count + 1)
    if not connection.execute(change).rowcount:
        row = {"day": now()[:10], "source": rating.source, "because": because, "count": 1}
        connection.execute(sa.insert(kept_out).values(row))
