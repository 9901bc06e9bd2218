"""Stores conversations of the gateway as experience: none, the rated ones, or all (ACADEMY_KEEP_CONVERSATIONS).

Recent answers stay in memory, so that feedback finds them by the completion's id. Stored conversations are handled like
imported ones (experience/conversations.py), without secrets and personal data. One separate thread writes them, so no
answer waits; when the thread is behind, unrated conversations are dropped and counted.

In the mode `off` nothing stays in memory either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any, Literal, NamedTuple

import orjson

from academy.curriculum.cleaning import Cleaner
from academy.errors import HomeError
from academy.experience.conversations import ConversationFilter, conversation_rows
from academy.experience.feedback import NAMES, Feedback, Unreadable
from academy.experience.feedback import read_feedback as feedback_read
from academy.experience.lessons import LessonsStore
from academy.experience.reading import now
from academy.models.chat_template import Message
from academy.models.messages import Message as Turn
from academy.records import stable_fraction
from academy.serving.gateway.adapter_pool import ServedVersion
from academy.serving.gateway.openai_protocol import RequestError

log = logging.getLogger("academy")
REMEMBERED, REMEMBERED_CHARACTERS = 5_000, 32_000_000
"""Most conversations in memory, and most characters of them together; the oldest are dropped first."""
BEHIND = 1_000
"""Most conversations that may wait for the writer."""
FLUSH_SECONDS = 10.0
"""Limit in seconds for writing the waiting conversations at shutdown."""
TAG = "gateway"
LONGEST_ID, LONGEST_COMMENT, LONGEST_CORRECTION = 200, 4_000, 20_000
"""Most characters of a completion's id, of a comment, and of a correction."""


class FeedbackRequest(NamedTuple):
    """A user's feedback on an answer. `id` is the completion's."""

    id: str
    feedback: Feedback


@dataclass
class Conversation:
    """A conversation with its answer; `feedback` is the users' feedback on it so far."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    user: str
    target: ServedVersion
    at: str
    feedback: Feedback = field(default_factory=Feedback)

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.answer) + sum(len(message["content"]) for message in self.messages)


def read_feedback(body: bytes) -> FeedbackRequest:
    """Feedback from its bytes, under the names that an import reads. Raises RequestError (400) naming the field."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise RequestError(400, f"The body is not JSON: {problem.msg}.", code="invalid_value") from None
    if not isinstance(fields, dict):
        raise RequestError(400, "The body is not a JSON object.", code="invalid_value")
    id_ = fields.pop("id", None)
    if not isinstance(id_, str) or not 0 < len(id_) <= LONGEST_ID:
        raise _invalid("id", f"id is not a text of 1 to {LONGEST_ID} characters")
    for name, value in fields.items():
        limit = LONGEST_COMMENT if name in NAMES["comment"] else LONGEST_CORRECTION
        if isinstance(value, str) and not 0 < len(value) <= limit:
            raise _invalid(name, f"{name} is not a text of 1 to {limit:,} characters")
    feedback = feedback_read(fields)
    if isinstance(feedback, Unreadable):
        raise _invalid(feedback.field, feedback.because)
    if feedback == Feedback():
        raise RequestError(400, "The feedback is empty: set thumb, rating, gold_star, correction or comment.")
    return FeedbackRequest(id_, feedback)


def _invalid(name: str, because: str) -> RequestError:
    return RequestError(400, f"'{name}' is not valid: {because}.", param=name, code="invalid_value")


