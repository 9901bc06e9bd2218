"""The pool of loaded adapters: which adapter each request uses, and which adapter the name `champion` means.

A request is pinned at its admission to one adapter, and to the ledger row that allows it; a later change of the
champion does not affect it. An adapter with pinned requests is never unloaded, and a loaded adapter is never archived.

Everything here runs in one event loop. No `await` separates reading the champion from counting the request, so a pin
needs no other lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from academy.adapters.archive import AdapterStore
from academy.errors import AdapterError, ServingError
from academy.records import Record
from academy.serving.gateway.leases import Leases
from academy.serving.gateway.openai_protocol import RequestError
from academy.serving.identity import Identity
from academy.serving.runtimes.base import LiveRuntime
from academy.store.ledger import BASE, Champion, Ledger
from academy.store.ledger_rows import ChampionEntry, PromotionEntry, RollbackEntry, VerdictEntry

log = logging.getLogger("academy")
CHAMPION = "champion"
"""The name that always means the ledger's champion."""
DIED = "The engine has died and is being restarted."


@dataclass(frozen=True)
class AdapterHooks:
    """What the pool needs from its caller. `restore` and `refusal` block, so the pool calls them in threads."""

    check: Callable[[str], Awaitable[Identity]]
    """Checks that the runtime answers with this adapter. Raises AdapterError where it is not admitted."""
    restore: Callable[[str], None]
    """Restores an archived adapter. Raises AdapterError."""
    refusal: Callable[[str, Collection[str]], str]
    """Why an adapter with these version numbers must not be served, in one sentence; empty where it may."""


class ServedVersion(Record):
    """The version and adapter that answer a request, and the ledger row that allows it."""

    version: str = BASE
    adapter: str = BASE
    generation: int = 0
    seq: int = 0

    @classmethod
    def of(cls, champion: Champion) -> ServedVersion:
        """The ledger's champion."""
        return cls(version=champion.version, adapter=champion.adapter, generation=champion.generation, seq=champion.seq)

    @property
    def name(self) -> str:
        """As shown to people: `v7` or `base`."""
        return self.version if self.version == BASE else f"v{self.version}"

    @property
    def fingerprint(self) -> str:
        """For `system_fingerprint`: version, adapter and row."""
        return f"{self.name}-{self.adapter[:16]}-{self.seq}"


