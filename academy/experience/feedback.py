"""A user's feedback on an answer: the names of its fields and how their values are read, for imports and the gateway.

Feedback that cannot be read is a reason with the name of the field, so that no answer is learned against it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from academy.experience.experience import Outcome
from academy.models.dialects import VOTES
from academy.records import Record

GOOD, BAD = 4, 2
"""An answer rated at least GOOD is a success, at most BAD a failure."""
NAMES = {
    "thumb": ("thumb", "thumbs", "vote", "thumbs_up", "thumb_up", "thumbs_down", "thumb_down"),
    "rating": ("rating", "stars"),
    "gold_star": ("gold_star", "gold", "is_gold_star"),
    "correction": ("correction", "corrected_answer"),
    "comment": ("comment", "reason", "note"),
}
"""Every name of each field."""
SCALES = ("scale", "out_of", "max_rating")
"""Names of a rating's scale."""
NOTES = frozenset(
    {"id", "user", "user_id", "author", "at", "date", "time", "timestamp", "created_at", "updated_at", "source", "tags"}
)
"""Fields of feedback that say who gave it and when; they are not stored."""
UP = frozenset({"up", "+1", "1", "1.0", "true", "like", "liked", "upvote", "thumb_up", "thumbs_up", "thumbsup", "👍"})
DOWN = frozenset(
    {"down", "-1", "-1.0", "false", "dislike", "disliked", "downvote", "thumb_down", "thumbs_down", "thumbsdown", "👎"}
)

BESIDE = (*NAMES["thumb"], "rating", "gold_star", "is_gold_star", "correction", *SCALES)
"""Fields that may stand beside a text, without an object around them."""
BAD_IF_FALSE = ("is_correct", "correct", "passed", "accepted", "approved", "helpful")
BAD_IF_TRUE = ("rejected", "deleted", "is_deleted")
"""Fields beside a text that are a thumb down at this value. The other value says less: it may be a default."""
_FIELD = {name: field for field, names in NAMES.items() for name in names}
_FRACTION = re.compile(r"(-?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_STARS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:stars?|⭐|★)", re.IGNORECASE)
_SCALE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:\.\.+|-|–|to)\s*(\d+(?:\.\d+)?)")
_SKIN = re.compile("[\U0001f3fb-\U0001f3ff️]")
_FIGURES = re.compile(r"[\d\s./%+★☆⭐-]+")


class Feedback(Record):
    """A user's feedback on an answer."""

    rating: int = 0  # 1 to 5; 0: not rated
    gold_star: bool = False
    thumb: str = ""  # up, down
    correction: str = ""
    comment: str = ""

    @property
    def is_given(self) -> bool:
        """Whether there is any feedback; a comment alone rates nothing."""
        return bool(self.rating or self.gold_star or self.thumb or self.correction)

    @property
    def outcome(self) -> Outcome:
        """A star or a correction means success; otherwise the thumb decides, then the rating."""
        if self.gold_star or self.correction:
            return "success"
        if self.thumb:
            return "success" if self.thumb == "up" else "failure"
        return "success" if self.rating >= GOOD else "failure" if 0 < self.rating <= BAD else "unknown"

    @property
    def values(self) -> dict[str, Any]:
        """The fields that were set, under their first names."""
        return self.model_dump(exclude_defaults=True)


class Unreadable(NamedTuple):
    """A field of feedback that cannot be read, and why."""

    field: str
    because: str


def read_feedback(raw: Any) -> Feedback | Unreadable:
    """Feedback from an object, or from a text: a thumb, or a comment in words."""
    if raw is None:
        return Feedback()
    if isinstance(raw, str):
        if thumb := _thumb(raw):
            return Feedback(thumb=thumb)
        if raw.strip() and _FIGURES.fullmatch(raw):
            return Unreadable("feedback", f"feedback {raw[:20]!r} does not say whether it is a rating or a thumb")
        return Feedback(comment=raw.strip())
    if not isinstance(raw, Mapping):
        return Unreadable("feedback", "feedback is not an object")
    values: dict[str, Any] = {}
    for name, value in raw.items():
        if value in (None, "") or name in NOTES or name in SCALES:
            continue
        field = _FIELD.get(name)
        if field is None:
            return Unreadable(str(name)[:40], f"feedback has the unknown field {str(name)[:40]!r}")
        read = _READERS[field](name, value, raw)
        if isinstance(read, Unreadable):
            return read
        for other_field, other in read.items():
            if values.setdefault(other_field, other) != other:
                return Unreadable(other_field, f"feedback names two values of {other_field}")
    return Feedback(**values)


def feedback_beside(holder: Mapping[str, Any]) -> Feedback | Unreadable:
    """The feedback of a line or a message: under `feedback` or `annotation`, or field by field beside its text."""
    raw = holder.get("feedback")
    beside = {name: holder[name] for name in BESIDE if holder.get(name) is not None}
    if isinstance(votes := holder.get("annotation"), Mapping):  # Open WebUI: its rating is a thumb, 1 or -1
        beside["thumb"] = votes.get("rating")
        beside["comment"] = str(votes.get("comment") or "")
    if (vote := _vote(holder)) is not None:
        if beside.get("thumb") is not None and _thumb(beside["thumb"]) != _thumb(vote):
            return Unreadable("thumb", "feedback names two values of thumb")
        beside["thumb"] = vote
    if isinstance(scores := holder.get("scores"), list) and any(isinstance(score, Mapping) for score in scores):
        return Unreadable("scores", "scores have names of their own and cannot be read")
    if not beside:
        return read_feedback(raw)
    if raw is None or raw == "":
        return read_feedback(beside)
    if isinstance(raw, str):
        first, second = read_feedback(raw), read_feedback(beside)
    elif isinstance(raw, Mapping):
        overlap = [name for name in beside if name in raw and raw[name] != beside[name]]
        if overlap:
            return Unreadable(overlap[0], f"feedback names two values of {overlap[0]}")
        return read_feedback({**beside, **raw})
    else:
        return read_feedback(raw)
    if isinstance(first, Unreadable) or isinstance(second, Unreadable):
        return first if isinstance(first, Unreadable) else second
    if first.thumb and second.thumb and first.thumb != second.thumb:
        return Unreadable("thumb", "feedback names two values of thumb")
    return Feedback(**{**first.values, **second.values})


