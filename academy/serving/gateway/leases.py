"""Adapters that are loaded are in use: as long as one is held here, nobody archives it.

A hold is a shared lock of the adapter's own file. It ends when it is released, or with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import ExitStack

from academy.adapters.archive import AdapterStore


class Leases:
    """What one gateway holds."""

    def __init__(self, store: AdapterStore) -> None:
        self.store = store
        self._held: dict[str, ExitStack] = {}

    @property
    def held(self) -> frozenset[str]:
        """Digests of what is in use."""
        return frozenset(self._held)

    async def acquire(self, adapter: str) -> None:
        """Use an adapter from now on. Waits for an archiving that is under way; holding it again is free."""
        if adapter in self._held:
            return
        held = ExitStack()
        waiting = asyncio.ensure_future(asyncio.to_thread(held.enter_context, self.store.using(adapter)))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(lambda _: held.close())  # the thread gets its lock when nobody waits any more
            raise
        self._held[adapter] = held

    def release_all_but(self, adapters: Collection[str]) -> None:
        """Hold only these any longer."""
        for adapter in self._held.keys() - set(adapters):
            self._held.pop(adapter).close()
