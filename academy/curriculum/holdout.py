"""The hold-out register: which requests are trained on and which are examined, decided once and for ever.

A request and all that are near to it form one origin; an origin never straddles. A newcomer near a known request
joins its side; one near both sides goes to neither. Of the new origins of one answer about a fifth are held out
(at least one where there are two or more), chosen by a hash and not by order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import sqlalchemy as sa

from academy.curriculum.dataset import Example
from academy.curriculum.similarity import CHUNK, NEAR, Index, pairs_within, signatures, verified
from academy.errors import InputError
from academy.experience.reading import normalised
from academy.records import Record, digest_of, stable_fraction
from academy.store.database import Database, assignments

Side = Literal["train", "holdout", "neither", "retired"]
"""`retired`: it was examined until the hold-out was renewed. It is not trained on either; regression still asks it."""
HELD_OUT = 0.22
"""Share of an answer's wordings that are held out: two of nine."""


class GroupedRequest(Record):
    """A request to be assigned; `group` names its answer."""

    text: str
    suite: str
    group: str


class Assignment(Record):
    """Where a request belongs."""

    origin: str
    side: Side


class Renewal(Record):
    """What a renewal of the hold-out changed: origins, and the answers that the fresh ones have."""

    retired: int
    fresh: int
    groups: int


def request_key(suite: str, text: str) -> str:
    """The register's name for a request."""
    return digest_of([suite, normalised(text)])


