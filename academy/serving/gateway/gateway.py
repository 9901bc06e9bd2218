"""The gateway: requests of users on one side, a live runtime on the other, and a pin between them.

A request is read, pinned to whom it means at this moment, given a place, and answered by exactly that adapter to its
end; the answer says who made it. A client that leaves, or does not read, frees its place. Texts are never logged.
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
from academy.serving.gateway.adapter_pool import DIED, AdapterPool, Served
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
    """Everything of one gateway that outlives a request."""

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
        """Ends a client's connection at once; set by the server that has it."""

    def refuse_if_closed(self) -> None:
        """Raises RequestError (503) while the gateway is ending."""
        if self.draining:
            raise RequestError(503, "The gateway is ending and takes no new requests.", code="shutting_down", retry=10)

    def refuse_if_starting(self) -> None:
        """Raises RequestError (503) while the engine is dead, or is brought up and proved again."""
        if self.pool.starting or self.pool.runtime.ended:
            raise RequestError(503, f"{DIED} Ask again in a moment.", code="runtime_unavailable", retry=5)

    def give_up(self) -> None:
        """End the answers that have not ended by themselves; their clients are told."""
        for answer in self.answers:
            answer.cancel()

    @asynccontextmanager
    async def admitted(self, asked: ChatRequest) -> AsyncIterator[tuple[Served, AsyncGenerator[Piece]]]:
        """Pin a request and give its answer, whose first piece has not been asked for yet.

        Raises RequestError where it is not admitted; reading the answer raises RequestError for what happens later.
        """
        self.refuse_if_closed()
        self.refuse_if_starting()
        served = await self.pool.find(asked.model)
        self.pool.refuse(served)
        self.slots.refuse_if_full()
        now = asyncio.get_running_loop().time()
        with self.pool.pinned(served):
            async with (
                self.slots.slot(until=now + self.limits.first_token),
                aclosing(self._pieces(asked, served)) as it,
            ):
                yield served, it

    async def verify(self, name: str) -> tuple[Served, Identity]:
        """Look who answers by a name that users give. Raises RequestError, AdapterError, ServingError."""
        self.refuse_if_starting()
        served = await self.pool.find(name)
        self.pool.refuse(served)
        with self.pool.pinned(served):
            await self.pool.invite(served.adapter)
            return served, await self.pool.look(served.adapter)

    async def _pieces(self, asked: ChatRequest, served: Served) -> AsyncGenerator[Piece]:
        try:
            await self.pool.invite(served.adapter)
            room = await self.prompts.room(asked.conversation, served.adapter)
            turn = asked.turn(min(room, asked.limit or self.limits.max_new_tokens))
            began = asyncio.get_running_loop().time()
            answer = cast("AsyncGenerator[Piece]", self.pool.runtime.chat(turn, served.adapter))
            async with aclosing(answer):
                until, last = began + self.limits.first_token, Piece()
                while not last.finish:
                    last = await self._next(answer, until)
                    until = began + self.limits.total
                    self.pool.dead = ""
                    yield last
        except RequestError:
            raise
        except AdapterError as problem:
            raise RequestError(503, str(problem), code="adapter_unavailable", retry=5) from problem
        except ServingError as problem:
            self.pool.died(str(problem))
            raise RequestError(503, str(problem), code="runtime_unavailable", retry=5) from problem
        except AcademyError as problem:
            raise RequestError(400, str(problem), code="invalid_value") from problem

    async def _next(self, answer: AsyncGenerator[Piece], until: float) -> Piece:
        try:
            async with asyncio.timeout_at(until):
                return await anext(answer)
        except TimeoutError:
            self.counts["timed out"] += 1
            raise RequestError(504, "The answer took too long and was given up.", code="timeout") from None
        except StopAsyncIteration:
            raise ServingError("The runtime stopped in the middle of an answer.", "Ask again.") from None

    @property
    def unavailable(self) -> bool:
        """Whether the name `champion` is answered by nobody."""
        return self.draining or bool(self._silence)

    @property
    def _silence(self) -> str:
        pool = self.pool
        return (DIED if pool.runtime.ended else pool.dead) or pool.champion_refused

    def health(self) -> dict[str, Any]:
        """What /healthz tells."""
        champion = self.pool.champion
        trouble = self._silence or self.follower.trouble
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


def identity_headers(served: Served) -> dict[str, str]:
    """The headers that say who answers."""
    return {
        "x-academy-adapter": served.adapter,
        "x-academy-version": served.name,
        "x-academy-row": str(served.seq),
    }
