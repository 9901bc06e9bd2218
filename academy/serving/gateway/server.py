"""The process that serves: one gateway under one name of a home, from the lock to the last answer.

    lock the name -> take the port -> start the runtime -> load the champion -> open the port -> leave a note
    SIGTERM or Ctrl-C: refuse what is new, let answers end for a while, take the note away, end

A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI

from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.models.base_model import BaseModel
from academy.serving.gateway.adapter_pool import AdapterHooks, AdapterPool
from academy.serving.gateway.app import Access, make_app
from academy.serving.gateway.conversation_log import ConversationLog
from academy.serving.gateway.discovery import FOLDER, DiscoveryFile
from academy.serving.gateway.follower import ChampionFollower
from academy.serving.gateway.gateway import Gateway
from academy.serving.gateway.slots import Limits
from academy.serving.runtimes.base import LiveRuntime
from academy.settings import Settings
from academy.store.files import write_file
from academy.store.ledger import Ledger
from academy.store.locks import only_one

log = logging.getLogger("academy")
GUESTS = 2
"""Versions that stay loaded beside the champions because somebody asked for them by name."""
LAST_WORDS = 3
"""Seconds for connections to end after the last answer."""
BACKLOG = 1024
RESET = struct.pack("ii", 1, 0)
"""A connection that is closed with this forgets what was not delivered."""


class _Server(uvicorn.Server):
    """Ends in two steps: first nothing new is taken, then, when answers have ended or time is up, the port closes."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.gateway = gateway
        self.ready = ready
        self.until: float | None = None  # when answers that have not ended are given up (the loop's clock)
        gateway.abort = self.abort

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then say so."""
        await super().startup(sockets)
        if self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; the second does not wait."""
        del sig, frame
        if self.gateway.draining:
            self.should_exit = self.force_exit = True
        self.gateway.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is over."""
        if self.gateway.draining and not self.should_exit:
            now = asyncio.get_running_loop().time()
            self.until = now + self.gateway.limits.drain if self.until is None else self.until
            if now >= self.until:
                self.gateway.give_up()
            self.should_exit = now >= self.until or not self.gateway.slots.busy
        return await super().on_tick(counter)

    def abort(self, client: Any) -> None:
        """End a client's connection with all that waits in its buffers."""
        for connection in list(self.server_state.connections):
            if getattr(connection, "client", None) == client and connection.transport is not None:
                opened = connection.transport.get_extra_info("socket")
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # what the system holds for it goes, too
                connection.transport.abort()


def serve(
    settings: Settings,
    base: BaseModel,
    ledger: Ledger,
    store: LessonsStore,
    runtime: LiveRuntime,
    hooks: AdapterHooks,
    *,
    name: str,
    host: str,
    port: int,
    limits: Limits | None = None,
    on_ready: Callable[[Gateway, str], None] = lambda _gateway, _url: None,
) -> None:
    """Serve until a signal comes. `on_ready` is called once the port is open.

    Raises InputError for a port that is taken, HomeError where a gateway of this name runs in this home already,
    AdapterError where the ledger's champion cannot be served, ServingError where the runtime does not start.
    """
    folder = settings.folder(FOLDER)
    busy = f"A gateway named '{name}' runs in this home already; another one needs another --name."
    with only_one(folder / f"{name}.lock", busy), listening(host, port) as opened:
        limits = limits or Limits.of(settings)
        pool = AdapterPool(
            runtime, ledger, settings.folder("adapters"), hooks,
            keep=settings.serve_keep, guests=GUESTS, patience=limits.load,
        )  # fmt: skip
        conversations = ConversationLog(store, settings.keep_conversations, settings.keep_share)
        gateway = Gateway(base, pool, ChampionFollower(pool), conversations, limits, name)
        discovery = DiscoveryFile(
            name=name, url=_url(opened), token=secrets.token_urlsafe(32), pid=os.getpid(), family=ledger.family
        )
        key = settings.serve_key.get_secret_value()
        allowed = (
            Access(key=key, token=discovery.token) if not key else Access(key=key, token=discovery.token, hosts=("*",))
        )
        place = folder / f"{name}.json"
        place.unlink(missing_ok=True)  # of a gateway that was killed
        try:
            asyncio.run(_serve(gateway, allowed, opened, discovery, place, on_ready))
        finally:
            place.unlink(missing_ok=True)


async def _serve(
    gateway: Gateway,
    allowed: Access,
    opened: socket.socket,
    discovery: DiscoveryFile,
    place: Path,
    on_ready: Callable[[Gateway, str], None],
) -> None:
    def ready() -> None:
        write_file(place, orjson.dumps(discovery.model_dump()), mode=0o600)
        on_ready(gateway, discovery.url)

    try:
        await gateway.pool.runtime.start()
        await gateway.prompts.prepare()
        await gateway.follower.first()
        app = make_app(gateway, allowed)
        app.router.lifespan_context = _following(gateway)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, proxy_headers=False, server_header=False, backlog=BACKLOG,
            timeout_graceful_shutdown=LAST_WORDS, lifespan="on", ws="none",
        )  # fmt: skip
        await _Server(config, gateway, ready).serve(sockets=[opened])
    finally:
        await gateway.conversations.close()
        await gateway.pool.runtime.close()
        gateway.pool.close()


def _following(gateway: Gateway) -> Callable[[FastAPI], Any]:
    """The follower runs while the port is open. Where it dies by a fault of ours the gateway goes on, and says so."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            gateway.follower.trouble = (
                f"The ledger is not followed any more ({type(problem).__name__}): start it again."
            )
            log.error("the follower died", exc_info=problem)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(gateway.follower.run())
        task.add_done_callback(ended)
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return lifespan


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket with the port, on which nobody is heard yet. Raises InputError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # by its number: asyncio sends at once only what it knows to be TCP, and a reply's body would wait 40 ms for
        # the acknowledgement of its headers
        opened = socket.socket(family[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as problem:
        raise InputError(f"'{host}' is no address of this machine.", "Leave --host away: 127.0.0.1.") from problem
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind(family[4])
        except OSError as problem:
            raise InputError(
                f"Port {port} of {host} cannot be used ({problem.strerror}).", "Choose another one with --port."
            ) from problem
        yield opened


def _url(opened: socket.socket) -> str:
    host, port = opened.getsockname()[:2]
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  an address, not a binding
    return f"http://{f'[{near}]' if ':' in near else near}:{port}"