class Holdout:
    """The register in SQL. It remembers the signatures of known requests (520 bytes each) and none of their texts."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[str, Index] = defaultdict(lambda: Index(NEAR))  # by suite; numbers are `seq`
        self._signed = 0  # the last `seq` among them

    def assign(
        self, requests: Iterable[GroupedRequest], connection: sa.Connection | None = None
    ) -> dict[str, Assignment]:
        """Places by request key. New requests are assigned and stored in one transaction, known ones keep theirs."""
        if connection is None:
            with self.database.write() as own:
                return self.assign(requests, own)
        wanted: dict[str, GroupedRequest] = {}
        for request in sorted(requests, key=lambda r: (r.group, r.text), reverse=True):
            wanted[request_key(request.suite, request.text)] = request  # of several answers the first group names it
        places = {}
        for row in _rows(connection, assignments.c.request, list(wanted)):
            places[row["request"]] = Assignment(origin=row["origin"], side=row["side"])
        rows = []
        if len(places) < len(wanted):
            self._sign(connection)
        for suite in sorted({request.suite for key, request in wanted.items() if key not in places}):
            fresh = {k: r for k, r in sorted(wanted.items()) if r.suite == suite and k not in places}
            found = _place(fresh, self._known[suite], connection)
            places |= found
            rows += [
                {"request": key, "text": normalised(fresh[key].text), "suite": suite, **place.model_dump()}
                for key, place in found.items()
            ]
        if rows:
            connection.execute(sa.insert(assignments), rows)
        return {key: places[key] for key in wanted}

    def examined(self, examples: Iterable[Example]) -> list[Example]:
        """Those of some held-out examples that are held out still: a renewal retires the others."""
        found = list(examples)
        keys = [request_key(example.suite, example.opening) for example in found]
        with self.database.read() as connection:
            retired = {
                row["request"] for row in _rows(connection, assignments.c.request, keys) if row["side"] == "retired"
            }
        return [example for example, key in zip(found, keys, strict=True) if key not in retired]

    def renew(
        self,
        examined: Iterable[GroupedRequest],
        seen: Iterable[GroupedRequest],
        unseen: Iterable[GroupedRequest],
        fewest: int,
        connection: sa.Connection,
    ) -> Renewal:
        """Retire what was examined, and hold out fresh requests in its place: whole origins that no dataset has seen.

        `seen` is everything that a dataset may have held, `unseen` what can be asked instead. As many origins as are
        retired are held out, more where they have fewer than `fewest` answers; of an answer's unseen origins at most
        half, so that the others can teach it. Raises InputError, and changes nothing, where that is not enough.
        """
        old = {request_key(one.suite, one.text) for one in examined}
        known = {request_key(one.suite, one.text) for one in seen} | old
        new = {request_key(one.suite, one.text): one for one in unseen}
        retired = {
            row["origin"] for row in _rows(connection, assignments.c.request, sorted(old)) if row["side"] == "holdout"
        }
        offered = {
            row["request"]: row for row in _rows(connection, assignments.c.request, sorted(new.keys() - known))
        }  # fmt: skip
        origins = sorted({row["origin"] for row in offered.values()})
        # a text that is gone was forgotten: nobody can say what had seen it
        tainted = {
            row["origin"]
            for row in _rows(connection, assignments.c.origin, origins)
            if row["request"] in known or not row["text"]
        }
        fresh: dict[str, set[str]] = defaultdict(set)  # origins by group
        others: dict[str, set[str]] = defaultdict(set)
        for key, row in offered.items():
            sides = {"holdout": fresh, "train": others}
            if row["origin"] not in tainted and row["side"] in sides:
                sides[row["side"]][new[key].group].add(row["origin"])
        held = set().union(*fresh.values())
        chosen = []
        for group, there in others.items():
            already = len(fresh[group])
            room = max(0, (len(there) + already) // 2 - already)
            drawn = sorted((stable_fraction("renewed", origin), origin) for origin in there - held)
            chosen += [(already + n, by_chance, origin, group) for n, (by_chance, origin) in enumerate(drawn[:room])]
        groups = {group for group, there in fresh.items() if there}
        moved: set[str] = set()
        for _, _, origin, group in sorted(chosen):  # an answer that has none yet comes first
            if len(held | moved) >= len(retired) and len(groups) >= fewest:
                break
            moved.add(origin)
            groups.add(group)
        if len(groups) < fewest:
            raise InputError(
                f"Only {len(groups)} answers among the lessons that no dataset has seen can be examined; {fewest} are "
                "needed.",
                "Import new lessons with answers of their own in two wordings or more, and renew before you train on "
                "them.",
            )
        for some, side in ((retired, "retired"), (moved, "holdout")):
            ordered = sorted(some)
            for begin in range(0, len(ordered), 500):
                chunk = assignments.c.origin.in_(ordered[begin : begin + 500])
                connection.execute(
                    sa.update(assignments).where(chunk, assignments.c.suite == "recall").values(side=side)
                )
        return Renewal(retired=len(retired), fresh=len(held | moved), groups=len(groups))

    def _sign(self, connection: sa.Connection) -> None:
        """Sign what was stored since the last time, by whomever."""
        query = sa.select(assignments.c.seq, assignments.c.suite, assignments.c.text).where(
            assignments.c.seq > self._signed
        )
        found = connection.execute(query.order_by(assignments.c.seq).execution_options(yield_per=CHUNK))
        for part in found.partitions():
            for suite in sorted({row.suite for row in part}):
                mine = [row for row in part if row.suite == suite]
                self._known[suite].add(np.array([row.seq for row in mine]), *signatures([row.text for row in mine]))
            self._signed = part[-1].seq


def _rows(connection: sa.Connection, column: sa.Column[Any], values: Sequence[Any]) -> Iterator[sa.RowMapping]:
    """Rows of the register by the values of one column, a few hundred at a time."""
    for begin in range(0, len(values), 500):
        query = sa.select(assignments).where(column.in_(values[begin : begin + 500]))
        yield from connection.execute(query).mappings()


def _place(fresh: dict[str, GroupedRequest], known: Index, connection: sa.Connection) -> dict[str, Assignment]:
    """Places for new requests (by key, sorted) beside the known ones of the same suite."""
    keys = list(fresh)
    leader = list(range(len(keys)))  # union-find over the new ones

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    bands, small = signatures([fresh[key].text for key in keys])
    beside: dict[int, set[Assignment]] = defaultdict(set)
    old, row = known.candidates(bands, small)
    rows = {found["seq"]: found for found in _rows(connection, assignments.c.seq, sorted(set(old.tolist())))}
    pairs = [(-i, j) for i, j in zip(old.tolist(), row.tolist(), strict=True) if i in rows]  # known ones count down

    def texts(numbers: list[int]) -> list[str]:
        return [rows[-n]["text"] if n < 0 else fresh[keys[n]].text for n in numbers]

    for i, j, _ in verified(pairs, texts, NEAR):
        beside[j].add(Assignment(origin=rows[-i]["origin"], side=rows[-i]["side"]))
    first, second = pairs_within(bands, small, NEAR)
    own = zip(first.tolist(), second.tolist(), strict=True)
    for i, j, _ in verified(own, texts, NEAR, settled=lambda i, j: root(i) == root(j)):
        low, high = sorted((root(i), root(j)))
        leader[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        members[root(i)].append(i)

    places: dict[str, Assignment] = {}
    new_origins: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
    for inside in members.values():
        neighbours = sorted({p for i in inside for p in beside[i]}, key=lambda place: place.origin)
        sides = {place.side for place in neighbours}
        if not neighbours:
            origin = min(keys[i] for i in inside)
            new_origins[min(fresh[keys[i]].group for i in inside)].append((origin, inside))
            continue
        side: Side = neighbours[0].side if len(sides) == 1 else "neither"
        places |= {keys[i]: Assignment(origin=neighbours[0].origin, side=side) for i in inside}
    for origins in new_origins.values():
        held = _held_out([origin for origin, _ in origins])
        for origin, inside in origins:
            place = Assignment(origin=origin, side="holdout" if origin in held else "train")
            places |= {keys[i]: place for i in inside}
    return places


def _held_out(origins: list[str]) -> set[str]:
    """The share of one answer's new origins that is held out."""
    ranked = sorted(origins, key=lambda origin: stable_fraction("held out", origin))
    if len(ranked) == 1:
        return {ranked[0]} if stable_fraction("alone", ranked[0]) < HELD_OUT else set()
    return set(ranked[: max(1, round(len(ranked) * HELD_OUT))])
