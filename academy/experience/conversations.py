"""Conversations with feedback, and files of examples, as rows for the store.

A line is a conversation in one of the four formats, perhaps with `id`, `user`, `domain`, `type` and `feedback`
(`rating` 1 to 5, `gold_star`, `thumbs` "up" or "down", `correction`), for the whole or at single messages. Every answer
that somebody rated becomes an experience of its own, with what was said before; where nobody rated anything the last
answer does, as made by a model and with an unknown outcome, so it is kept and not trained on. A correction replaces
the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from academy.experience.reading import make_row, now
from academy.experience.source import Kind, Outcome, read_outcome
from academy.models.chat_template import Message
from academy.models.formats import ROLES, read_row
from academy.records import Record, digest_of

GOOD, BAD = 4, 2
"""Ratings from which on, and up to which, an answer counts as a success or a failure."""


class ConversationFilter(Record):
    """Which conversations of a file are wanted; empty means all."""

    users: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    gold_only: bool = False

    def refuses(self, line: Mapping[str, Any]) -> bool:
        """Whether a line is left out by user, domain or type."""
        return any(
            wanted and str(line.get(name) or "") not in wanted
            for name, wanted in (("user", self.users), ("domain", self.domains), ("type", self.types))
        )


class Feedback(Record):
    """What somebody said of an answer."""

    rating: int = 0
    gold: bool = False
    thumbs: str = ""
    correction: str = ""

    @property
    def given(self) -> bool:
        """Whether anybody said anything."""
        return bool(self.rating or self.gold or self.thumbs or self.correction)

    @property
    def outcome(self) -> Outcome:
        """A star or a correction settles it; then thumbs, then the rating."""
        if self.gold or self.correction:
            return "success"
        if self.thumbs in ("up", "down"):
            return "success" if self.thumbs == "up" else "failure"
        return "success" if self.rating >= GOOD else "failure" if 0 < self.rating <= BAD else "unknown"


def conversation_rows(
    line: Mapping[str, Any], kind: Kind, batch: str, wanted: ConversationFilter
) -> list[dict[str, Any]] | str:
    """The rows of one line (none where it is not wanted), or the reason why it cannot be read.

    `kind` "conversation" reads feedback; "file" takes each line as an example that worked.
    """
    if wanted.refuses(line):
        return []
    messages = read_row(line)
    if isinstance(messages, str):
        return messages
    answers = [n for n, message in enumerate(messages) if n and message["role"] == "assistant"]
    answers = [n for n in answers if messages[n - 1]["role"] == "user"]
    if not answers:
        return "no answer that follows a request"
    said = _feedback_by_turn(line, messages, answers)
    if isinstance(said, str):
        return said
    if kind == "file":
        return [_row(line, messages, answers[-1], kind, batch, Feedback())]
    if wanted.gold_only:
        return [_row(line, messages, n, kind, batch, said[n]) for n in answers if n in said and said[n].gold]
    chosen = [n for n in answers if n in said and said[n].given] or answers[-1:]
    return [_row(line, messages, n, kind, batch, said.get(n, Feedback())) for n in chosen]


def _feedback_by_turn(
    line: Mapping[str, Any], messages: list[Message], answers: list[int]
) -> dict[int, Feedback] | str:
    """Feedback by message; what was said of the whole conversation goes to its last answer."""
    turns = line.get("messages") or line.get("conversations") or []
    own = [
        turn.get("feedback")
        for turn in turns
        if isinstance(turn, dict) and ROLES.get(str(turn.get("role") or turn.get("from")).lower())
    ]
    found: dict[int, Feedback] = {}
    for n in answers:
        raw = own[n] if len(own) == len(messages) and own[n] else line.get("feedback") if n == answers[-1] else None
        feedback = _feedback(raw)
        if isinstance(feedback, str):
            return feedback
        found[n] = feedback
    return found


def _feedback(raw: Any) -> Feedback | str:
    if raw is None or isinstance(raw, str):  # words are kept by the store; they rate nothing
        return Feedback()
    if not isinstance(raw, dict):
        return "feedback must be an object"
    rating = raw.get("rating") or 0
    if isinstance(rating, bool) or not isinstance(rating, int) or not 0 <= rating <= 5:
        return "rating must be a whole number from 1 to 5"
    thumbs = {"up": "up", "1": "up", "true": "up", "down": "down", "-1": "down", "false": "down"}
    return Feedback(
        rating=rating,
        gold=any(raw.get(name) is True for name in ("gold_star", "gold", "is_gold_star")),
        thumbs=thumbs.get(str(raw.get("thumbs", "")).lower(), ""),
        correction=str(raw.get("correction") or ""),
    )


def _row(
    line: Mapping[str, Any], messages: list[Message], n: int, kind: Kind, batch: str, feedback: Feedback
) -> dict[str, Any]:
    outcome = feedback.outcome
    if kind == "file":
        outcome = read_outcome(line["outcome"]) if "outcome" in line else "success"
    labels = [f"{name}:{line[name]}" for name in ("domain", "type") if line.get(name)]
    thread = str(line.get("id") or line.get("conversation_id") or digest_of(messages)[:16])
    words = line.get("feedback")
    return make_row(
        kind=kind,
        situation=messages[n - 1]["content"],
        action=feedback.correction or messages[n]["content"],
        result="",
        feedback=words if isinstance(words, str) else "",
        tags=[*labels, *(str(tag) for tag in line.get("tags") or [])],
        outcome=outcome,
        author=str(line.get("user") or line.get("author") or ""),
        batch=batch,
        at=str(line.get("at") or line.get("created_at") or now()),
        extra={},
        rating=feedback.rating,
        gold=feedback.gold,
        model_made=kind == "conversation" and not (feedback.given and outcome == "success"),
        thread=thread if n > 1 or kind == "conversation" else "",
        context=messages[: n - 1],
    )
