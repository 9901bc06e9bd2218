"""The review: what sources that are not trusted would teach, and a person's decision to admit or refuse it.

A rating of the gateway whose source is not in ACADEMY_TRUSTED_KEYS waits here, and so does a file that was imported as
untrusted. Nothing of it is trained on before a person admits it. What was admitted is trained on and never examined.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from academy.access.user_keys import IMPORTED
from academy.border.plain_text import visible
from academy.curriculum.contradictions import contradicting_trusted
from academy.curriculum.filters import reason_to_drop
from academy.errors import InputError
from academy.experience.experience import Experience
from academy.experience.importing import UNTRUSTED
from academy.experience.ratings import Rating, Ratings, Selection, Standing
from academy.experience.reading import row_to_experience
from academy.experience.standings import admit_waiting, refuse
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger_rows import ReviewEntry

__all__ = ["Review", "Reviewed", "Selection", "admit", "open_review", "turn_down"]
ADMITTED = ("active", "set aside", "undone", "superseded")
"""Standings of lessons that a person admitted; some may come back."""
SAMPLES = 3
"""What is shown of each source, at first."""


class Sample(Record):
    """Something that would be learned. `item` is its name; `contradicts`: a trusted lesson answers otherwise.

    Letters without a shape are escapes in its texts.
    """

    item: str
    before: str  # the earlier messages, calls and results included, and the tools
    request: str
    answer: str  # with its calls
    outcome: str
    contradicts: bool
    because: str = ""  # why curation would drop it


class WaitingSource(Record):
    """What waits of one source."""

    source: str
    waiting: int
    lessons: int  # of them, how many would be learned: successes that curation does not drop
    addresses: dict[str, int]  # of the ratings
    batches: dict[str, int]
    contradicting: int
    samples: tuple[Sample, ...]


class Review(Record):
    """What waits for a person's decision."""

    sources: tuple[WaitingSource, ...]
    ratings: dict[str, int]  # by standing
    kept_out: dict[str, int]  # ratings over a quota, by reason
    trusted: tuple[str, ...]  # sources whose ratings do not wait


class Reviewed(Record):
    """The numbers that a decision was about."""

    ratings: int
    lessons: int


class _Item(NamedTuple):
    """A waiting rating or lesson as the experience that it would be."""

    name: str
    source: str
    address: str
    experience: Experience


