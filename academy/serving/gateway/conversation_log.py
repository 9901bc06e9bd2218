"""Stores ratings and conversations of the gateway: none, the rated ones, or all (ACADEMY_KEEP_CONVERSATIONS).

Recent answers stay in memory, so that feedback finds them by the completion's id. Every rating is stored with its
answer (experience/ratings.py), without secrets and personal data. It becomes a lesson at once only where who rated is
trusted (ACADEMY_TRUSTED_KEYS); otherwise it waits for a person (`academy review`).

One separate thread writes, so no answer waits; when it is behind, unrated conversations are dropped and counted.

In the mode `off` nothing stays in memory either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Any, Literal, NamedTuple

import orjson

from academy.access.user_keys import ANONYMOUS, OWNER
from academy.curriculum.scrubbing import Scrubber
from academy.curriculum.secrets import UnscannableError
from academy.errors import HomeError, InputError
from academy.experience.feedback import NAMES, Feedback, Unreadable
from academy.experience.feedback import read_feedback as feedback_read
from academy.experience.lessons import LessonsStore
from academy.experience.ratings import Quota, QuotaExceeded, Rater, Rating, Ratings, rated_row
from academy.experience.reading import now
from academy.experience.tombstones import buried
from academy.models.chat_template import Message
from academy.records import Record, stable_fraction
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
LONGEST_ID, LONGEST_COMMENT, LONGEST_CORRECTION, LONGEST_REMARK = 200, 4_000, 20_000, 200
"""Most characters of a completion's id, of a comment, of a correction, and of what is kept of the field `user`."""
QUOTA_RETRY = 3600
"""Seconds after which a rating over a quota may be sent again."""


class FeedbackRequest(NamedTuple):
    """A user's feedback on an answer. `id` is the completion's, `over` that of a worse answer to the same request."""

    id: str
    feedback: Feedback
    over: str = ""


class Receipt(Record):
    """What became of feedback: the ids of its lessons, or that it waits for a person or is not kept, and why."""

    lessons: tuple[str, ...] = ()
    standing: Literal["admitted", "waiting", "refused"]
    because: str = ""


