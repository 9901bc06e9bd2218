"""The hold-out register: which requests are trained on and which are examined, decided once and for ever.

A request and all that are near to it form one origin; an origin never straddles. A newcomer near a known request
joins its side; one near both sides goes to neither. Of the new origins of one answer about a fifth are held out
(at least one where there are two or more), chosen by a hash and not by order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import sqlalchemy as sa

from academy.artifacts import Record, digest_of, stable_fraction
from academy.curriculum.nearness import near_pairs
from academy.database import Database, register
from academy.experience.lessons import normalised

Side = Literal["train", "holdout", "neither"]
HELD_OUT = 0.22
"""Share of an answer's wordings that are held out: two of nine."""


class Request(Record):
    """A request to be assigned; `group` names its answer."""

    text: str
    suite: str
    group: str


class Place(Record):
    """Where a request belongs."""

    origin: str
    side: Side


def request_key(suite: str, text: str) -> str:
    """The register's name for a request."""
    return digest_of([suite, normalised(text)])


class HoldOutRegister:
    """The register in SQL."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def assign(self, requests: Iterable[Request]) -> dict[str, Place]:
        """Places by request key. New requests are assigned and stored in one transaction, known ones keep theirs."""
        wanted: dict[str, Request] = {}
        for request in sorted(requests, key=lambda r: (r.group, r.text), reverse=True):
            wanted[request_key(request.suite, request.text)] = request  # of several answers the first group names it
        with self.database.write() as connection:
            known = connection.execute(sa.select(register).order_by(register.c.seq)).mappings().all()
            places = {row["request"]: Place(origin=row["origin"], side=row["side"]) for row in known}
            rows = []
            for suite in sorted({request.suite for request in wanted.values()}):
                fresh = {k: r for k, r in sorted(wanted.items()) if r.suite == suite and k not in places}
                old = [row for row in known if row["suite"] == suite]
                found = _place(fresh, [(row["text"], Place(origin=row["origin"], side=row["side"])) for row in old])
                places |= found
                rows += [
                    {"request": key, "text": normalised(fresh[key].text), "suite": suite, **place.model_dump()}
                    for key, place in found.items()
                ]
            if rows:
                connection.execute(sa.insert(register), rows)
        return {key: places[key] for key in wanted}


def _place(fresh: dict[str, Request], known: list[tuple[str, Place]]) -> dict[str, Place]:
    """Places for new requests (by key, sorted) beside the known ones of the same suite."""
    keys = list(fresh)
    texts = [text for text, _ in known] + [fresh[key].text for key in keys]
    leader = list(range(len(keys)))  # union-find over the new ones

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = i = leader[leader[i]]
        return i

    beside: dict[int, set[Place]] = defaultdict(set)
    first = len(known)
    for i, j, _ in near_pairs(texts, new_from=first):
        if i < first:
            beside[j - first].add(known[i][1])
        else:
            low, high = sorted((root(i - first), root(j - first)))
            leader[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for i in range(len(keys)):
        members[root(i)].append(i)

    places: dict[str, Place] = {}
    new_origins: dict[str, list[tuple[str, list[int]]]] = defaultdict(list)
    for inside in members.values():
        neighbours = sorted({p for i in inside for p in beside[i]}, key=lambda place: place.origin)
        sides = {place.side for place in neighbours}
        if not neighbours:
            origin = min(keys[i] for i in inside)
            new_origins[min(fresh[keys[i]].group for i in inside)].append((origin, inside))
            continue
        side: Side = neighbours[0].side if len(sides) == 1 else "neither"
        places |= {keys[i]: Place(origin=neighbours[0].origin, side=side) for i in inside}
    for origins in new_origins.values():
        held = _held_out([origin for origin, _ in origins])
        for origin, inside in origins:
            place = Place(origin=origin, side="holdout" if origin in held else "train")
            places |= {keys[i]: place for i in inside}
    return places


def _held_out(origins: list[str]) -> set[str]:
    """The share of one answer's new origins that is held out."""
    ranked = sorted(origins, key=lambda origin: stable_fraction("held out", origin))
    if len(ranked) == 1:
        return {ranked[0]} if stable_fraction("alone", ranked[0]) < HELD_OUT else set()
    return set(ranked[: max(1, round(len(ranked) * HELD_OUT))])