def open_review(home: Home, samples: int = SAMPLES, selection: Selection | None = None) -> Review:
    """What waits, by source; what contradicts trusted lessons comes first among the samples.

    The others are drawn by chance: anyone who wrote them does not know which ones a person sees.
    """
    ratings = Ratings(home.database)
    items = [*map(_of_rating, ratings.read("waiting", selection=selection)), *_imported(home, selection)]
    experiences = [item.experience for item in items]
    contradicting = set(_contradicting(home, experiences))
    reasons = {experience.id: reason_to_drop(experience) for experience in experiences}
    chance = random.SystemRandom()
    by_source: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        by_source[item.source].append(item)
    sources: list[WaitingSource] = []
    for source, group in sorted(by_source.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        drawn = {item.name: chance.random() for item in group}
        order = sorted(group, key=lambda item: (item.experience.id not in contradicting, drawn[item.name]))[:samples]
        order.sort(key=lambda item: (item.experience.id not in contradicting, item.experience.at, item.name))
        sources.append(
            WaitingSource(
                source=source,
                waiting=len(group),
                lessons=sum(not reasons[item.experience.id] for item in group),
                addresses=dict(Counter(item.address for item in group if item.address).most_common()),
                batches=dict(Counter(item.experience.batch for item in group)),
                contradicting=sum(item.experience.id in contradicting for item in group),
                samples=tuple(
                    _sample(item, contradicts=item.experience.id in contradicting, because=reasons[item.experience.id])
                    for item in order
                ),
            )
        )  # fmt: skip
    return Review(
        sources=tuple(sources), ratings=ratings.counts(), kept_out=ratings.kept_out(),
        trusted=home.settings.trusted_keys,
    )  # fmt: skip


def admit(home: Home, selection: Selection, *, by: str, because: str = "") -> Reviewed:
    """Admit what waits and fits a selection: it is trained on. Raises InputError where nothing does."""
    chosen, imported = _chosen(home, selection, ("waiting",))
    trusted = frozenset(home.settings.trusted_keys)
    with home.database.write() as connection:
        for rating in chosen:
            if rating.feedback:
                home.store.keep([rating.lesson_row(trusted)], connection)
        Ratings(home.database).decide(chosen, "admitted", _decision(by, because), connection)
        admit_waiting([lesson.id for lesson in imported], connection)
        return _record(home, selection, chosen, imported, by=by, because=because, admitted=True, connection=connection)


def turn_down(home: Home, selection: Selection, *, by: str, because: str = "", erase: bool = False) -> Reviewed:
    """Refuse what waits or was admitted before and fits a selection. Raises InputError where nothing does.

    `erase` deletes the ratings with their texts. What an adapter has learned stays in its weights.
    """
    chosen, imported = _chosen(home, selection, ("waiting", "admitted"))
    ids = [rating.lesson for rating in chosen] + [lesson.id for lesson in imported]
    with home.database.write() as connection:
        Ratings(home.database).decide(chosen, "refused", _decision(by, because), connection)
        for begin in range(0, len(ids), 500):
            refuse(ids[begin : begin + 500], connection)
        if erase:
            Ratings(home.database).erase(chosen, connection)
        reviewed = _record(
            home, selection, chosen, imported, by=by, because=because, admitted=False, connection=connection
        )  # fmt: skip
    if erase:
        home.database.scrub()
    return reviewed


def _decision(by: str, because: str) -> str:
    return f"{by}: {because}" if because else by


def _chosen(home: Home, selection: Selection, standings: Sequence[Standing]) -> tuple[list[Rating], list[Experience]]:
    """The ratings and imported lessons of a selection that a person may decide about."""
    if selection.is_open != selection.everything:
        raise InputError(
            "A decision needs a selection, or --all, and not both.",
            "Name a source (`academy review list` shows them), --batch, --item or --address; or add --all.",
        )
    trusted = home.settings.trusted_keys
    ratings = [
        rating
        for rating in Ratings(home.database).read(*standings, selection=selection)
        if rating.standing == "waiting" or rating.source not in trusted or rating.source in selection.sources
    ]
    lessons = [item.experience for item in _imported(home, selection, standings)]
    if not ratings and not lessons:
        what = "is waiting" if selection.everything else "that waits fits this selection"
        raise InputError(f"Nothing {what}.", "`academy review list` shows what waits.")
    return ratings, lessons


def _record(
    home: Home,
    selection: Selection,
    ratings: Sequence[Rating],
    lessons: Sequence[Experience],
    *,
    by: str,
    because: str,
    admitted: bool,
    connection: sa.Connection,
) -> Reviewed:
    fields = selection.model_dump(exclude={"everything"}, exclude_defaults=True)
    entry = ReviewEntry(
        admitted=admitted, selection=fields,
        ratings=len(ratings), lessons=len(lessons), by=by, because=because,
    )  # fmt: skip
    home.ledger.append(f"review:{datetime.now(UTC).isoformat()}", entry, connection)
    return Reviewed(ratings=len(ratings), lessons=len(lessons))


def _sample(item: _Item, *, contradicts: bool, because: str) -> Sample:
    experience = item.experience
    before = [f"{turn.role}: {turn.words}" for turn in experience.before]
    before += [f"tool: {tool.name}: {tool.description} {tool.parameters}" for tool in experience.trace.tools]
    thoughts = [f"(thinks) {experience.trace.reasoning}"] if experience.trace.reasoning else []
    return Sample(
        item=item.name, before=visible("\n".join(before)), request=visible(experience.request),
        answer=visible("\n".join([*thoughts, experience.words])), outcome=experience.outcome,
        contradicts=contradicts, because=because,
    )  # fmt: skip


def _of_rating(rating: Rating) -> _Item:
    row = {**rating.lesson_row(()), "seq": 0}
    lesson = row_to_experience(row).model_copy(update={"batch": rating.batch})
    return _Item(rating.name, rating.source, rating.address, lesson)


def _imported(home: Home, selection: Selection | None, standings: Sequence[str] = ("waiting",)) -> list[_Item]:
    """The lessons of files that were imported as untrusted."""
    chosen = selection or Selection()
    if chosen.addresses or (chosen.sources and IMPORTED not in chosen.sources):
        return []
    rows = home.store.untrusted("waiting", *(ADMITTED if "admitted" in standings else ()))
    return [
        _Item(lesson.id[:12], IMPORTED, "", lesson)
        for lesson in rows
        if (lesson.author == IMPORTED or not lesson.batch.startswith("gateway-"))
        and (not chosen.batches or {lesson.batch, lesson.batch.removesuffix(UNTRUSTED)} & {*chosen.batches})
        and (not chosen.items or any(lesson.id.startswith(item) for item in chosen.items if len(item) >= 8))
    ]


def _contradicting(home: Home, waiting: Iterable[Experience]) -> Iterable[str]:
    successes = [experience for experience in waiting if experience.outcome == "success"]
    trusted = [lesson for lesson in home.store.read() if lesson.trusted and lesson.outcome == "success"]
    return contradicting_trusted([*trusted, *successes]) if successes else ()
