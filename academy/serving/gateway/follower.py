"""The champion's pointer follows the ledger: looked at twice a second, and at once when somebody says so.

    newer row -> load -> check by its own name -> flip the pointer -> check by the name `champion` -> unload the rest

Where any of it fails the champion of before goes on answering, the gateway calls itself degraded in one sentence, and
it is tried again after growing pauses. Each look also finds what was refused since, and an engine that has died: it is
started again, each time after a longer pause, until it has lived for a while.
"""

from __future__ import annotations

import asyncio
import logging

from academy.errors import AcademyError, AdapterError, ServingError
from academy.serving.gateway.adapter_pool import DIED, AdapterPool, Served

log = logging.getLogger("academy")
PERIOD = 0.5
LONGEST_PAUSE = 60.0
CALM = 300.0
"""Seconds that an engine must live for its next death to be its first again."""
PROBE = 5.0
"""Seconds after which a server of somebody else that gave no answer is asked whether it is there."""
POINT_SECONDS = 20.0
"""Within which an engine gives its own name to another adapter."""


class ChampionFollower:
    """Keeps one pointer where the ledger says."""

    def __init__(self, pool: AdapterPool, period: float = PERIOD) -> None:
        self.pool = pool
        self.period = period
        self.trouble = ""
        """Why the pointer is not where the ledger says, in one sentence; empty where it is."""
        self.failures = 0
        self.unpointed = ""
        """Why the engine's own name for the champion means another one; empty where it does not."""
        self._pointed = ""
        self._deaths = 0
        self._revived = -CALM  # when the engine was last started again, by the loop's clock
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
                log.warning("%s goes on answering: %s", self.pool.champion.name, sentence)
            self.trouble = sentence
            self.failures += 1
        else:
            self.trouble = ""
            self.failures = 0
        return self.pool.champion

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(min(LONGEST_PAUSE, self.period * 2 ** min(self.failures, 10)))
            await self.follow()

    async def _follow(self) -> None:
        pool = self.pool
        async with self._following:
            await self._revive()
            await pool.look_for_refusals()
            wanted = Served.of(await asyncio.to_thread(pool.ledger.champion))
            if wanted == pool.champion and (pool.is_ready(wanted.adapter) or pool.champion_refused):
                await pool.tidy()  # what the last requests of an older champion held until now
                await self._point()
                return
            before = pool.champion
            await pool.bring(wanted.adapter, again=True)
            pool.flip(wanted)
            try:
                await self.check_alias(wanted)
            except AcademyError:
                pool.flip(before)
                raise
            finally:
                await pool.tidy()
            await self._point()
            log.info(
                "%s answers now (adapter %s, row %d); before it was %s",
                wanted.name, wanted.adapter[:12], wanted.seq, before.name,
            )  # fmt: skip

    async def _revive(self) -> None:
        """Start an engine that has died. Raises ServingError where it died again too soon to try it now."""
        pool = self.pool
        now = asyncio.get_running_loop().time()
        if not pool.runtime.ended:
            if pool.dead and now >= pool.dead_since + PROBE:
                pool.dead_since = now
                await pool.runtime.start()  # free where it answers
                pool.dead = ""
            return
        pool.died(DIED)
        if now >= self._revived + CALM:
            self._deaths = 0
        pause = min(LONGEST_PAUSE, 2.0 ** (self._deaths - 1)) if self._deaths else 0.0
        if now < self._revived + pause:
            raise ServingError(f"The engine died {self._deaths + 1} times.", "It is started again after a pause.")
        self._deaths += 1
        self._revived = now
        log.warning("the engine has died and is started again")
        await pool.revive()
        log.info("%s answers again", pool.champion.name)

    async def _point(self) -> None:
        """Have users who ask the engine directly get the champion. That it fails is told and stops nothing."""
        adapter = self.pool.champion.adapter
        if adapter == self._pointed or adapter in self.pool.refusals:
            return
        try:
            async with asyncio.timeout(POINT_SECONDS):
                await self.pool.runtime.point(adapter)
        except (AcademyError, TimeoutError) as problem:
            sentence = str(problem) or "It did not answer in time."
            if sentence != self.unpointed:
                log.warning("who asks the engine directly does not get the champion: %s", sentence)
            self.unpointed = sentence
        else:
            self._pointed, self.unpointed = adapter, ""

    async def check_alias(self, wanted: Served | None = None) -> None:
        """Check whom the name `champion` means, as a request would find them. Raises AdapterError."""
        found = await self.pool.find("champion")
        with self.pool.pinned(found):
            if wanted is not None and found != wanted:
                raise AdapterError(
                    f"The champion's name leads to {found.name} and not to {wanted.name}.", "Start the gateway again."
                )
            if found.seq or found.adapter != "base":
                await self.pool.prove(found.adapter)
