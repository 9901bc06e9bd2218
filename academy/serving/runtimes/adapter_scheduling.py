"""Scheduling of turns by adapter, for an engine that cannot batch different adapters.

llama.cpp's server advances, step by step, only the answers that share the adapter of its first busy slot. While new
requests for that adapter keep arriving, an answer by another adapter does not advance: in a test of 9,000 requests one
timed out after a minute this way. So a turn waits here while another adapter is being answered, and no later request
overtakes a waiting one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class AdapterScheduler:
    """Lets turns of one adapter run together, and different adapters one after the other. For one event loop."""

    def __init__(self) -> None:
        self.adapter = ""  # of the running turns
        self.running = 0
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def turn(self, adapter: str) -> AsyncIterator[None]:
        """Wait until a turn of this adapter may run, then count it. In order of arrival, one adapter's together."""
        if self.running and (adapter != self.adapter or self._waiting):
            entry = (adapter, asyncio.get_running_loop().create_future())
            self._waiting.append(entry)
            try:
                await entry[1]
            except asyncio.CancelledError:
                if not entry[1].cancelled():
                    self._end()  # it was started just before it was cancelled
                elif entry in self._waiting:
                    self._waiting.remove(entry)
                raise
        else:
            self._begin(adapter)
        try:
            yield
        finally:
            self._end()

    async def drain(self) -> None:
        """Wait until no turn runs or waits."""
        await self._idle.wait()

    def _begin(self, adapter: str) -> None:
        self.adapter = adapter
        self.running += 1
        self._idle.clear()

    def _end(self) -> None:
        self.running -= 1
        if self.running:
            return
        waiting = [entry for entry in self._waiting if not entry[1].cancelled()]
        next_adapter = waiting[0][0] if waiting else ""
        self._waiting = [entry for entry in waiting if entry[0] != next_adapter]
        for adapter, start in waiting:
            if adapter == next_adapter:
                start.set_result(None)
                self._begin(adapter)
        if not self.running:
            self._idle.set()