class AdapterPool:
    """The loaded adapters of one live runtime, and the requests pinned to them."""

    def __init__(
        self,
        runtime: LiveRuntime,
        ledger: Ledger,
        adapters: Path,
        hooks: AdapterHooks,
        *,
        keep_champions: int,
        keep_named: int,
        patience: float,
    ) -> None:
        """`keep_champions`: the newest champions that stay loaded, including the current one. `keep_named`: the most
        recently used versions that stay loaded because requests named them. `patience`: the limit in seconds for
        loading and checking one adapter.
        """
        self.runtime = runtime
        self.ledger = ledger
        self.adapters = adapters
        self.hooks = hooks
        self.leases = Leases(AdapterStore(adapters))
        self.refusals: dict[str, str] = {}
        """Why adapters may not be served, by digest; updated with every reading of the ledger."""
        self.dead = ""
        """Why the runtime does not answer, in one sentence; empty while it does."""
        self.dead_since = 0.0  # by the loop's clock
        self.starting = False  # whether a dead engine is being restarted
        self.keep_champions = keep_champions
        self.keep_named = keep_named
        self.patience = patience
        self.champion = ServedVersion()
        self.in_flight: Counter[str] = Counter()
        self.swaps = 0
        self.switch_seconds = 0.0  # duration of the last change of the champion
        self._champions: list[str] = []  # adapters of champions, the newest last
        self._named: list[str] = []  # adapters that requests named, the most recently used last
        self._checked: set[str] = set()
        self._versions: dict[str, ServedVersion] = {}
        self._loading = asyncio.Lock()

    @contextmanager
    def pin(self, target: ServedVersion) -> Iterator[ServedVersion]:
        """Pin a request to its adapter until the block ends."""
        self.in_flight[target.adapter] += 1
        try:
            yield target
        finally:
            self.in_flight[target.adapter] -= 1
            if not self.in_flight[target.adapter]:
                del self.in_flight[target.adapter]

    def mark_dead(self, sentence: str) -> None:
        """Record that the runtime did not answer."""
        self.dead, self.dead_since = sentence, asyncio.get_running_loop().time()

    async def restart_engine(self) -> None:
        """Restart a dead engine, then load and check the champion again. Raises AcademyError."""
        self.starting = True
        self._checked.clear()
        try:
            await self.runtime.start()
            if not self.champion_refused:
                await self.load_checked(self.champion.adapter, again=True)
        finally:
            self.starting = False
        self.dead = ""

    @property
    def champion_refused(self) -> str:
        """Why the champion is not served, with the fix; empty where it is."""
        why = self.refusals.get(self.champion.adapter, "")
        return (
            why and f"The champion {self.champion.name} is refused: {why} `academy rollback` restores an earlier one."
        )

    def refuse(self, target: ServedVersion) -> None:
        """Raise RequestError for an adapter that was refused after its loading: 503 for the champion, else 403."""
        if target.adapter == self.champion.adapter and (why := self.champion_refused):
            raise RequestError(503, why, code="champion_refused", retry=30)
        if why := self.refusals.get(target.adapter, ""):
            raise _refused(why)

    async def update_refusals(self) -> None:
        """Find out which loaded or previously refused adapters may not be served now."""
        adapters = {*self.runtime.loaded, *self.refusals, self.champion.adapter} - {BASE}
        if not all(self._numbers(adapter) for adapter in adapters):
            self._versions = await asyncio.to_thread(known_versions, self.ledger)
        reasons = {adapter: await self._refusal(adapter) for adapter in sorted(adapters)}
        refusals = {adapter: why for adapter, why in reasons.items() if why}
        for adapter in refusals.keys() - self.refusals.keys():
            log.warning("The adapter %s is no longer served: %s", adapter[:12], refusals[adapter])
        self.refusals = refusals

    async def _refusal(self, adapter: str) -> str:
        return await asyncio.to_thread(self.hooks.refusal, adapter, self._numbers(adapter))

    def _numbers(self, adapter: str) -> list[str]:
        """The version numbers of an adapter."""
        numbers = [target.version for target in self._versions.values() if target.adapter == adapter]
        return numbers or [self.champion.version] * (adapter == self.champion.adapter)

    def is_ready(self, adapter: str) -> bool:
        """Whether an adapter is loaded and passed its check in this pool."""
        return adapter == BASE or (adapter in self._checked and adapter in self.runtime.loaded)

    async def resolve(self, name: str) -> ServedVersion:
        """The version behind `champion`, `base`, a version (`v7`, `7`), an adapter's digest, or the family's digest.

        Raises RequestError (404) for a version that was neither examined nor loaded by hand.
        """
        if name in (CHAMPION, self.ledger.family):
            return self.champion
        if name == BASE:
            return ServedVersion()
        if (target := self._version(name)) is not None:
            return target
        self._versions = await asyncio.to_thread(known_versions, self.ledger)
        if (target := self._version(name)) is not None:
            return target
        if self.is_ready(name):
            return ServedVersion(version=name[:12], adapter=name)  # loaded by hand, before its examination
        raise RequestError(
            404,
            f"The model '{name[:80]}' does not exist. GET /v1/models lists the names.",
            param="model",
            code="model_not_found",
        )

    def _version(self, name: str) -> ServedVersion | None:
        number = self._versions.get(name.removeprefix("v"))
        return number or next((target for target in self._versions.values() if target.adapter == name), None)

    async def names(self) -> list[str]:
        """The available names: the champion, the base model, and the versions of the ledger."""
        self._versions = await asyncio.to_thread(known_versions, self.ledger)
        return [CHAMPION, BASE, *(target.name for target in self._versions.values())]

    async def make_ready(self, adapter: str) -> None:
        """Load and check an adapter that a request names; the least recently used one of them is unloaded.

        Callers pin the request first, so that the adapter cannot be unloaded in between.
        """
        if adapter not in (self.champion.adapter, BASE):
            if adapter in self._named:
                self._named.remove(adapter)
            self._named.append(adapter)
        if not self.is_ready(adapter):
            if adapter != BASE and (why := await self._refusal(adapter)):
                raise _refused(why)
            await self.load_checked(adapter)
            await self.unload_unused()

    async def load_checked(self, adapter: str, *, again: bool = False) -> None:
        """Load an adapter and check its identity; `again` checks it even if it passed before.

        Raises AdapterError, and unloads the adapter, where it does not answer as itself. Raises ServingError where this
        takes too long.
        """
        if not again and self.is_ready(adapter):
            return
        try:
            async with asyncio.timeout(self.patience), self._loading:
                if adapter == BASE or (not again and self.is_ready(adapter)):
                    return
                was_ready = self.is_ready(adapter)
                self._checked.discard(adapter)
                try:
                    await self._load(adapter)
                    await self.require_identity(adapter)
                except AdapterError:
                    if not was_ready:  # otherwise it may still be answering; `unload_unused` removes it after them
                        await self.runtime.unload(adapter)
                    raise
                self._checked.add(adapter)
        except TimeoutError:
            raise ServingError(
                f"Loading the adapter {adapter[:12]} took more than {self.patience:g} seconds.",
                "Check the runtime's log.",
            ) from None

    async def identify(self, adapter: str) -> Identity:
        """Check which adapter answers by a digest. Raises AdapterError where it is not admitted or not loaded."""
        if adapter == BASE:
            sentence = "The base model answers as itself."
            return Identity(
                adapter=BASE, runtime=self.runtime.name, reason="holds", sentence=sentence, asked=0, same=0
            )  # fmt: skip
        return await self.hooks.check(adapter)

    async def require_identity(self, adapter: str) -> None:
        """Raise AdapterError where the runtime does not answer with this adapter."""
        identity = await self.identify(adapter)
        if not identity.holds:
            raise AdapterError(
                f"The adapter {adapter[:12]} is not served: {identity.reason}. {identity.sentence}",
                "Check `academy doctor` and the runtime's log, or train again.",
            )

    async def _load(self, adapter: str) -> None:
        await self.leases.acquire(adapter)
        if not self.leases.store.here(adapter) and self.leases.store.package(adapter) is not None:
            await asyncio.to_thread(self.hooks.restore, adapter)
        digest = await self.runtime.load(self.adapters / adapter[:16])
        if digest != adapter:
            await self.runtime.unload(digest)
            raise AdapterError(
                f"The folder of {adapter[:12]} holds the adapter {digest[:12]}.", "It is not served; train again."
            )

    def switch(self, target: ServedVersion) -> None:
        """Make the name `champion` mean this version from now on. Earlier requests are not affected."""
        self.swaps += bool(self._champions) and target != self.champion
        began = time.perf_counter()
        self.champion = target
        self.switch_seconds = time.perf_counter() - began
        if target.adapter in self._champions:
            self._champions.remove(target.adapter)
        self._champions.append(target.adapter)

    async def unload_unused(self) -> None:
        """Unload adapters that are neither kept nor in use; called with every reading of the ledger."""
        async with self._loading:
            self._champions = self._champions[-self.keep_champions :]
            self._named = self._named[-self.keep_named :]
            keep = {*self._champions, *self._named, self.champion.adapter} - self.refusals.keys()
            for adapter in sorted(self.runtime.loaded - keep):
                if not self.in_flight[adapter]:
                    self._checked.discard(adapter)  # a later request loads it again
                    await self.runtime.unload(adapter)
            self.leases.release_all_but(self.runtime.loaded)

    def close(self) -> None:
        """Release all leases; the runtime has ended."""
        self.leases.release_all_but(())


def _refused(why: str) -> RequestError:
    return RequestError(403, f"This model may not be served: {why}", param="model", code="adapter_refused")


def known_versions(ledger: Ledger) -> dict[str, ServedVersion]:
    """Versions that were examined or promoted, by number, with the last row that names them."""
    versions: dict[str, ServedVersion] = {}
    for row in ledger.rows(VerdictEntry, PromotionEntry, RollbackEntry):
        entry = row.body
        if entry.version and entry.digest and entry.version != BASE:
            generation = entry.generation if isinstance(entry, ChampionEntry) else 0
            versions[entry.version] = ServedVersion(
                version=entry.version, adapter=entry.digest, generation=generation, seq=row.seq
            )
    return versions
