"""Who answers whom: loaded adapters, the requests that each of them is answering, and the champion's one pointer.

A request is pinned when it is admitted, to one adapter and to the ledger's row that vouches for it; what happens to the
pointer afterwards does not concern it. An adapter that somebody is pinned to is never unloaded.

Everything here runs in one event loop. Looking at the pointer and counting the request are not torn apart by an
`await`, and that is all the locking a pin needs.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from academy.artifacts import Record
from academy.errors import AdapterError, ServingError
from academy.habitat.archive import AdapterStore
from academy.ledger import BASE, Champion, Ledger
from academy.serving.runtime import LiveRuntime
from academy.serving.wire import RequestError

CHAMPION = "champion"
"""The name that always means the ledger's champion."""
Check = Callable[[str], Awaitable[None]]
"""Proves that what a runtime calls by a digest is that adapter. Raises AdapterError."""


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


class Pinning:
    """The adapters of one live runtime, and who is pinned to them."""

    def __init__(
        self,
        runtime: LiveRuntime,
        ledger: Ledger,
        adapters: Path,
        check: Check,
        *,
        keep: int,
        guests: int,
        patience: float,
        withdrawn: Callable[[str], str] = lambda _adapter: "",
    ) -> None:
        """`keep` champions stay loaded, the present one among them, and `guests` versions that were asked for by name.

        `patience` is how many seconds loading and checking one adapter may take. `withdrawn` says of a loaded adapter
        (a digest) why it must not be served any more; such a one is unloaded. The champion goes on, and it is told.
        """
        self.runtime = runtime
        self.ledger = ledger
        self.adapters = adapters
        self.check = check
        self.keep = keep
        self.most_guests = guests
        self.patience = patience
        self.withdrawn = withdrawn
        self.champion = Served()
        self.in_flight: Counter[str] = Counter()
        self.warning = ""
        """Why the champion should not be one any more, in one sentence; empty as a rule."""
        self.swaps = 0
        self.flip_seconds = 0.0  # what the last change of the pointer took
        self._crowned: list[str] = []  # champions' adapters, the newest last
        self._guests: list[str] = []  # adapters asked for by name, the last used last
        self._checked: set[str] = set()
        self._known: dict[str, Served] = {}
        self._uses: dict[str, ExitStack] = {}  # of each loaded adapter: nobody puts it away meanwhile
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
                    await self.check(adapter)
                except AdapterError:
                    if (
                        not was_ready
                    ):  # else there may be answers that it has begun; `tidy` takes it when they have ended
                        await self._unload(adapter)
                    raise
                self._checked.add(adapter)
        except TimeoutError:
            raise ServingError(
                f"Loading the adapter {adapter[:12]} took more than {self.patience:g} seconds.",
                "Look at the runtime's log.",
            ) from None

    async def _load(self, adapter: str) -> None:
        if adapter not in self._uses:
            use = ExitStack()
            await asyncio.to_thread(use.enter_context, AdapterStore(self.adapters).using(adapter))
            self._uses[adapter] = use
        found = await self.runtime.load(self.adapters / adapter[:16])
        if found != adapter:
            await self.runtime.unload(found)
            raise AdapterError(
                f"The folder of {adapter[:12]} holds the adapter {found[:12]}.", "It is not served; train again."
            )

    async def _unload(self, adapter: str) -> None:
        await self.runtime.unload(adapter)
        if (use := self._uses.pop(adapter, None)) is not None:
            use.close()

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
            why = {adapter: await asyncio.to_thread(self.withdrawn, adapter) for adapter in self.runtime.loaded}
            withdrawn = {adapter for adapter, sentence in why.items() if sentence} - {self.champion.adapter}
            self.warning = why.get(self.champion.adapter, "")
            self._crowned = self._crowned[-self.keep :]
            self._guests = self._guests[-self.most_guests :]
            kept = {*self._crowned, *self._guests, self.champion.adapter} - withdrawn
            for adapter in sorted(self.runtime.loaded - kept):
                if not self.in_flight[adapter]:
                    self._checked.discard(adapter)  # whoever asks for it from here on has it loaded again
                    await self._unload(adapter)
            for adapter in self._uses.keys() - self.runtime.loaded:  # what could not be loaded is not used either
                self._uses.pop(adapter).close()


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
