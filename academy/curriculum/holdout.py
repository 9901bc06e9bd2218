"""The hold-out: which requests are trained on and which are examined. The first assignment is permanent.

A request and all similar ones form one origin, and an origin is on one side only. Similar requests that ask different
things, such as two error codes, are two origins (carrying.py). A new request that is similar to a known one joins its
side; one that is similar to both sides joins neither. Of the new origins of one answer about a fifth are held out (at
least one of two or more), selected by a hash and independent of the order.

Requests of sources that are not trusted are looked up and never assigned: strangers must neither write the examination
nor keep questions out of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa

from academy.curriculum.carrying import answer_key, opposed, request_salts, salts
from academy.curriculum.dataset import Example
from academy.curriculum.similarity import CHUNK, NEAR, Index, pairs_within, signatures, verified
from academy.errors import InputError
from academy.experience.reading import normalised
from academy.records import Record, digest_of, stable_fraction
from academy.store.database import Database, assignments

Side = Literal["train", "holdout", "neither", "retired"]
"""`retired`: examined until the hold-out was renewed. It is not trained on; the regression suite still asks it."""
HELD_OUT = 0.22
"""Share of an answer's origins that are held out: two of nine."""


class GroupedRequest(Record):
    """A request to assign; `group` names its answer exactly, `answer` its words (`carrying.answer_key`)."""

    text: str
    suite: str
    group: str
    answer: str = ""

    @property
    def salts(self) -> tuple[int, int]:
        """The numbers by which similar requests are one question; without `answer`, `group` names the answer."""
        return request_salts(self.text, self.answer or self.group[:16])


class Assignment(Record):
    """The origin of a request and its side."""

    origin: str
    side: Side


class Renewal(Record):
    """The result of a renewal: numbers of retired and of fresh origins, and of the answers of the fresh ones."""

    retired: int
    fresh: int
    groups: int


def request_key(suite: str, text: str) -> str:
    """The key of a request in the hold-out."""
    return digest_of([suite, normalised(text)])


def grouped(example: Example) -> GroupedRequest:
    """The request by which the hold-out assigns an example: the first one of its conversation."""
    return GroupedRequest(
        text=example.opening, suite=example.suite, group=example.group, answer=answer_key(example.opening_answer)
    )


def first_of_each_request(examples: list[Example]) -> list[Example]:
    """Of held-out examples with the same request the earliest: a later answer cannot change the examination."""
    earliest: dict[Any, Example] = {}
    for example in sorted(examples, key=lambda e: (e.seq, e.id)):
        earliest.setdefault((request_key(example.suite, example.request), example.system), example)
    return list(earliest.values())