@dataclass
class Conversation:
    """A conversation with its answer; `feedback` is what each source said about it so far."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    asker: Rater
    user: str
    target: ServedVersion
    at: str
    feedback: dict[str, Feedback] = field(default_factory=dict)

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
    id_, over = fields.pop("id", None), fields.pop("over", None)
    for name, value in (("id", id_), *((("over", over),) if over is not None else ())):
        if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
            raise _invalid(name, f"{name} is not a text of 1 to {LONGEST_ID} characters")
    for name, value in fields.items():
        limit = LONGEST_COMMENT if name in NAMES["comment"] else LONGEST_CORRECTION
        if isinstance(value, str) and not 0 < len(value) <= limit:
            raise _invalid(name, f"{name} is not a text of 1 to {limit:,} characters")
    feedback = feedback_read(fields)
    if isinstance(feedback, Unreadable):
        raise _invalid(feedback.field, feedback.because)
    if feedback == Feedback() and not over:
        raise RequestError(400, "The feedback is empty: set thumb, rating, gold_star, correction, comment or over.")
    return FeedbackRequest(id_, feedback, over or "")


def _invalid(name: str, because: str) -> RequestError:
    return RequestError(400, f"'{name}' is not valid: {because}.", param=name, code="invalid_value")


class ConversationLog:
    """Remembers recent answers, and stores conversations according to its mode."""

    def __init__(
        self,
        store: LessonsStore,
        mode: Literal["off", "rated", "all"],
        share: float = 1.0,
        *,
        trusted: frozenset[str] = frozenset(),
        quota: Quota | None = None,
    ) -> None:
        """`share` is the share of unrated conversations that the mode `all` stores. `trusted`: sources whose ratings
        are lessons at once. `quota`: how many ratings the others may give."""
        self.store = store
        self.ratings = Ratings(store.database)
        self.mode = mode
        self.share = share
        self.trusted = trusted
        self.quota = quota
        self.stored = self.dropped = self.failed = self.kept_out = 0
        self._remembered: OrderedDict[str, Conversation] = OrderedDict()
        self._characters = 0
        self._room = BoundedSemaphore(BEHIND)
        self._scrubber = Scrubber()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="conversation-log")
        self._writing: set[Future[Receipt | QuotaExceeded]] = set()

    def remember(
        self,
        id_: str,
        messages: tuple[Message, ...],
        answer: str,
        target: ServedVersion,
        asker: Rater,
        user: str = "",
    ) -> None:
        """Remember a complete answer, and queue it for storage in the mode `all`. Never waits."""
        if self.mode == "off" or messages[-1]["role"] != "user":  # only an answer to a user can be rated
            return
        conversation = Conversation(
            id=id_, messages=messages, answer=answer, asker=asker, user=user, target=target, at=now()
        )
        self._remembered[id_] = conversation
        self._characters += conversation.size
        while len(self._remembered) > REMEMBERED or self._characters > REMEMBERED_CHARACTERS:
            _, oldest = self._remembered.popitem(last=False)
            self._characters -= oldest.size
        if self.mode != "all" or stable_fraction("keep", id_) >= self.share:
            return
        if self._submit(self._write_conversation, conversation) is None:
            self.dropped += 1

    async def feedback(self, request: FeedbackRequest, rater: Rater) -> Receipt:
        """Store a user's feedback on an answer. Returns the receipt, after it is on the disk.

        Raises RequestError: 404 for an answer that is not in memory (any more), 400 for a vote between answers that
        cannot be compared, 429 for too many ratings, 503 where the writer is behind.
        """
        if self.mode == "off":
            raise RequestError(
                404,
                "This gateway does not store conversations (ACADEMY_KEEP_CONVERSATIONS=off).",
                param="id",
                code="not_kept",
            )
        conversation = self._find(request.id, "id")
        worse = self._find(request.over, "over") if request.over else None
        if worse is not None and (problem := incomparable(conversation, worse)):
            raise _invalid("over", problem)
        feedback = Feedback(**{**conversation.feedback.get(rater.source, Feedback()).values, **request.feedback.values})
        writing = self._submit(self._write_rating, conversation, feedback, rater, worse)
        if writing is None:
            raise RequestError(503, "Too many conversations are waiting to be written.", code="writer_behind", retry=5)
        try:
            receipt = await asyncio.wrap_future(writing)
        except UnscannableError as problem:
            raise RequestError(422, str(problem), code="not_scanned") from None
        except HomeError as problem:
            raise RequestError(503, str(problem), code="not_written", retry=60) from None
        if isinstance(receipt, QuotaExceeded):
            raise RequestError(
                429, f"The rating is not kept: {receipt.because}.", code="too_many_ratings", retry=QUOTA_RETRY
            )
        if rater.source != ANONYMOUS:  # two anonymous people are not one person who changes their mind
            conversation.feedback[rater.source] = feedback
        return receipt

    def _find(self, id_: str, param: str) -> Conversation:
        conversation = self._remembered.get(id_)
        if conversation is None:
            raise RequestError(404, "No recent answer has this id.", param=param, code="completion_not_found")
        return conversation

    async def close(self) -> None:
        """Write the waiting conversations, within a time limit."""
        if self._writing:
            await asyncio.wait({asyncio.wrap_future(writing) for writing in list(self._writing)}, timeout=FLUSH_SECONDS)
        await asyncio.to_thread(self._writer.shutdown, wait=True, cancel_futures=True)
        self._scrubber.close()

    @property
    def counts(self) -> dict[str, int]:
        """How many were stored, dropped, could not be written, or were kept out because of a quota."""
        return {
            "stored": self.stored, "dropped": self.dropped, "failed": self.failed, "kept_out": self.kept_out,
        }  # fmt: skip

    def _submit(
        self, write: Callable[..., Receipt | QuotaExceeded], *arguments: Any
    ) -> Future[Receipt | QuotaExceeded] | None:
        if not self._room.acquire(blocking=False):
            return None
        writing = self._writer.submit(write, *arguments)
        self._writing.add(writing)
        writing.add_done_callback(self._written)
        return writing

    def _written(self, writing: Future[Receipt | QuotaExceeded]) -> None:
        self._writing.discard(writing)
        self._room.release()
        if writing.cancelled():
            self.dropped += 1
        elif (problem := writing.exception()) is not None:
            self.failed += 1
            log.error("A conversation could not be stored (%s).", type(problem).__name__)  # without its text
        elif isinstance(writing.result(), QuotaExceeded):
            self.kept_out += 1
        else:
            self.stored += 1

    def _write_conversation(self, conversation: Conversation) -> Receipt:
        """Store an unrated conversation; runs in the writer's thread."""
        batch = f"{TAG}-{datetime.now(UTC):%Y-%m-%d}"
        row = _row(line_of(conversation, Feedback(), self._scrubber), batch)
        target = conversation.target
        source = conversation.asker.source
        row |= {
            "author": source, "trusted": source in self.trusted,
            "extra": {"adapter": target.adapter, "version": target.name, "row": target.seq},
        }  # fmt: skip
        return Receipt(lessons=tuple(self.store.keep([row])), standing="admitted")

    def _write_rating(
        self, conversation: Conversation, feedback: Feedback, rater: Rater, worse: Conversation | None
    ) -> Receipt | QuotaExceeded:
        """Store a rating, and its lesson where the rater is trusted; runs in the writer's thread."""
        rating = self._rating(conversation, feedback, rater, worse)
        is_trusted = rater.source in self.trusted
        if buried(self.store.database, [rating.lesson, rating.rated, str(rating.over.get("lesson", ""))]):
            return Receipt(standing="refused", because="it quotes a text that was forgotten, so it is not kept")
        with self.store.database.write() as connection:
            if exceeded := self.ratings.add(rating, connection, None if is_trusted else self.quota):
                return exceeded
            if not is_trusted:
                return Receipt(standing="waiting", because=rating.because)
            ids = self.store.keep([rating.lesson_row(self.trusted)], connection) if rating.feedback else []
        return Receipt(lessons=tuple(ids), standing="admitted")

    def _rating(
        self, conversation: Conversation, feedback: Feedback, rater: Rater, worse: Conversation | None
    ) -> Rating:
        line = line_of(conversation, feedback, self._scrubber)
        row, target = _row(line, ""), conversation.target
        is_trusted = rater.source in self.trusted
        (remark,) = self._scrubber.scrub([conversation.user])
        return Rating(
            at=now(), completion=conversation.id, source=rater.source, asker=conversation.asker.source,
            address=rater.address, remark=remark[:LONGEST_REMARK], lesson=row["id"],
            rated=row["corrects"] or row["id"], line=line, over=_worse(worse, self._scrubber) if worse else {},
            adapter=target.adapter, version=target.name, row=target.seq,
            standing="admitted" if is_trusted else "waiting", because="" if is_trusted else waits(rater.source),
        )  # fmt: skip


