"""Leases on loaded adapters: an adapter with a lease is in use, so it is never archived.

A lease is a shared lock on the adapter's own file. It ends when it is released, or with the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import ExitStack

from academy.adapters.archive import AdapterStore


class Leases:
    """The leases of one gateway."""

    def __init__(self, store: AdapterStore) -> None:
        self.store = store
        self._leases: dict[str, ExitStack] = {}

    async def acquire(self, adapter: str) -> None:
        """Lease an adapter. Waits for a running archiving of it; acquiring it again costs nothing."""
        if adapter in self._leases:
            return
        lease = ExitStack()
        waiting = asyncio.ensure_future(asyncio.to_thread(lease.enter_context, self.store.lease(adapter)))
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(lambda _: lease.close())  # the thread gets its lock after this was cancelled
            raise
        self._leases[adapter] = lease

    def release_all_but(self, adapters: Collection[str]) -> None:
        """Keep only the leases of these adapters."""
        for adapter in self._leases.keys() - set(adapters):
            self._leases.pop(adapter).close()
