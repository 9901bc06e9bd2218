"""Turns of one adapter at a time, for an engine that does not batch different adapters.

llama.cpp's server moves, step by step, only the answers that share the adapter of its first busy slot. While that one
is replaced by its like again and again, an answer of another adapter stands still: one of 9,000 was given up so after a
minute. Here whoever comes waits while others of another adapter are answered, and nobody passes those who wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AdapterScheduler:
    """Who is answered now, and who waits. For one event loop."""

    def __init__(self) -> None:
        self.adapter = ""  # of the turns that are answered now
        self.running = 0
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def turn(self, adapter: str) -> AsyncIterator[None]:
        """A turn of an adapter, once it may begin: in the order of coming, those of one adapter together."""
        if self.running and (adapter != self.adapter or self._waiting):
            place = (adapter, asyncio.get_running_loop().create_future())
            self._waiting.append(place)
            try:
                await place[1]
            except asyncio.CancelledError:
                if not place[1].cancelled():
                    self._end()  # it was called up just before it left
                elif place in self._waiting:
                    self._waiting.remove(place)
                raise
        else:
            self._begin(adapter)
        try:
            yield
        finally:
            self._end()

    async def drain(self) -> None:
        """Wait until nobody is answered, nor waits."""
        await self._idle.wait()

    def _begin(self, adapter: str) -> None:
        self.adapter = adapter
        self.running += 1
        self._idle.clear()

    def _end(self) -> None:
        self.running -= 1
        if self.running:
            return
        waiting = [one for one in self._waiting if not one[1].cancelled()]  # the others have left
        following = waiting[0][0] if waiting else ""
        self._waiting = [one for one in waiting if one[0] != following]
        for adapter, called in waiting:
            if adapter == following:
                called.set_result(None)
                self._begin(adapter)
        if not self.running:
            self._idle.set()