class ConversationLog:
    """Remembers recent answers, and stores conversations according to its mode."""

    def __init__(self, store: LessonsStore, mode: Literal["off", "rated", "all"], share: float = 1.0) -> None:
        """`share` is the share of unrated conversations that the mode `all` stores."""
        self.store = store
        self.mode = mode
        self.share = share
        self.stored = self.dropped = self.failed = 0
        self._remembered: OrderedDict[str, Conversation] = OrderedDict()
        self._characters = 0
        self._room = BoundedSemaphore(BEHIND)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="conversation-log")
        self._writing: set[Future[list[str]]] = set()

    def remember(self, id_: str, messages: tuple[Message, ...], answer: str, target: ServedVersion, user: str) -> None:
        """Remember a complete answer, and queue it for storage in the mode `all`. Never waits."""
        if self.mode == "off" or messages[-1]["role"] != "user":  # only an answer to a user can be rated
            return
        conversation = Conversation(id=id_, messages=messages, answer=answer, user=user, target=target, at=now())
        self._remembered[id_] = conversation
        self._characters += conversation.size
        while len(self._remembered) > REMEMBERED or self._characters > REMEMBERED_CHARACTERS:
            _, oldest = self._remembered.popitem(last=False)
            self._characters -= oldest.size
        if self.mode != "all" or stable_fraction("keep", id_) >= self.share:
            return
        if self._submit(conversation, Feedback()) is None:
            self.dropped += 1

    async def feedback(self, request: FeedbackRequest) -> list[str]:
        """Store a user's feedback on an answer. Returns the ids in the store, after it is on the disk.

        Raises RequestError: 404 for an answer that is not in memory (any more), 503 where the writer is behind.
        """
        if self.mode == "off":
            raise RequestError(
                404,
                "This gateway does not store conversations (ACADEMY_KEEP_CONVERSATIONS=off).",
                param="id",
                code="not_kept",
            )
        conversation = self._remembered.get(request.id)
        if conversation is None:
            raise RequestError(404, "No recent answer has this id.", param="id", code="completion_not_found")
        feedback = Feedback(**{**conversation.feedback.values, **request.feedback.values})
        writing = self._submit(conversation, feedback)
        if writing is None:
            raise RequestError(503, "Too many conversations are waiting to be written.", code="writer_behind", retry=5)
        try:
            ids = await asyncio.wrap_future(writing)
        except HomeError as problem:
            raise RequestError(503, str(problem), code="not_written", retry=60) from None
        conversation.feedback = feedback
        return ids

    async def close(self) -> None:
        """Write the waiting conversations, within a time limit."""
        if self._writing:
            await asyncio.wait({asyncio.wrap_future(writing) for writing in list(self._writing)}, timeout=FLUSH_SECONDS)
        await asyncio.to_thread(self._writer.shutdown, wait=True, cancel_futures=True)

    @property
    def counts(self) -> dict[str, int]:
        """How many conversations were stored, dropped, or could not be written."""
        return {"stored": self.stored, "dropped": self.dropped, "failed": self.failed}

    def _submit(self, conversation: Conversation, feedback: Feedback) -> Future[list[str]] | None:
        if not self._room.acquire(blocking=False):
            return None
        writing = self._writer.submit(self._write, conversation, feedback)
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        return writing

    def _written(self, writing: Future[list[str]]) -> None:
        self._writing.discard(writing)
        self._room.release()
        if writing.cancelled():
            self.dropped += 1
        elif (problem := writing.exception()) is not None:
            self.failed += 1
            log.error("A conversation could not be stored (%s).", type(problem).__name__)  # without its text
        else:
            self.stored += 1

    def _write(self, conversation: Conversation, feedback: Feedback) -> list[str]:
        """Store a conversation; runs in the writer's thread."""
        batch = f"{TAG}-{datetime.now(UTC):%Y-%m-%d}"
        rows = conversation_rows(line_of(conversation, feedback), "conversation", batch, ConversationFilter())
        if isinstance(rows, str):
            raise HomeError(f"The conversation cannot be stored: {rows}.")
        for row in rows:
            row["extra"] = {
                "adapter": conversation.target.adapter,
                "version": conversation.target.name,
                "row": conversation.target.seq,
            }
        return self.store.keep(rows)


def line_of(conversation: Conversation, feedback: Feedback) -> dict[str, Any]:
    """A conversation with its feedback as a line of an import, without secrets and personal data."""
    cleaner = Cleaner()
    turns = [Turn.model_validate(turn) for turn in conversation.messages]
    turns.append(Turn(role="assistant", content=conversation.answer))
    messages = [cleaner.message(turn).written() for turn in turns]
    ratings = feedback.values
    for name in ("correction", "comment"):
        if name in ratings:
            ratings[name] = scrubbed(ratings[name])
    return {
        "id": conversation.id,
        "messages": messages,
        "user": scrubbed(conversation.user),
        "at": conversation.at,
        "tags": [TAG],
        **({"feedback": ratings} if ratings else {}),
    }


def scrubbed(text: str) -> str:
    """A text with placeholders for secrets and personal data, as in curation."""
    return Cleaner().text(text)
