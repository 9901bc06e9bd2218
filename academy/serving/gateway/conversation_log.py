"""Conversations of the gateway as experience, where its owner wants that: none, those that somebody rated, or all.

What was answered is remembered in memory for a while, so that feedback finds it by the completion's id. What is stored
goes the way of imported conversations (experience/conversations.py), without its secrets and personal data, written by
one thread beside the answers. When that thread is behind, what nobody rated is dropped and counted; nobody waits.

Where nothing is to be kept, nothing is remembered either.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from academy.curriculum import personal, secrets
from academy.errors import HomeError
from academy.experience.conversations import ConversationFilter, conversation_rows
from academy.experience.lessons import LessonsStore
from academy.experience.reading import now
from academy.models.chat_template import Message
from academy.records import stable_fraction
from academy.serving.gateway.adapter_pool import Served
from academy.serving.gateway.openai_protocol import RequestError

log = logging.getLogger("academy")
REMEMBERED, REMEMBERED_CHARACTERS = 5_000, 32_000_000
"""Conversations that feedback can still find, and their text together; the oldest are forgotten first."""
BEHIND = 1_000
"""Conversations that may wait for the writer."""
FLUSH_SECONDS = 10.0
"""What is waiting at the end may still be written within."""
TAG = "gateway"


class FeedbackRequest(BaseModel):
    """What somebody says of an answer. `id` is the completion's."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: str = Field(min_length=1, max_length=200)
    thumb: Literal["up", "down"] | None = None
    rating: Annotated[int, Field(ge=1, le=5)] | None = None
    gold_star: bool | None = None
    correction: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    comment: Annotated[str, Field(min_length=1, max_length=4_000)] | None = None

    @property
    def said(self) -> dict[str, Any]:
        """What was given, and nothing else."""
        return {name: value for name, value in self.model_dump(exclude={"id"}).items() if value not in (None, False)}


@dataclass
class Conversation:
    """A conversation with its answer, as it was held; `said` is what somebody has said of it until now."""

    id: str
    messages: tuple[Message, ...]
    answer: str
    user: str
    served: Served
    at: str
    said: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.answer) + sum(len(one["content"]) for one in self.messages)


def read_feedback(body: bytes) -> FeedbackRequest:
    """Feedback from its bytes. Raises RequestError (400) naming the field."""
    try:
        found = FeedbackRequest.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "the body"
        raise RequestError(400, f"'{name}' is not valid: {first['msg']}.", param=name, code="invalid_value") from None
    if not found.said:
        raise RequestError(400, "The feedback says nothing: give thumb, rating, gold_star, correction or comment.")
    return found


class ConversationLog:
    """Remembers answers and stores what is to be kept."""

    def __init__(self, store: LessonsStore, mode: Literal["off", "rated", "all"], share: float = 1.0) -> None:
        """`share` is the share of the unrated conversations that `all` stores."""
        self.store = store
        self.mode = mode
        self.share = share
        self.stored = self.dropped = self.failed = 0
        self._remembered: OrderedDict[str, Conversation] = OrderedDict()
        self._characters = 0
        self._room = BoundedSemaphore(BEHIND)
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="keeper")
        self._writing: set[Future[list[str]]] = set()

    def remember(self, id_: str, messages: tuple[Message, ...], answer: str, served: Served, user: str) -> None:
        """Take note of a whole answer. Costs no time; nothing of it where nothing is kept."""
        if self.mode == "off" or messages[-1]["role"] != "user":  # feedback belongs to an answer to somebody
            return
        one = Conversation(id=id_, messages=messages, answer=answer, user=user, served=served, at=now())
        self._remembered[id_] = one
        self._characters += one.size
        while len(self._remembered) > REMEMBERED or self._characters > REMEMBERED_CHARACTERS:
            _, oldest = self._remembered.popitem(last=False)
            self._characters -= oldest.size
        if self.mode == "all" and stable_fraction("keep", id_) < self.share and self._submit(one, {}) is None:
            self.dropped += 1

    async def feedback(self, given: FeedbackRequest) -> list[str]:
        """Store what somebody said of an answer; returns when it is on the disk, with the ids in the store.

        Raises RequestError: 404 for an answer that is not known (any more), 503 where the writer is behind.
        """
        if self.mode == "off":
            raise RequestError(
                404,
                "This gateway keeps no conversations (ACADEMY_KEEP_CONVERSATIONS=off).",
                param="id",
                code="not_kept",
            )
        one = self._remembered.get(given.id)
        if one is None:
            raise RequestError(
                404, "No answer with this id is remembered here (any more).", param="id", code="completion_not_found"
            )
        said = {**one.said, **given.said}
        writing = self._submit(one, said)
        if writing is None:
            raise RequestError(503, "Too much feedback is waiting to be written.", code="writer_behind", retry=5)
        try:
            ids = await asyncio.wrap_future(writing)
        except HomeError as problem:
            raise RequestError(503, str(problem), code="not_written", retry=60) from None
        one.said = said
        return ids

    async def close(self) -> None:
        """Write what is waiting, for a bounded time."""
        if self._writing:
            await asyncio.wait({asyncio.wrap_future(one) for one in list(self._writing)}, timeout=FLUSH_SECONDS)
        await asyncio.to_thread(self._writer.shutdown, wait=True, cancel_futures=True)

    @property
    def counts(self) -> dict[str, int]:
        """What became of the conversations."""
        return {"stored": self.stored, "dropped": self.dropped, "failed": self.failed}

    def _submit(self, one: Conversation, said: Mapping[str, Any]) -> Future[list[str]] | None:
        if not self._room.acquire(blocking=False):
            return None
        writing = self._writer.submit(self._write, one, said)
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
            log.error("a conversation could not be kept (%s)", type(problem).__name__)  # its text stays out of logs
        else:
            self.stored += 1

    def _write(self, one: Conversation, said: Mapping[str, Any]) -> list[str]:
        """In the writer's thread."""
        rows = conversation_rows(
            line_of(one, said), "conversation", f"{TAG}-{datetime.now(UTC):%Y-%m-%d}", ConversationFilter()
        )
        if isinstance(rows, str):
            raise HomeError(f"The conversation cannot be kept: {rows}.")
        for row in rows:
            row["feedback"] = scrubbed(str(said.get("comment", "")))
            row["extra"] = {"adapter": one.served.adapter, "version": one.served.name, "row": one.served.seq}
        return self.store.keep(rows)


def line_of(one: Conversation, said: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation as a line of an import: without secrets and personal data, what was said of it at its answer."""
    messages: list[dict[str, Any]] = [{**turn, "content": scrubbed(turn["content"])} for turn in one.messages]
    messages.append({"role": "assistant", "content": scrubbed(one.answer)})
    names = {"thumb": "thumbs", "rating": "rating", "gold_star": "gold_star"}
    feedback: dict[str, Any] = {names[name]: value for name, value in said.items() if name in names}
    if "correction" in said:
        feedback["correction"] = scrubbed(said["correction"])
    return {
        "id": one.id,
        "messages": messages,
        "user": scrubbed(one.user),
        "at": one.at,
        "tags": [TAG],
        **({"feedback": feedback} if feedback else {}),
    }


def scrubbed(text: str) -> str:
    """A text with marks in place of secrets and personal data, as curation does it."""
    for redact in (secrets.redact, personal.redact):
        text, _ = redact(text)
    return text
