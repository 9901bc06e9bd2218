"""Preferences: what people think of answers, read from ratings and imported conversations by a pure function.

    thumb       one answer that a person found good or bad (a thumb, a star, a rating)
    correction  the answer that a person wrote, and the one that it replaces
    siblings    two answers to one request, one found good and one bad by the same person
    vote        the better and the worse of two answers, by a person who chose between them

Nothing is trained on them yet. A signal of a source that is not admitted is kept and weighs nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from academy.experience.experience import Experience
from academy.experience.feedback import BAD, GOOD
from academy.experience.ratings import Rating
from academy.experience.wording import signs, wording
from academy.records import Record, digest_of

Kind = Literal["thumb", "correction", "siblings", "vote"]
MOST_OF_ADDRESS = 50
"""Signals of one address whose source is not trusted; with more, none of them counts."""


class Signal(Record):
    """One preference. `chosen` or `rejected` is empty for a thumb down or up."""

    kind: Kind
    messages: tuple[dict[str, str], ...]
    chosen: str = ""
    rejected: str = ""
    source: str
    at: str
    adapters: tuple[str, ...]  # of the answers, by digest; empty: imported, or a person's own words
    versions: tuple[str, ...]
    weight: float  # 0: its source is not admitted
    address: str = ""
    ratings: tuple[str, ...] = ()  # names of the ratings that it comes from

    def on_policy(self, adapter: str) -> bool:
        """Whether every answer of a model in it is this adapter's own."""
        return bool(self.adapters) and set(self.adapters) == {adapter}


class Preferences(Record):
    """The signals, and why others are none, counted."""

    signals: tuple[Signal, ...]
    reasons: dict[str, int]

    @property
    def kinds(self) -> dict[str, int]:
        """Numbers of the signals that weigh something, by kind."""
        return dict(sorted(Counter(signal.kind for signal in self.signals if signal.weight).items()))


def read_preferences(
    ratings: Iterable[Rating], lessons: Sequence[Experience] = (), trusted: Sequence[str] = ()
) -> Preferences:
    """The preferences in ratings (in order) and in imported conversations.

    Each problem is a reason with its count: thumbs both ways by one person on one text, too many signals of one
    address, sides that are the same, answers to different requests, a refused source.
    """
    reasons: Counter[str] = Counter()
    signals: list[Signal] = []
    by_request: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for rating in _latest(ratings, reasons):
        if rating.standing == "refused":
            reasons["a person refused it"] += 1
            continue
        if rating.over:
            signals += _kept(_vote(rating), reasons)
        if rating.feedback.get("correction"):
            signals += _kept(_correction(rating), reasons)
        elif _opinion(rating.feedback):
            by_request[rating.source, digest_of(rating.messages)].append(rating)
        elif not rating.over:
            reasons["no opinion: a comment, or a rating in the middle"] += 1
    for same_request in by_request.values():
        signals += _opinions(same_request, reasons)
    signals += [signal for lesson in lessons for signal in _kept(_imported_correction(lesson), reasons)]
    signals += _imported_siblings(lessons, reasons)
    signals = _without_floods(signals, frozenset(trusted), reasons)
    waiting = sum(not signal.weight for signal in signals)
    if waiting:
        reasons["it waits for a person's decision, and weighs nothing"] = waiting
    return Preferences(signals=tuple(signals), reasons=dict(sorted(reasons.items())))


def _latest(ratings: Iterable[Rating], reasons: Counter[str]) -> list[Rating]:
    """The last rating of each person on each answer: what was said before is part of it. Votes stand for themselves.

    Anonymous people are not one person, so each of their ratings counts.
    """
    latest: dict[Any, Rating] = {}
    for rating in ratings:
        person = rating.name if rating.source == "anonymous" else rating.source
        key = (person, rating.completion, rating.over.get("id", ""))
        if key in latest:
            reasons["the same person rated this answer again"] += 1
        latest[key] = rating
    return list(latest.values())


def _opinion(feedback: dict[str, Any]) -> Literal["up", "down", ""]:
    if feedback.get("thumb") in ("up", "down") and not feedback.get("gold_star"):
        return "up" if feedback["thumb"] == "up" else "down"
    rating = int(feedback.get("rating") or 0)
    if feedback.get("gold_star") or rating >= GOOD:
        return "up"
    return "down" if 0 < rating <= BAD else ""