def _vote(holder: Mapping[str, Any]) -> bool | None:
    """The vote beside a text; None where there is none. `label` of 0 and 1 is one beside TRL's `completion` only."""
    if any(holder.get(name) is False for name in BAD_IF_FALSE) or any(holder.get(name) is True for name in BAD_IF_TRUE):
        return False
    for name in VOTES:
        value = holder.get(name)
        is_number = type(value) in (int, float) and value in (0, 1) and (name != "label" or "completion" in holder)
        if isinstance(value, bool) or is_number:
            return bool(value)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    return None


def _thumb(value: Any) -> str:
    word = _SKIN.sub("", str(value)).strip().strip(":").lower()
    names = {word, word.replace("-", "_").replace(" ", "_")}
    return "up" if names & UP else "down" if names & DOWN else ""


def _read_thumb(name: str, value: Any, _raw: Mapping[str, Any]) -> dict[str, Any] | Unreadable:
    if name in ("thumbs_up", "thumb_up", "thumbs_down", "thumb_down"):
        if not isinstance(value, bool) and value not in (0, 1, "true", "false"):
            return Unreadable(name, f"{name} is not true or false")
        is_set = value in (True, "true")
        return {"thumb": "up" if name.endswith("up") else "down"} if is_set else {}
    thumb = _thumb(value)
    return {"thumb": thumb} if thumb else Unreadable(name, f"{name} {str(value)[:40]!r} is not up or down")


def _read_rating(name: str, value: Any, raw: Mapping[str, Any]) -> dict[str, Any] | Unreadable:
    problem = Unreadable(name, f"{name} must be a whole number from 1 to 5, or say its scale ({str(value)[:20]})")
    if isinstance(value, str):
        if thumb := _thumb(value) if not _FIGURES.fullmatch(value) else "":
            return {"thumb": thumb}
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return problem
    scale = next((raw[key] for key in SCALES if raw.get(key) is not None), None)
    bounds = _bounds(scale)
    if scale is not None and bounds is None:
        return Unreadable("scale", f"scale {str(scale)[:20]!r} cannot be read (write 0..1 or 1..5)")
    number, bounds = _figure(value, bounds or (1.0, 5.0))
    if number is None or not bounds[0] <= number <= bounds[1] or bounds[0] >= bounds[1]:
        return problem
    stars = 1 + 4 * (number - bounds[0]) / (bounds[1] - bounds[0])
    # a doubtful rating moves towards the middle: it is neither learned nor held against the answer
    return {"rating": math.floor(stars + 1e-9) if stars >= 3 else math.ceil(stars - 1e-9)}


def _figure(value: Any, bounds: tuple[float, float]) -> tuple[float | None, tuple[float, float]]:
    """The number of a rating, and the bounds of the scale that its text states ("4/5", "80 %", "★★★☆☆")."""
    if not isinstance(value, str):
        return float(value), bounds
    text = value.strip()
    if match := _FRACTION.fullmatch(text):
        top = float(match[2])
        return float(match[1]), (1.0 if top == 5 else 0.0, top)
    if match := _PERCENT.fullmatch(text):
        return float(match[1]), (0.0, 100.0)
    if text and set(text) <= {"★", "☆", "⭐"}:
        return float(len(text) - text.count("☆")), bounds
    if match := _STARS.fullmatch(text):
        return float(match[1]), bounds
    try:
        return float(text), bounds
    except ValueError:
        return None, bounds


def _bounds(scale: Any) -> tuple[float, float] | None:
    """The ends of a stated scale: "0..1", [1, 5], or its top (1: from 0; more: from 1)."""
    if isinstance(scale, str) and (match := _SCALE.fullmatch(scale.strip())):
        return float(match[1]), float(match[2])
    if isinstance(scale, list) and len(scale) == 2 and all(type(end) in (int, float) for end in scale):
        return float(scale[0]), float(scale[1])
    try:
        top = float(scale) if isinstance(scale, str | int | float) and not isinstance(scale, bool) else 0.0
    except (ValueError, OverflowError):
        return None
    return (0.0 if top == 1 else 1.0, top) if 1 <= top <= 1000 else None


def _read_gold(name: str, value: Any, _raw: Mapping[str, Any]) -> dict[str, Any] | Unreadable:
    if isinstance(value, bool) or value in ("true", "false", "True", "False"):
        return {"gold_star": True} if str(value).lower() == "true" else {}
    return Unreadable(name, f"{name} is not true or false")


def _read_words(name: str, value: Any, _raw: Mapping[str, Any]) -> dict[str, Any] | Unreadable:
    if not isinstance(value, str):
        return Unreadable(name, f"{name} is not text")
    return {_FIELD[name]: value} if value.strip() else {}


_READERS = {
    "thumb": _read_thumb,
    "rating": _read_rating,
    "gold_star": _read_gold,
    "correction": _read_words,
    "comment": _read_words,
}
