"""Keeps the gateway's champion equal to the ledger's: reads the ledger twice a second, and at once on request.

    newer row -> load -> check by its own name -> switch -> check by the name `champion` -> unload the rest

Where a step fails, the previous champion goes on answering, the gateway reports `degraded` with one sentence, and the
next attempts follow after growing pauses. Each reading also updates the refusals and restarts an engine that has died,
each time after a longer pause, until the engine has run for a while.
"""

from __future__ import annotations

import asyncio
import logging

from academy.errors import AcademyError, AdapterError, ServingError
from academy.serving.gateway.adapter_pool import DIED, AdapterPool, ServedVersion

log = logging.getLogger("academy")
PERIOD = 0.5
LONGEST_PAUSE = 60.0
CALM = 300.0
"""An engine that ran for this many seconds restarts without a pause when it dies."""
PROBE = 5.0
"""Interval in seconds for checking a server that we do not run and that did not answer."""
POINT_SECONDS = 20.0
"""Limit in seconds for changing the engine's own alias."""


class ChampionFollower:
    """Keeps a pool's champion equal to the ledger's."""

    def __init__(self, pool: AdapterPool, period: float = PERIOD) -> None:
        self.pool = pool
        self.period = period
        self.trouble = ""
        """Why the champion differs from the ledger's, in one sentence; empty where it does not."""
        self.failures = 0
        self.unpointed = ""
        """Why the engine's own alias does not mean the champion; empty where it does."""
        self._pointed = ""
        self._deaths = 0
        self._restarted = -CALM  # time of the last restart of the engine, by the loop's clock
        self._following = asyncio.Lock()

    async def first(self) -> None:
        """Load the ledger's champion before the port opens. Raises AcademyError where that is impossible."""
        await self._follow()

    async def follow(self) -> ServedVersion:
        """Read the ledger now and follow a newer row. A failure is recorded in `trouble`, not raised."""
        try:
            await self._follow()
        except (AcademyError, OSError, RuntimeError) as problem:  # adapter, disk, database or engine
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
            await self._restart_engine()
            await pool.update_refusals()
            target = ServedVersion.of(await asyncio.to_thread(pool.ledger.champion))
            if target == pool.champion and (pool.is_ready(target.adapter) or pool.champion_refused):
                await pool.unload_unused()  # older champions whose last requests have ended
                await self._point()
                return
            previous = pool.champion
            await pool.load_checked(target.adapter, again=True)
            pool.switch(target)
            try:
                await self.check_alias(target)
            except AcademyError:
                pool.switch(previous)
                raise
            finally:
                await pool.unload_unused()
            await self._point()
            log.info(
                "%s is the champion now (adapter %s, row %d); previously %s",
                target.name, target.adapter[:12], target.seq, previous.name,
            )  # fmt: skip

    async def _restart_engine(self) -> None:
        """Restart a dead engine. Raises ServingError during the pause after an early death."""
        pool = self.pool
        now = asyncio.get_running_loop().time()
        if not pool.runtime.ended:
            if pool.dead and now >= pool.dead_since + PROBE:
                pool.dead_since = now
                await pool.runtime.start()  # costs nothing where it answers
                pool.dead = ""
            return
        pool.mark_dead(DIED)
        if now >= self._restarted + CALM:
            self._deaths = 0
        pause = min(LONGEST_PAUSE, 2.0 ** (self._deaths - 1)) if self._deaths else 0.0
        if now < self._restarted + pause:
            raise ServingError(f"The engine died {self._deaths + 1} times.", "The gateway restarts it after a pause.")
        self._deaths += 1
        self._restarted = now
        log.warning("The engine has died and is being restarted.")
        await pool.restart_engine()
        log.info("%s answers again.", pool.champion.name)

    async def _point(self) -> None:
        """Point the engine's own alias, for clients that bypass the gateway, at the champion. Failures are logged."""
        adapter = self.pool.champion.adapter
        if adapter == self._pointed or adapter in self.pool.refusals:
            return
        try:
            async with asyncio.timeout(POINT_SECONDS):
                await self.pool.runtime.point(adapter)
        except (AcademyError, TimeoutError) as problem:
            sentence = str(problem) or "The engine did not answer in time."
            if sentence != self.unpointed:
                log.warning("Clients that bypass the gateway do not get the champion: %s", sentence)
            self.unpointed = sentence
        else:
            self._pointed, self.unpointed = adapter, ""

    async def check_alias(self, target: ServedVersion | None = None) -> None:
        """Check the adapter behind the name `champion`, as a request resolves it. Raises AdapterError."""
        current = await self.pool.resolve("champion")
        with self.pool.pin(current):
            if target is not None and current != target:
                raise AdapterError(
                    f"The name `champion` means {current.name} instead of {target.name}.", "Restart the gateway."
                )
            if current.seq or current.adapter != "base":
                await self.pool.require_identity(current.adapter)
