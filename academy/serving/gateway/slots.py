"""Admission: so many answers at once, so many requests that wait for their turn, and no more.

A waiting line that grows without end only makes everybody late: what does not fit is told to come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from academy.records import Record
from academy.serving.gateway.openai_protocol import RequestError
from academy.settings import Settings


class Limits(Record):
    """What one gateway takes on. Times are in seconds."""

    concurrency: int = 16  # answers that are being made at once
    queue: int = 64  # requests that wait beside them
    first_token: float = 60.0  # a place is free within this, and then the first piece of the answer there within this
    total: float = 600.0  # from its place to its end
    slow_reader: float = 30.0  # a client may leave its answer unread for so long
    drain: float = 30.0  # answers may go on for so long once the gateway is ending
    load: float = 600.0  # an adapter is loaded and checked within
    body: int = 1_000_000  # bytes of a request
    messages: int = 256  # messages of a request
    max_new_tokens: int = 1024  # of an answer where the request names no limit

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """Those of the settings; the rest as it stands here."""
        return cls(
            concurrency=settings.serve_concurrency,
            queue=settings.serve_queue,
            first_token=settings.serve_first_token_seconds,
            total=settings.serve_seconds,
            slow_reader=settings.serve_slow_reader_seconds,
            drain=settings.serve_drain_seconds,
        )


class Slots:
    """Places for answers, given in the order of arrival."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.running = 0
        self.waiting = 0
        self._free = asyncio.Semaphore(limits.concurrency)

    @property
    def busy(self) -> int:
        """Requests that were admitted and have not ended."""
        return self.running + self.waiting

    def refuse_if_full(self) -> None:
        """Raises RequestError (429) where the line is as long as it may be. Nothing is awaited from this to `slot`."""
        if self.waiting >= self.limits.queue and self._free.locked():
            raise RequestError(
                429,
                f"The gateway is full: {self.running} answers are being made and {self.waiting} requests wait.",
                code="queue_full",
                retry=1 + self.waiting / self.limits.concurrency,
            )

    @asynccontextmanager
    async def slot(self, until: float) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises RequestError (503) where none was free until then (the loop's clock)."""
        self.waiting += 1
        try:
            try:
                async with asyncio.timeout_at(until):
                    await self._free.acquire()
            except TimeoutError:
                raise RequestError(503, "No place became free in time.", code="queue_timeout", retry=5) from None
        finally:
            self.waiting -= 1
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._free.release()
