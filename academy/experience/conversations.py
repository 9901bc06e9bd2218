"""Conversations with feedback, and files of examples, as rows for the store.

A line is a conversation in one of the four formats. It may have `id`, `user`, `domain`, `type` and `feedback` (`rating`
1 to 5, `gold_star`, `thumbs` "up" or "down", `correction`), for the whole conversation or at single messages. Every
rated answer becomes an experience with the messages before it. A conversation without feedback gives its last answer,
marked as model-made with an unknown outcome: it is stored and not trained on. A correction replaces the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from academy.experience.experience import Kind, Outcome
from academy.experience.reading import make_row, now, read_outcome
from academy.models.chat_template import Message
from academy.models.formats import ROLES, read_row
from academy.records import Record, digest_of

GOOD, BAD = 4, 2
"""An answer rated at least GOOD is a success, at most BAD a failure."""


class ConversationFilter(Record):
    """Which conversations of a file are imported; an empty field allows all."""

    users: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    gold_only: bool = False

    def rejects(self, line: Mapping[str, Any]) -> bool:
        """Whether a line is filtered by user, domain or type."""
        return any(
            values and str(line.get(name) or "") not in values
            for name, values in (("user", self.users), ("domain", self.domains), ("type", self.types))
        )


class Feedback(Record):
    """A user's feedback on an answer."""

    rating: int = 0
    gold: bool = False
    thumbs: str = ""
    correction: str = ""

    @property
    def is_given(self) -> bool:
        """Whether there is any feedback."""
        return bool(self.rating or self.gold or self.thumbs or self.correction)

    @property
    def outcome(self) -> Outcome:
        """A star or a correction means success; otherwise thumbs decide, then the rating."""
        if self.gold or self.correction:
            return "success"
        if self.thumbs in ("up", "down"):
            return "success" if self.thumbs == "up" else "failure"
        return "success" if self.rating >= GOOD else "failure" if 0 < self.rating <= BAD else "unknown"


def conversation_rows(
    line: Mapping[str, Any], kind: Kind, batch: str, only: ConversationFilter
) -> list[dict[str, Any]] | str:
    """The rows of one line (none if it is filtered), or the reason why it cannot be read.

    `kind` "conversation" reads feedback; "file" reads each line as a successful example.
    """
    if only.rejects(line):
        return []
    messages = read_row(line)
    if isinstance(messages, str):
        return messages
    roles = [message["role"] for message in messages]
    answers = [n for n in range(1, len(roles)) if (roles[n - 1], roles[n]) == ("user", "assistant")]
    if not answers:
        return "no answer that follows a request"
    feedback = _feedback_by_message(line, messages, answers)
    if isinstance(feedback, str):
        return feedback
    if kind == "file":
        return [_row(line, messages, answers[-1], kind, batch, Feedback())]
    if only.gold_only:
        return [_row(line, messages, n, kind, batch, feedback[n]) for n in answers if feedback[n].gold]
    with_feedback = [n for n in answers if feedback[n].is_given]
    return [_row(line, messages, n, kind, batch, feedback[n]) for n in with_feedback or answers[-1:]]


def _feedback_by_message(
    line: Mapping[str, Any], messages: list[Message], answers: list[int]
) -> dict[int, Feedback] | str:
    """Feedback on each answer, by its number; feedback on the whole conversation belongs to its last answer."""
    turns = line.get("messages") or line.get("conversations") or []
    turn_feedback = [
        turn.get("feedback")
        for turn in turns
        if isinstance(turn, dict) and ROLES.get(str(turn.get("role") or turn.get("from")).lower())
    ]
    by_answer: dict[int, Feedback] = {}
    for n in answers:
        raw = line.get("feedback") if n == answers[-1] else None
        if len(turn_feedback) == len(messages):
            raw = turn_feedback[n] or raw
        feedback = _read_feedback(raw)
        if isinstance(feedback, str):
            return feedback
        by_answer[n] = feedback
    return by_answer


def _read_feedback(raw: Any) -> Feedback | str:
    if raw is None or isinstance(raw, str):  # a comment in words is stored; it is not a rating
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
    comment = line.get("feedback")
    return make_row(
        kind=kind,
        situation=messages[n - 1]["content"],
        action=feedback.correction or messages[n]["content"],
        result="",
        feedback=comment if isinstance(comment, str) else "",
        tags=[*labels, *(str(tag) for tag in line.get("tags") or [])],
        outcome=outcome,
        author=str(line.get("user") or line.get("author") or ""),
        batch=batch,
        at=str(line.get("at") or line.get("created_at") or now()),
        extra={},
        rating=feedback.rating,
        gold=feedback.gold,
        model_made=kind == "conversation" and not (feedback.is_given and outcome == "success"),
        thread=thread if n > 1 or kind == "conversation" else "",
        context=messages[: n - 1],
    )