class Holdout:
    """The hold-out in SQL. Memory: the signatures of known requests (900 bytes each), without their texts."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[str, Index] = defaultdict(lambda: Index(NEAR))  # by suite; the numbers are `seq`
        self._signed = 0  # the last `seq` in these indexes

    def assign(
        self, requests: Iterable[GroupedRequest], connection: sa.Connection | None = None
    ) -> dict[str, Assignment]:
        """Assignments by request key. New requests are assigned in one transaction; known ones keep theirs."""
        if connection is None:
            with self.database.write() as transaction:
                return self.assign(requests, transaction)
        by_key: dict[str, GroupedRequest] = {}
        for request in sorted(requests, key=lambda r: (r.group, r.text), reverse=True):
            by_key[request_key(request.suite, request.text)] = request  # with several answers the first group counts
        by_request = {}
        for row in _rows(connection, assignments.c.request, list(by_key)):
            by_request[row["request"]] = Assignment(origin=row["origin"], side=row["side"])
        rows = []
        if len(by_request) < len(by_key):
            self._sign(connection)
        for suite in sorted({request.suite for key, request in by_key.items() if key not in by_request}):
            fresh = {k: r for k, r in sorted(by_key.items()) if r.suite == suite and k not in by_request}
            new = _assign_new(fresh, self._known[suite], connection)
            by_request |= new
            rows += [
                {
                    "request": key,
                    "text": normalised(fresh[key].text),
                    "suite": suite,
                    **assignment.model_dump(),
                    "answer": fresh[key].answer or fresh[key].group[:16],
                }
                for key, assignment in new.items()
            ]
        if rows:
            connection.execute(sa.insert(assignments), rows)
        return {key: by_request[key] for key in by_key}

    def look_up(self, requests: Iterable[GroupedRequest]) -> dict[str, Assignment]:
        """The sides of requests that may not be assigned, by request key: those of similar known ones, or else train.

        Nothing is stored, so a request that only strangers know can still be held out for a trusted source.
        """
        by_key = {request_key(request.suite, request.text): request for request in requests}
        with self.database.read() as connection:
            rows = _rows(connection, assignments.c.request, list(by_key))
            by_request = {row["request"]: Assignment(origin=row["origin"], side=row["side"]) for row in rows}
            if len(by_request) < len(by_key):
                self._sign(connection)
            for suite in sorted({request.suite for key, request in by_key.items() if key not in by_request}):
                new = {k: r for k, r in sorted(by_key.items()) if r.suite == suite and k not in by_request}
                by_request |= _assign_new(new, self._known[suite], connection, hold_out=False)
        return by_request

    def examined(self, examples: Iterable[Example]) -> list[Example]:
        """The held-out examples among these that no renewal has retired."""
        held_out = list(examples)
        keys = [request_key(example.suite, example.opening) for example in held_out]
        with self.database.read() as connection:
            rows = list(_rows(connection, assignments.c.request, keys))
        retired_keys = {row["request"] for row in rows if row["side"] == "retired"}
        return [example for example, key in zip(held_out, keys, strict=True) if key not in retired_keys]

    def renew(
        self,
        examined: Iterable[GroupedRequest],
        seen: Iterable[GroupedRequest],
        unseen: Iterable[GroupedRequest],
        min_groups: int,
        connection: sa.Connection,
    ) -> Renewal:
        """Retire the examined requests and hold out fresh ones instead: whole origins that are in no dataset.

        `seen` are all requests that a dataset may contain, `unseen` those that can be asked instead. As many origins
        are held out as are retired, and more if these have fewer than `min_groups` answers. At most half of an answer's
        unseen origins are held out, so that the others can teach it. Raises InputError, and changes nothing, if there
        are too few.
        """
        examined_keys = {request_key(request.suite, request.text) for request in examined}
        seen_keys = {request_key(request.suite, request.text) for request in seen} | examined_keys
        new = {request_key(request.suite, request.text): request for request in unseen}
        retiring = {
            row["origin"]
            for row in _rows(connection, assignments.c.request, sorted(examined_keys))
            if row["side"] == "holdout"
        }
        rows = {row["request"]: row for row in _rows(connection, assignments.c.request, sorted(new.keys() - seen_keys))}
        origins = sorted({row["origin"] for row in rows.values()})
        # an empty text was forgotten: it is unknown which datasets contained it
        tainted_origins = {
            row["origin"]
            for row in _rows(connection, assignments.c.origin, origins)
            if row["request"] in seen_keys or not row["text"]
        }
        fresh: dict[str, set[str]] = defaultdict(set)  # held-out origins by group
        trainable: dict[str, set[str]] = defaultdict(set)
        for key, row in rows.items():
            sides = {"holdout": fresh, "train": trainable}
            if row["origin"] not in tainted_origins and row["side"] in sides:
                sides[row["side"]][new[key].group].add(row["origin"])
        held_out = set().union(*fresh.values())
        candidates = []
        for group, group_origins in trainable.items():
            already = len(fresh[group])
            room = max(0, (len(group_origins) + already) // 2 - already)
            shuffle = sorted((stable_fraction("renewed", origin), origin) for origin in group_origins - held_out)
            candidates += [
                (already + n, fraction, origin, group) for n, (fraction, origin) in enumerate(shuffle[:room])
            ]
        groups = {group for group, group_origins in fresh.items() if group_origins}
        moving: set[str] = set()
        for _, _, origin, group in sorted(candidates):  # answers without a held-out origin come first
            if len(held_out | moving) >= len(retiring) and len(groups) >= min_groups:
                break
            moving.add(origin)
            groups.add(group)
        if len(groups) < min_groups:
            raise InputError(
                f"Only {len(groups)} answers of lessons that are in no dataset can be examined (minimum {min_groups}).",
                "Import lessons with new answers, each in at least two wordings, and renew before you train on them.",
            )
        for changing, side in ((retiring, "retired"), (moving, "holdout")):
            origins = sorted(changing)
            for begin in range(0, len(origins), 500):
                chunk = assignments.c.origin.in_(origins[begin : begin + 500])
                connection.execute(
                    sa.update(assignments).where(chunk, assignments.c.suite == "recall").values(side=side)
                )
        return Renewal(retired=len(retiring), fresh=len(held_out | moving), groups=len(groups))

    def _sign(self, connection: sa.Connection) -> None:
        """Sign the requests that this or another process stored since the last time."""
        columns = (assignments.c.seq, assignments.c.suite, assignments.c.text, assignments.c.answer)
        query = sa.select(*columns).where(assignments.c.seq > self._signed)
        rows = connection.execute(query.order_by(assignments.c.seq).execution_options(yield_per=CHUNK))
        for part in rows.partitions():
            for suite in sorted({row.suite for row in part}):
                of_suite = [row for row in part if row.suite == suite]
                numbers, texts = np.array([row.seq for row in of_suite]), [row.text for row in of_suite]
                pairs = salts((row.text, row.answer) for row in of_suite)
                self._known[suite].add(numbers, *signatures(texts, pairs))
            self._signed = part[-1].seq


def _rows(connection: sa.Connection, column: sa.Column[Any], values: Sequence[Any]) -> Iterator[sa.RowMapping]:
    """Rows of the hold-out with these values in a column, read a few hundred at a time."""
    for begin in range(0, len(values), 500):
        query = sa.select(assignments).where(column.in_(values[begin : begin + 500]))
        yield from connection.execute(query).mappings()


def _assign_new(
    fresh: dict[str, GroupedRequest], known: Index, connection: sa.Connection, *, hold_out: bool = True
) -> dict[str, Assignment]:
    """Assignments of new requests (by key, sorted), given the known ones of the same suite.

    Without `hold_out` no new origin is held out.
    """
    keys = list(fresh)
    leader = list(range(len(keys)))  # union-find over the new requests

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    bands, small = signatures([fresh[key].text for key in keys], [fresh[key].salts for key in keys])
    neighbours_of: dict[int, set[Assignment]] = defaultdict(set)
    numbers, positions = known.candidates(bands, small)
    rows = {row["seq"]: row for row in _rows(connection, assignments.c.seq, sorted(set(numbers.tolist())))}
    # known requests have negative numbers in these pairs
    pairs = [(-i, j) for i, j in zip(numbers.tolist(), positions.tolist(), strict=True) if i in rows]

    def texts(numbers: list[int]) -> list[str]:
        return [rows[-n]["text"] if n < 0 else fresh[keys[n]].text for n in numbers]

    for i, j, _ in verified(pairs, texts, NEAR, distinct=opposed):
        neighbours_of[j].add(Assignment(origin=rows[-i]["origin"], side=rows[-i]["side"]))
    first, second = pairs_within(bands, small, NEAR)
    new_pairs = zip(first.tolist(), second.tolist(), strict=True)
    for i, j, _ in verified(new_pairs, texts, NEAR, settled=lambda i, j: root(i) == root(j), distinct=opposed):
        low, high = sorted((root(i), root(j)))
        leader[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        members[root(i)].append(i)

    by_request: dict[str, Assignment] = {}
    new_origins: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
    for inside in members.values():
        neighbours = sorted({p for i in inside for p in neighbours_of[i]}, key=lambda p: p.origin)
        sides = {neighbour.side for neighbour in neighbours}
        if not neighbours:
            origin = min(keys[i] for i in inside)
            new_origins[min(fresh[keys[i]].group for i in inside)].append((origin, inside))
            continue
        side: Side = neighbours[0].side if len(sides) == 1 else "neither"
        by_request |= {keys[i]: Assignment(origin=neighbours[0].origin, side=side) for i in inside}
    for origins in new_origins.values():
        held_out = _held_out([origin for origin, _ in origins]) if hold_out else set()
        for origin, inside in origins:
            assignment = Assignment(origin=origin, side="holdout" if origin in held_out else "train")
            by_request |= {keys[i]: assignment for i in inside}
    return by_request


def _held_out(origins: list[str]) -> set[str]:
    """The new origins of one answer that are held out."""
    by_fraction = sorted(origins, key=lambda origin: stable_fraction("held out", origin))
    if len(by_fraction) == 1:
        return {by_fraction[0]} if stable_fraction("alone", by_fraction[0]) < HELD_OUT else set()
    return set(by_fraction[: max(1, round(len(by_fraction) * HELD_OUT))])
