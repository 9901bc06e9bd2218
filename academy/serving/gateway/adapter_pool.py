"""Who answers whom: loaded adapters, the requests that each of them is answering, and the champion's one pointer.

A request is pinned when it is admitted, to one adapter and to the ledger's row that vouches for it; what happens to the
pointer afterwards does not concern it. An adapter that somebody is pinned to is never unloaded, and one that is loaded
is never archived.

Everything here runs in one event loop. Looking at the pointer and counting the request are not torn apart by an
`await`, and that is all the locking a pin needs.
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

log = logging.getLogger("academy")
CHAMPION = "champion"
"""The name that always means the ledger's champion."""
DIED = "The engine has died and is started again."


@dataclass(frozen=True)
class AdapterHooks:
    """What the house behind a gateway knows of adapters. `restore` and `refusal` block: they are called in threads."""

    check: Callable[[str], Awaitable[Identity]]
    """Looks whether what the runtime calls by a digest is that adapter. Raises AdapterError for one not admitted."""
    restore: Callable[[str], None]
    """Brings an archived adapter back. Raises AdapterError."""
    refusal: Callable[[str, Collection[str]], str]
    """Why an adapter with these version numbers must not be served, in one sentence; empty where it may."""


class Served(Record):
    """Who answers a request, and the ledger's row that says it may."""

    version: str = BASE
    adapter: str = BASE
    generation: int = 0
    seq: int = 0

    @classmethod
    def of(cls, champion: Champion) -> Served:
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
    """The adapters of one live runtime, and who is pinned to them."""

    def __init__(
        self,
        runtime: LiveRuntime,
        ledger: Ledger,
        adapters: Path,
        hooks: AdapterHooks,
        *,
        keep: int,
        guests: int,
        patience: float,
    ) -> None:
        """`keep` champions stay loaded, the present one among them, and `guests` versions that were asked for by name.

        `patience` is how many seconds loading and checking one adapter may take.
        """
        self.runtime = runtime
        self.ledger = ledger
        self.adapters = adapters
        self.hooks = hooks
        self.leases = Leases(AdapterStore(adapters))
        self.refusals: dict[str, str] = {}
        """Why adapters that are loaded, or were, may not be served; looked up anew now and then."""
        self.dead = ""
        """Why no runtime answers, in one sentence; empty while one does."""
        self.dead_since = 0.0  # the loop's clock
        self.starting = False  # the engine, after it had died
        self.keep = keep
        self.most_guests = guests
        self.patience = patience
        self.champion = Served()
        self.in_flight: Counter[str] = Counter()
        self.swaps = 0
        self.flip_seconds = 0.0  # what the last change of the pointer took
        self._crowned: list[str] = []  # champions' adapters, the newest last
        self._guests: list[str] = []  # adapters asked for by name, the last used last
        self._checked: set[str] = set()
        self._known: dict[str, Served] = {}
        self._loading = asyncio.Lock()

    @contextmanager
    def pinned(self, served: Served) -> Iterator[Served]:
        """Count a request for as long as it lasts."""
        self.in_flight[served.adapter] += 1
        try:
            yield served
        finally:
            self.in_flight[served.adapter] -= 1
            if not self.in_flight[served.adapter]:
                del self.in_flight[served.adapter]

    def died(self, sentence: str) -> None:
        """Note that the runtime gave no answer."""
        self.dead, self.dead_since = sentence, asyncio.get_running_loop().time()

    async def revive(self) -> None:
        """Start an engine that has died, and load and check the champion again. Raises AcademyError."""
        self.starting = True
        self._checked.clear()
        try:
            await self.runtime.start()
            if not self.champion_refused:
                await self.bring(self.champion.adapter, again=True)
        finally:
            self.starting = False
        self.dead = ""

    @property
    def champion_refused(self) -> str:
        """Why the champion is not served, with the remedy; empty where nobody refused it."""
        why = self.refusals.get(self.champion.adapter, "")
        return why and f"The champion {self.champion.name} is refused: {why} `academy rollback` goes back to another."

    def refuse(self, served: Served) -> None:
        """Raises RequestError for an adapter that was refused since it was loaded: 503 where it is the champion's."""
        if served.adapter == self.champion.adapter and (why := self.champion_refused):
            raise RequestError(503, why, code="champion_refused", retry=30)
        if why := self.refusals.get(served.adapter, ""):
            raise _refused(why)

    async def look_for_refusals(self) -> None:
        """Ask which of the loaded adapters, and of those that were refused before, may not be served now."""
        asked = {*self.runtime.loaded, *self.refusals, self.champion.adapter} - {BASE}
        if not all(self._numbers(adapter) for adapter in asked):
            self._known = await asyncio.to_thread(known_versions, self.ledger)
        found = {adapter: await self._refusal(adapter) for adapter in sorted(asked)}
        found = {adapter: why for adapter, why in found.items() if why}
        for adapter in found.keys() - self.refusals.keys():
            log.warning("the adapter %s is not served any more: %s", adapter[:12], found[adapter])
        self.refusals = found

    async def _refusal(self, adapter: str) -> str:
        return await asyncio.to_thread(self.hooks.refusal, adapter, self._numbers(adapter))

    def _numbers(self, adapter: str) -> list[str]:
        """The versions that an adapter is known as."""
        found = [one.version for one in self._known.values() if one.adapter == adapter]
        return found or [self.champion.version] * (adapter == self.champion.adapter)

    def is_ready(self, adapter: str) -> bool:
        """Whether an adapter is loaded and was checked here."""
        return adapter == BASE or (adapter in self._checked and adapter in self.runtime.loaded)

    async def find(self, name: str) -> Served:
        """Whom a request means: `champion`, `base`, a version (`v7`, `7`), an adapter's digest, a name of the family.

        Raises RequestError (404) for what nobody examined and nobody loaded by hand.
        """
        if name in (CHAMPION, self.ledger.family):
            return self.champion
        if name == BASE:
            return Served()
        if (known := self._known_as(name)) is not None:
            return known
        self._known = await asyncio.to_thread(known_versions, self.ledger)
        if (known := self._known_as(name)) is not None:
            return known
        if self.is_ready(name):
            return Served(version=name[:12], adapter=name)  # loaded by hand, before its examination
        raise RequestError(
            404,
            f"There is no model '{name[:80]}': ask /v1/models for the names.",
            param="model",
            code="model_not_found",
        )

    def _known_as(self, name: str) -> Served | None:
        number = self._known.get(name.removeprefix("v"))
        return number or next((one for one in self._known.values() if one.adapter == name), None)

    async def names(self) -> list[str]:
        """What can be named now: the champion, the base model, and the versions that the ledger knows."""
        self._known = await asyncio.to_thread(known_versions, self.ledger)
        return [CHAMPION, BASE, *(one.name for one in self._known.values())]

    async def invite(self, adapter: str) -> None:
        """Have an adapter ready that is asked for by name; the least recently used of those goes.

        Whoever wants to use it is pinned to it before: so it cannot go in between.
        """
        if adapter not in (self.champion.adapter, BASE):
            if adapter in self._guests:
                self._guests.remove(adapter)
            self._guests.append(adapter)
        if not self.is_ready(adapter):
            if adapter != BASE and (why := await self._refusal(adapter)):
                raise _refused(why)
            await self.bring(adapter)
            await self.tidy()

    async def bring(self, adapter: str, *, again: bool = False) -> None:
        """Have an adapter loaded and checked by its own name; `again`: check it although it was.

        Raises AdapterError for one that is not what its name says, and leaves it out; ServingError where that took too
        long.
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
                    await self.prove(adapter)
                except AdapterError:
                    if (
                        not was_ready
                    ):  # else there may be answers that it has begun; `tidy` takes it when they have ended
                        await self.runtime.unload(adapter)
                    raise
                self._checked.add(adapter)
        except TimeoutError:
            raise ServingError(
                f"Loading the adapter {adapter[:12]} took more than {self.patience:g} seconds.",
                "Look at the runtime's log.",
            ) from None

    async def look(self, adapter: str) -> Identity:
        """Look who answers by an adapter's name. Raises AdapterError where it is not admitted or not loaded."""
        if adapter == BASE:
            sentence = "The base model answers as itself."
            return Identity(
                adapter=BASE, runtime=self.runtime.name, reason="holds", sentence=sentence, asked=0, same=0
            )  # fmt: skip
        return await self.hooks.check(adapter)

    async def prove(self, adapter: str) -> None:
        """Raises AdapterError where not this adapter answers by its name."""
        found = await self.look(adapter)
        if not found.holds:
            raise AdapterError(
                f"The adapter {adapter[:12]} is not served: {found.reason}. {found.sentence}",
                "`academy doctor` and the runtime's log may tell more; or train again.",
            )

    async def _load(self, adapter: str) -> None:
        await self.leases.acquire(adapter)
        if not self.leases.store.here(adapter) and self.leases.store.packed(adapter) is not None:
            await asyncio.to_thread(self.hooks.restore, adapter)
        found = await self.runtime.load(self.adapters / adapter[:16])
        if found != adapter:
            await self.runtime.unload(found)
            raise AdapterError(
                f"The folder of {adapter[:12]} holds the adapter {found[:12]}.", "It is not served; train again."
            )

    def flip(self, served: Served) -> None:
        """Let the name `champion` mean somebody else from this moment on. What was admitted before is not touched."""
        self.swaps += bool(self._crowned) and served != self.champion
        began = time.perf_counter()
        self.champion = served
        self.flip_seconds = time.perf_counter() - began
        if served.adapter in self._crowned:
            self._crowned.remove(served.adapter)
        self._crowned.append(served.adapter)

    async def tidy(self) -> None:
        """Unload what is neither kept nor used by anybody. Called after every change and every now and then."""
        async with self._loading:
            self._crowned = self._crowned[-self.keep :]
            self._guests = self._guests[-self.most_guests :]
            kept = {*self._crowned, *self._guests, self.champion.adapter} - self.refusals.keys()
            for adapter in sorted(self.runtime.loaded - kept):
                if not self.in_flight[adapter]:
                    self._checked.discard(adapter)  # whoever asks for it from here on has it loaded again
                    await self.runtime.unload(adapter)
            self.leases.release_all_but(self.runtime.loaded)

    def close(self) -> None:
        """Use no adapter any more; the runtime has ended."""
        self.leases.release_all_but(())


def _refused(why: str) -> RequestError:
    return RequestError(403, f"It may not be served: {why}", param="model", code="adapter_refused")


def known_versions(ledger: Ledger) -> dict[str, Served]:
    """Versions that were examined or crowned, by number, with the last row that names them."""
    found: dict[str, Served] = {}
    for row in ledger.rows("verdict", "promotion", "rollback"):
        version = str(row.body.get("version") or "")
        adapter = str(row.body.get("challenger") or row.body.get("adapter") or "")
        if version and adapter and version != BASE:
            generation = int(row.body.get("generation") or 0)
            found[version] = Served(version=version, adapter=adapter, generation=generation, seq=row.seq)
    return found
