"""Admission of requests: a limited number of answers at the same time, and a limited queue behind them.

An unlimited queue would only delay every request, so a request that does not fit is refused with a time to retry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from academy.access.guarded_connections import ConnectionLimits
from academy.records import Record
from academy.serving.gateway.openai_protocol import RequestError
from academy.settings import Settings


class Limits(Record):
    """Limits of one gateway. Times are in seconds."""

    concurrency: int = 16  # answers generated at the same time
    queue: int = 64  # requests that may wait
    first_token: float = 60.0  # longest wait for a free slot, and then for the first piece of the answer
    total: float = 600.0  # from getting a slot to the end of the answer
    slow_reader: float = 30.0  # longest time that a client may leave its answer unread
    drain: float = 30.0  # longest time that answers may go on during shutdown
    load: float = 600.0  # longest time to load and check an adapter
    body: int = 1_000_000  # most bytes of a request
    messages: int = 256  # most messages of a request
    max_new_tokens: int = 1024  # default limit of an answer
    connections: ConnectionLimits = ConnectionLimits()

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits of the settings, and defaults for the rest."""
        return cls(
            concurrency=settings.serve_concurrency,
            queue=settings.serve_queue,
            first_token=settings.serve_first_token_seconds,
            total=settings.serve_seconds,
            slow_reader=settings.serve_slow_reader_seconds,
            drain=settings.serve_drain_seconds,
            connections=ConnectionLimits(
                total=settings.serve_connections,
                per_address=settings.serve_connections_per_address,
                unread=settings.serve_slow_reader_seconds,
            ),
        )


class Slots:
    """Slots for answers, assigned in the order of arrival."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        self.waiting = 0
        self._free = asyncio.Semaphore(limits.concurrency)

    @property
    def busy(self) -> int:
        """Admitted requests that have not ended."""
        return self.running + self.waiting

    def refuse_if_full(self) -> None:
        """Raise RequestError (429) where the queue is full. Callers must not await anything between this and `slot`."""
        if self.waiting >= self.limits.queue and self._free.locked():
            raise RequestError(
                429,
                f"The gateway is full: {self.running} answers are running and {self.waiting} requests are waiting.",
                code="queue_full",
                retry=1 + self.waiting / self.limits.concurrency,
            )

    @asynccontextmanager
    async def slot(self, until: float) -> AsyncIterator[None]:
        """Wait for a slot and occupy it. Raises RequestError (503) where none is free until then (the loop's clock)."""
        self.waiting += 1
        try:
            try:
                async with asyncio.timeout_at(until):
                    await self._free.acquire()
            except TimeoutError:
                raise RequestError(503, "No slot became free in time.", code="queue_timeout", retry=5) from None
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
