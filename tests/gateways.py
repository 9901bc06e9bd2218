"""Gateways for tests: a real server on a free loopback port, with its own home and any live runtime."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai

from academy.adapters.adapter import read_adapter
from academy.adapters.archive import AdapterStore
from academy.errors import AcademyError, AdapterError, ServingError
from academy.experience.lessons import LessonsStore
from academy.lifecycle.gate import refusal
from academy.models.base_model import resolve
from academy.serving.gateway.adapter_pool import AdapterHooks
from academy.serving.gateway.client import GatewayClient
from academy.serving.gateway.gateway import Gateway
from academy.serving.gateway.server import serve
from academy.serving.gateway.slots import Limits
from academy.serving.identity import Identity, check_identity
from academy.serving.runtimes.base import Capabilities, LiveRuntime, Piece, Turn
from academy.settings import Settings
from academy.store.database import Database
from academy.store.ledger import BASE, Ledger
from tests.ledger_entries import CHANGES, ChangeKind

PATIENCE = 20.0


@dataclass
class Running:
    """A running gateway, with its ledger, store and settings."""

    url: str
    gateway: Gateway
    ledger: Ledger
    store: LessonsStore
    settings: Settings
    adapters: Path
    openai: openai.OpenAI  # a user's client, without retries, so that tests see refusals

    @property
    def client(self) -> GatewayClient:
        """The client that promotions use."""
        client = GatewayClient.find(self.settings, self.ledger.family)
        assert client is not None
        return client

    def ask(self, text: str, model: str = "champion", **more: Any) -> Any:
        """A completion by OpenAI's own client, with its headers (`.headers`, `.parse()`)."""
        return self.openai.chat.completions.with_raw_response.create(
            model=model, messages=[{"role": "user", "content": text}], **more
        )

    def make_champion(self, adapter: str, version: str, kind: ChangeKind = "promotion") -> int:
        """Write a row of the ledger as a promotion does."""
        champion = self.ledger.champion()
        generation = 0 if adapter == BASE else champion.generation + 1
        return self.ledger.set_champion(champion, CHANGES[kind](version, adapter, generation)).seq

    def health(self) -> dict[str, Any]:
        content: dict[str, Any] = httpx.get(f"{self.url}/healthz", timeout=PATIENCE).json()
        return content


@contextmanager
def running(
    home: Path,
    runtime: LiveRuntime,
    adapters: Mapping[str, Path] | None = None,
    limits: Limits | None = None,
    before: Callable[[Ledger, Mapping[str, str]], None] = lambda _ledger, _digests: None,
    **settings: Any,
) -> Iterator[Running]:
    """Serve from a thread until the block ends. `adapters`: folders to copy into the home."""
    home_settings = Settings(_env_file=None).model_copy(update={"home": home, **settings})  # type: ignore[call-arg]
    home_settings.folder(".")
    database = Database(home_settings.database)
    database.migrate()
    base = resolve("seed")
    ledger, place = Ledger(database, base.digest), home_settings.folder("adapters")
    for folder in (adapters or {}).values():
        shutil.copytree(folder, place / folder.name, dirs_exist_ok=True)
    before(ledger, {name: digest_of(folder) for name, folder in (adapters or {}).items()})

    async def identify(adapter: str) -> Identity:
        if isinstance(runtime, Obedient):
            return runtime.identify(adapter)
        return await check_identity(runtime, read_adapter(place / adapter[:16], digest=adapter))

    store = AdapterStore(place)

    def restore(adapter: str) -> None:
        store.unpack(adapter)

    hooks = AdapterHooks(identify, restore, partial(refusal, ledger))

    ready, started, failures = threading.Event(), [], []

    def on_ready(gateway: Gateway, url: str) -> None:
        started.append((gateway, url))
        ready.set()

    def run() -> None:
        try:
            serve(
                home_settings, base, ledger, LessonsStore(database), runtime, hooks,
                name="default", host="127.0.0.1", port=0, limits=limits, on_ready=on_ready,
            )  # fmt: skip
        except AcademyError as problem:
            failures.append(problem)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10 * PATIENCE)  # the first gateway of a process imports the tokenizer
    if failures:
        thread.join()
        database.engine.dispose()
        raise failures[0]
    gateway, url = started[0]
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as user:
            yield Running(url, gateway, ledger, LessonsStore(database), home_settings, place, user)
    finally:
        gateway.draining = True
        thread.join(PATIENCE)
        database.engine.dispose()
    assert not thread.is_alive()


def digest_of(folder: Path) -> str:
    return read_adapter(folder).digest


class Obedient:
    """A scripted live runtime: the text of a request decides how it answers.

    `count N` answers with N numbers, `wait` waits until `release` is set, `flood` answers fast and without end, `die`
    fails. Its adapters are folders with any name; `broken` and `forged` are those that fail to load or to answer as
    themselves.
    """

    name = "obedient"
    capabilities = Capabilities(hot=True, rslora=True, dora=True, logprobs=False, tolerance=0.0)

    def __init__(self) -> None:
        self.adapters: set[str] = set()
        self.broken: set[str] = set()
        self.forged: set[str] = set()
        self.proved: list[str] = []
        self.unloaded: list[str] = []
        self.pointed: list[str] = []
        self.silent_alias = False
        self.ended = False
        self.mortal = False  # whether it dies right after each start
        self.started = 0
        self.answering = 0
        self.sent = 0
        self.release = threading.Event()

    @property
    def loaded(self) -> frozenset[str]:
        return frozenset(self.adapters)

    async def start(self) -> None:
        """Start at once; a restarted engine has no adapters."""
        self.started += 1
        if self.ended:
            self.adapters.clear()
            self.ended = self.mortal

    async def point(self, adapter: str) -> str:
        if self.silent_alias:
            raise ServingError("The engine does not answer.", "Retry.")
        self.pointed.append(adapter)
        return "champion"

    async def close(self) -> None:
        self.adapters.clear()

    async def load(self, adapter: Path) -> str:
        digest = adapter.name * 4
        if digest in self.broken:
            raise AdapterError(f"{adapter.name} is damaged.", "Train again.")
        self.adapters.add(digest)
        return digest

    def identify(self, adapter: str) -> Identity:
        """The identity that a check of this adapter reports."""
        self.proved.append(adapter)
        forged = adapter in self.forged
        return Identity(
            adapter=adapter, runtime=self.name, reason="another adapter" if forged else "holds",
            sentence=f"{adapter[:12]} answers like another one." if forged else "It is itself.",
            asked=1, same=not forged,
        )  # fmt: skip

    async def unload(self, adapter: str) -> None:
        self.adapters.discard(adapter)
        self.unloaded.append(adapter)

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        if adapter != BASE and adapter not in self.adapters:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        verb, _, number = turn.messages[-1]["content"].partition(" ")
        self.answering += 1
        try:
            if verb == "die":
                raise ServingError("The engine has died.", "Start it again.")
            if verb == "wait":
                yield Piece(text="one ")
                while not self.release.is_set():
                    await asyncio.sleep(0.01)
            if verb == "silence":
                await asyncio.sleep(PATIENCE)
            while verb == "flood":
                self.sent += 1
                yield Piece(text="flood " * 2000)
            for n in range(int(number or 0)):
                yield Piece(text=f"{n} ")
                await asyncio.sleep(0)
            yield Piece(text=adapter[:8], finish="stop", prompt_tokens=3, tokens=int(number or 0) + 1)
        finally:
            self.answering -= 1


def fake_digest(letter: str) -> str:
    """The digest of an adapter of `Obedient`."""
    return letter * 64