def waits(source: str) -> str:
    """Why a rating of this source is not learned yet, and what to do."""
    who = {
        OWNER: "it came without a key of a user, and programs of this account may forward what others say",
        ANONYMOUS: "its author is unknown",
    }.get(source, f"the key {source} is not trusted")
    return f"{who}: `academy review` decides, or ACADEMY_TRUSTED_KEYS"


def incomparable(better: Conversation, worse: Conversation) -> str:
    """Why a vote between two answers says nothing; empty where it does."""
    if better.messages != worse.messages:
        return "the two answers are to different requests"
    return "the two answers are the same" if better.answer.split() == worse.answer.split() else ""


def _worse(conversation: Conversation, scrubber: Scrubber) -> dict[str, Any]:
    line = line_of(conversation, Feedback(), scrubber)
    return {
        "id": conversation.id, "messages": line["messages"], "adapter": conversation.target.adapter,
        "lesson": _row(line, "")["id"],  # by which it can be forgotten
    }  # fmt: skip


def _row(line: dict[str, Any], batch: str) -> dict[str, Any]:
    try:
        return rated_row(line, batch)
    except InputError as problem:
        raise HomeError(problem.message, problem.remedy) from None


def line_of(conversation: Conversation, feedback: Feedback, scrubber: Scrubber) -> dict[str, Any]:
    """A conversation with its feedback as a line of an import, without secrets and personal data."""
    ratings = feedback.values
    words = [name for name in ("correction", "comment") if name in ratings]
    answer, *others = scrubber.scrub(
        [
            conversation.answer,
            *(turn["content"] for turn in conversation.messages),
            *(ratings[name] for name in words),
        ]
    )
    turns = len(conversation.messages)
    messages = [{**turn, "content": text} for turn, text in zip(conversation.messages, others[:turns], strict=True)]
    ratings |= zip(words, others[turns:], strict=True)
    return {
        "id": conversation.id,
        "messages": [*messages, {"role": "assistant", "content": answer}],
        "at": conversation.at,
        "tags": [TAG],
        **({"feedback": ratings} if ratings else {}),
    }
