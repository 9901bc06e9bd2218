"""The champion's pointer follows the ledger: looked at twice a second, and at once when somebody says so.

    newer row -> load -> check by its own name -> flip the pointer -> check by the name `champion` -> unload the rest

Where any of it fails the champion of before goes on answering, the gateway calls itself degraded in one sentence, and
it is tried again after growing pauses.
"""

from __future__ import annotations

import asyncio
import logging

from academy.errors import AcademyError, AdapterError
from academy.serving.pinning import Pinning, Served

log = logging.getLogger("academy")
PERIOD = 0.5
LONGEST_PAUSE = 60.0


class Follower:
    """Keeps one pointer where the ledger says."""

    def __init__(self, pinning: Pinning, period: float = PERIOD) -> None:
        self.pinning = pinning
        self.period = period
        self.trouble = ""
        """Why the pointer is not where the ledger says, in one sentence; empty where it is."""
        self.failures = 0
        self._following = asyncio.Lock()

    async def first(self) -> None:
        """Have the ledger's champion answer before anybody asks. Raises AcademyError: a person must mend that first."""
        await self._follow()

    async def follow(self) -> Served:
        """Look at the ledger now, and follow it where it has a newer row. Trouble is kept in words, not raised."""
        try:
            await self._follow()
        except (AcademyError, OSError, RuntimeError) as problem:  # of the adapter, the disk, the database or the engine
            sentence = str(problem) if isinstance(problem, AcademyError) else f"{type(problem).__name__}: {problem}"
            if sentence != self.trouble:
                log.warning("%s goes on answering: %s", self.pinning.champion.name, sentence)
            self.trouble = sentence
            self.failures += 1
        else:
            self.trouble = ""
            self.failures = 0
        return self.pinning.champion

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(min(LONGEST_PAUSE, self.period * 2 ** min(self.failures, 10)))
            await self.follow()

    async def _follow(self) -> None:
        pinning = self.pinning
        async with self._following:
            wanted = Served.of(await asyncio.to_thread(pinning.ledger.champion))
            if wanted == pinning.champion and pinning.is_ready(wanted.adapter):
                await pinning.tidy()  # what the last requests of an older champion held until now
                return
            before = pinning.champion
            await pinning.bring(wanted.adapter, again=True)
            pinning.flip(wanted)
            try:
                await self.check_alias(wanted)
            except AcademyError:
                pinning.flip(before)
                raise
            finally:
                await pinning.tidy()
            log.info(
                "%s answers now (adapter %s, row %d); before it was %s",
                wanted.name, wanted.adapter[:12], wanted.seq, before.name,
            )  # fmt: skip

    async def check_alias(self, wanted: Served | None = None) -> None:
        """Check whom the name `champion` means, as a request would find them. Raises AdapterError."""
        found = await self.pinning.find("champion")
        with self.pinning.pinned(found):
            if wanted is not None and found != wanted:
                raise AdapterError(
                    f"The champion's name leads to {found.name} and not to {wanted.name}.", "Start the gateway again."
                )
            if found.seq or found.adapter != "base":
                await self.pinning.check(found.adapter)
