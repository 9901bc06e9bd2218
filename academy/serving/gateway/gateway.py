"""The gateway between the requests of users and a live runtime.

A request is pinned to the adapter that its model name means at this moment, gets a slot, and is answered by exactly
that adapter to the end; headers of the answer name it. A client that disconnects or does not read frees its slot. Texts
are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from academy.errors import AcademyError, AdapterError, ServingError
from academy.models.base_model import BaseModel
from academy.serving.gateway.adapter_pool import DIED, AdapterPool, ServedVersion
from academy.serving.gateway.conversation_log import ConversationLog
from academy.serving.gateway.follower import ChampionFollower
from academy.serving.gateway.openai_protocol import ChatRequest, RequestError
from academy.serving.gateway.prompts import Prompts
from academy.serving.gateway.slots import Limits, Slots
from academy.serving.identity import Identity
from academy.serving.runtimes.base import Piece

log = logging.getLogger("academy")
access = logging.getLogger("academy.access")


class Gateway:
    """The state of one gateway beyond a single request."""

    def __init__(
        self,
        base: BaseModel,
        pool: AdapterPool,
        follower: ChampionFollower,
        conversations: ConversationLog,
        limits: Limits,
        name: str = "default",
    ) -> None:
        self.base = base
        self.name = name
        self.pool = pool
        self.follower = follower
        self.conversations = conversations
        self.limits = limits
        self.slots = Slots(limits)
        self.prompts = Prompts(base, pool.adapters)
        self.counts: Counter[str] = Counter()
        self.began = time.time()
        self.draining = False
        self.answers: set[asyncio.Task[None]] = set()
        self.abort: Callable[[Any], None] = lambda _client: None
        """Closes a client's connection at once; the server sets it."""

    def refuse_if_closed(self) -> None:
        """Raise RequestError (503) while the gateway shuts down."""
        if self.draining:
            raise RequestError(
                503, "The gateway is shutting down and accepts no new requests.", code="shutting_down", retry=10
            )

    def refuse_if_starting(self) -> None:
        """Raise RequestError (503) while the engine is dead or restarts."""
        if self.pool.starting or self.pool.runtime.ended:
            raise RequestError(503, f"{DIED} Retry in a moment.", code="runtime_unavailable", retry=5)

    def give_up(self) -> None:
        """Cancel the running answers; their clients get an error."""
        for answer in self.answers:
            answer.cancel()

    @asynccontextmanager
    async def admitted(self, request: ChatRequest) -> AsyncIterator[tuple[ServedVersion, AsyncGenerator[Piece]]]:
        """Pin a request and yield its answer, which starts with the first reading of a piece.

        Raises RequestError where the request is refused; reading the answer raises RequestError for later failures.
        """
        self.refuse_if_closed()
        self.refuse_if_starting()
        target = await self.pool.resolve(request.model)
        self.pool.refuse(target)
        self.slots.refuse_if_full()
        now = asyncio.get_running_loop().time()
        with self.pool.pin(target):
            async with (
                self.slots.slot(until=now + self.limits.first_token),
                aclosing(self._pieces(request, target)) as pieces,
            ):
                yield target, pieces

    async def verify(self, name: str) -> tuple[ServedVersion, Identity]:
        """Check which adapter answers by a model name. Raises RequestError, AdapterError, ServingError."""
        self.refuse_if_starting()
        target = await self.pool.resolve(name)
        self.pool.refuse(target)
        with self.pool.pin(target):
            await self.pool.make_ready(target.adapter)
            return target, await self.pool.identify(target.adapter)

    async def _pieces(self, request: ChatRequest, target: ServedVersion) -> AsyncGenerator[Piece]:
        try:
            await self.pool.make_ready(target.adapter)
            room = await self.prompts.room(request.conversation, target.adapter)
            turn = request.turn(min(room, request.limit or self.limits.max_new_tokens))
            began = asyncio.get_running_loop().time()
            answer = cast("AsyncGenerator[Piece]", self.pool.runtime.chat(turn, target.adapter))
            thoughts = self.prompts.filter(target.adapter)
            async with aclosing(answer):
                until, last = began + self.limits.first_token, Piece()
                while not last.finish:
                    last = await self._next(answer, until)
                    until = began + self.limits.total
                    self.pool.dead = ""
                    text = thoughts.add(last.text) + (thoughts.rest() if last.finish else "")
                    yield last.model_copy(update={"text": text})
        except RequestError:
            raise
        except AdapterError as problem:
            raise RequestError(503, str(problem), code="adapter_unavailable", retry=5) from problem
        except ServingError as problem:
            self.pool.mark_dead(str(problem))
            raise RequestError(503, str(problem), code="runtime_unavailable", retry=5) from problem
        except AcademyError as problem:
            raise RequestError(400, str(problem), code="invalid_value") from problem

    async def _next(self, answer: AsyncGenerator[Piece], until: float) -> Piece:
        try:
            async with asyncio.timeout_at(until):
                return await anext(answer)
        except TimeoutError:
            self.counts["timed out"] += 1
            raise RequestError(504, "The answer took too long and was cancelled.", code="timeout") from None
        except StopAsyncIteration:
            raise ServingError("The runtime stopped in the middle of an answer.", "Retry.") from None

    @property
    def unavailable(self) -> bool:
        """Whether requests for the champion cannot be answered."""
        return self.draining or bool(self._outage)

    @property
    def _outage(self) -> str:
        pool = self.pool
        return (DIED if pool.runtime.ended else pool.dead) or pool.champion_refused

    def health(self) -> dict[str, Any]:
        """The content of /healthz."""
        champion = self.pool.champion
        trouble = self._outage or self.follower.trouble
        return {
            "status": "ending" if self.draining else "degraded" if trouble else "ready",
            "because": trouble,
            "champion": {
                "version": champion.name, "adapter": champion.adapter, "generation": champion.generation,
                "row": champion.seq,
            },
            "base_model": {"name": self.base.name, "family": self.base.family},
            "runtime": self.pool.runtime.name,
            "refused": sorted(self.pool.refusals),
            "engine_name": self.follower.unpointed or "as the champion",
            "loaded": sorted(self.pool.runtime.loaded),
            "in_flight": dict(self.pool.in_flight),
            "running": self.slots.running,
            "waiting": self.slots.waiting,
            "swaps": self.pool.swaps,
            "counts": dict(self.counts),
            "conversations": {"mode": self.conversations.mode, **self.conversations.counts},
            "seconds": round(time.time() - self.began, 1),
        }  # fmt: skip


def new_id() -> str:
    """32 hexadecimal digits."""
    return uuid.uuid4().hex


def identity_headers(target: ServedVersion) -> dict[str, str]:
    """The headers that name the adapter, version and ledger row of an answer."""
    return {
        "x-academy-adapter": target.adapter,
        "x-academy-version": target.name,
        "x-academy-row": str(target.seq),
    }