def _opinions(ratings: Sequence[Rating], reasons: Counter[str]) -> list[Signal]:
    """Thumbs of one person on the answers to one request, and the pairs that they make."""
    by_answer: dict[Any, list[Rating]] = defaultdict(list)
    for rating in ratings:
        by_answer[_same(rating.answer)].append(rating)
    clear: list[Rating] = []
    for same_answer in by_answer.values():
        if len({_opinion(rating.feedback) for rating in same_answer}) > 1:
            reasons["thumbs both ways by one person"] += len(same_answer)
        else:
            clear.append(same_answer[-1])
            if len(same_answer) > 1:
                reasons["the same person rated this answer again"] += len(same_answer) - 1
    good, bad = ([rating for rating in clear if _opinion(rating.feedback) == side] for side in ("up", "down"))
    return [
        *(_signal("thumb", rating, chosen=rating.answer) for rating in good),
        *(_signal("thumb", rating, rejected=rating.answer) for rating in bad),
        *(_signal("siblings", up, down, chosen=up.answer, rejected=down.answer) for up in good for down in bad),
    ]


def _signal(kind: Kind, *ratings: Rating, chosen: str = "", rejected: str = "", over: str = "") -> Signal:
    first = ratings[0]
    adapters = dict.fromkeys([*(rating.adapter for rating in ratings if rating.adapter), *([over] if over else [])])
    return Signal(
        kind=kind, messages=tuple(first.messages), chosen=chosen, rejected=rejected, source=first.source,
        at=max(rating.at for rating in ratings), adapters=tuple(adapters),
        versions=tuple(dict.fromkeys(rating.version for rating in ratings)), address=first.address,
        weight=float(all(rating.standing == "admitted" for rating in ratings)),
        ratings=tuple(rating.name for rating in ratings),
    )  # fmt: skip


def _vote(rating: Rating) -> Signal | str:
    *messages, answer = rating.over["messages"]
    if list(messages) != rating.messages:
        return "a preference between answers to different requests"
    worse = str(answer["content"])
    return _signal("vote", rating, chosen=rating.answer, rejected=worse, over=str(rating.over.get("adapter") or ""))


def _correction(rating: Rating) -> Signal:
    return _signal("correction", rating, chosen=rating.teaches, rejected=rating.answer)


def _imported_correction(lesson: Experience) -> Signal | str:
    if not lesson.rejected or lesson.provenance["batch"].startswith("gateway-"):  # the gateway's are ratings
        return ""
    return _of_lesson("correction", lesson, lesson.answer, lesson.rejected)


def _imported_siblings(lessons: Sequence[Experience], reasons: Counter[str]) -> list[Signal]:
    """Pairs of one imported conversation: the same request in the same thread, one success and one failure."""
    by_request: dict[Any, list[Experience]] = defaultdict(list)
    for lesson in lessons:
        if lesson.thread and lesson.kind == "conversation" and not lesson.batch.startswith("gateway-"):
            by_request[lesson.thread, lesson.context, lesson.request].append(lesson)
    pairs = [
        _of_lesson("siblings", good, good.answer, bad.answer)
        for same_request in by_request.values()
        for good in same_request
        for bad in same_request
        if (good.outcome, bad.outcome) == ("success", "failure")
    ]
    return [signal for pair in pairs for signal in _kept(pair, reasons)]


def _of_lesson(kind: Kind, lesson: Experience, chosen: str, rejected: str) -> Signal:
    messages = [*(turn.model_dump() for turn in lesson.context), {"role": "user", "content": lesson.request}]
    return Signal(
        kind=kind, messages=tuple(messages), chosen=chosen, rejected=rejected, source=lesson.author or "import",
        at=lesson.at, adapters=(lesson.adapter,) if lesson.adapter else (), versions=(), weight=1.0,
    )  # fmt: skip


def _kept(signal: Signal | str, reasons: Counter[str]) -> list[Signal]:
    """The signal if it says something; otherwise its reason is counted."""
    if isinstance(signal, str):
        if signal:
            reasons[signal] += 1
        return []
    if signal.chosen and signal.rejected and _same(signal.chosen) == _same(signal.rejected):
        reasons["both sides are the same"] += 1
        return []
    return [signal]


def _same(text: str) -> Any:
    """What makes two answers the same: their words, and what they have of code."""
    return wording(text), signs(text), "" if wording(text) else " ".join(text.split())


def _without_floods(signals: Sequence[Signal], trusted: frozenset[str], reasons: Counter[str]) -> list[Signal]:
    counts = Counter(signal.address for signal in signals if signal.address and signal.source not in trusted)
    floods = {address for address, count in counts.items() if count > MOST_OF_ADDRESS}
    kept = [signal for signal in signals if signal.source in trusted or signal.address not in floods]
    if len(kept) < len(signals):
        reasons[f"more than {MOST_OF_ADDRESS} signals of one address"] += len(signals) - len(kept)
    return kept
