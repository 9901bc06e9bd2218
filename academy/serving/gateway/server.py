"""The server process of one gateway, from its lock to its last answer.

    lock the name, listen at the port, start the runtime, load the champion, answer, write the discovery file
    SIGTERM or Ctrl-C: refuse new requests, let answers end for a while, remove the discovery file, exit

A second signal ends the process at once.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI

from academy.access.guarded_server import BACKLOG, GuardedServer, limit_logs
from academy.access.layer import AccessLayer, home_rules
from academy.access.rules import AccessRules, Refusal
from academy.access.user_keys import UserKeys
from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.experience.ratings import Quota
from academy.models.base_model import BaseModel
from academy.serving.gateway.adapter_pool import AdapterHooks, AdapterPool
from academy.serving.gateway.app import Access, make_app
from academy.serving.gateway.conversation_log import ConversationLog
from academy.serving.gateway.discovery import FOLDER, DiscoveryFile
from academy.serving.gateway.follower import ChampionFollower
from academy.serving.gateway.gateway import Gateway
from academy.serving.gateway.openai_protocol import RequestError
from academy.serving.gateway.slots import Limits
from academy.serving.runtimes.base import LiveRuntime
from academy.settings import Settings
from academy.store.files import write_file
from academy.store.ledger import Ledger
from academy.store.locks import exclusive_lock

log = logging.getLogger("academy")
IPV4_LOOPBACK, IPV6_LOOPBACK = "127.0.0.1", "::1"
KEEP_NAMED = 2
"""Versions that stay loaded besides the champions because requests named them."""
LAST_WORDS = 3
"""Seconds for connections to close after the last answer."""


class _Server(GuardedServer):
    """Shuts down in two steps: it refuses new requests, then closes the port after the answers or a time limit."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, ready: Callable[[], None]) -> None:
        super().__init__(config, gateway.limits.connections)
        self.gateway = gateway
        self.ready = ready
        self.until: float | None = None  # when running answers are cancelled (the loop's clock)
        gateway.abort = self.abort

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then call `ready`."""
        await super().startup(sockets)
        if self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal; exit at the second."""
        del sig, frame
        if self.gateway.draining:
            self.should_exit = self.force_exit = True
        self.gateway.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; returns whether to exit."""
        if self.gateway.draining and not self.should_exit:
            now = asyncio.get_running_loop().time()
            self.until = now + self.gateway.limits.drain if self.until is None else self.until
            if now >= self.until:
                self.gateway.give_up()
            self.should_exit = now >= self.until or not self.gateway.slots.busy
        return await super().on_tick(counter)

    def abort(self, client: Any) -> None:
        """Close a client's connection and discard its buffers."""
        for connection in list(self.guard.protocols):
            if connection.client == client:
                connection.abort()


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
    """Serve until a signal arrives. Calls `on_ready` with the gateway and its URL once the port is open.

    Raises InputError for a port in use, HomeError where a gateway of this name already runs in this home, AdapterError
    where the ledger's champion cannot be served, and ServingError where the runtime does not start.
    """
    folder = settings.folder(FOLDER)
    busy = f"A gateway named '{name}' already runs in this home; start another one with a different --name."
    with exclusive_lock(folder / f"{name}.lock", busy), listening(host, port) as listeners:
        limits = limits or Limits.of(settings)
        pool = AdapterPool(
            runtime, ledger, settings.folder("adapters"), hooks,
            keep_champions=settings.serve_keep, keep_named=KEEP_NAMED, patience=limits.load,
        )  # fmt: skip
        conversations = ConversationLog(
            store, settings.keep_conversations, settings.keep_share, trusted=frozenset(settings.trusted_keys),
            quota=Quota(per_hour=settings.ratings_per_hour, per_day=settings.ratings_per_day),
        )  # fmt: skip
        gateway = Gateway(base, pool, ChampionFollower(pool), conversations, limits, name)
        discovery = DiscoveryFile(
            name=name, url=_url(listeners[0]), token=secrets.token_urlsafe(32), pid=os.getpid(), family=ledger.family
        )
        key = settings.serve_key.get_secret_value()
        access_rules = Access(key=key, token=discovery.token)
        rules = home_rules(settings, tokens=(key, discovery.token), public=("/healthz",))
        place = folder / f"{name}.json"
        place.unlink(missing_ok=True)  # left by a killed gateway
        try:
            asyncio.run(_serve(gateway, access_rules, rules, listeners, discovery, place, on_ready))
        finally:
            place.unlink(missing_ok=True)


async def _serve(
    gateway: Gateway,
    access_rules: Access,
    rules: AccessRules,
    listeners: list[socket.socket],
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
        app = make_app(gateway, access_rules)
        app.router.lifespan_context = _following(gateway)
        config = uvicorn.Config(
            _closed(app, gateway, rules), log_config=None, access_log=False, proxy_headers=False, server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=LAST_WORDS, lifespan="on", ws="none",
        )  # fmt: skip
        limit_logs()
        await _Server(config, gateway, ready).serve(sockets=listeners)
    finally:
        await gateway.conversations.close()
        await gateway.pool.runtime.close()
        gateway.pool.close()


def _closed(app: FastAPI, gateway: Gateway, rules: AccessRules) -> AccessLayer:
    """The application behind the access layer, whose refusals are OpenAI's error objects."""

    def refuse(refusal: Refusal) -> tuple[str, bytes]:
        gateway.counts[f"refused {refusal.status}"] += 1
        code = "invalid_api_key" if refusal.status == 401 else "not_allowed"
        return "application/json", orjson.dumps(RequestError(refusal.status, refusal.sentence, code=code).body)

    holder_of = UserKeys(gateway.conversations.store.database).holder
    return AccessLayer(app, rules, challenge="Bearer", body=refuse, holder_of=holder_of)


def _following(gateway: Gateway) -> Callable[[FastAPI], Any]:
    """Run the follower while the port is open. If it fails unexpectedly, the gateway goes on and reports it."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (problem := task.exception()) is not None:
            gateway.follower.trouble = (
                f"The gateway no longer follows the ledger ({type(problem).__name__}): restart it."
            )
            log.error("The champion follower failed.", exc_info=problem)

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
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """Sockets that listen at a port. Raises InputError.

    They listen before the server is ready: of a port that is only bound, another account may become the listener.
    `localhost` may mean ::1, so with a port of 127.0.0.1 that of ::1 is taken, too.
    """
    with ExitStack() as stack:
        listeners = [stack.enter_context(_listener(host, port))]
        if host == IPV4_LOOPBACK and port:
            with suppress(_AbsentError):
                listeners.append(stack.enter_context(_listener(IPV6_LOOPBACK, port)))
        yield listeners


class _AbsentError(InputError):
    """This machine does not have the address."""


def _listener(host: str, port: int) -> socket.socket:
    remedy = "Remove --host; the default is 127.0.0.1."
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # with the protocol's number: asyncio disables Nagle's algorithm only for sockets that it knows to be TCP, and
        # otherwise a response's body would wait 40 ms for the acknowledgement of its headers
        listener = socket.socket(family[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as problem:
        raise _AbsentError(f"'{host}' is not an address of this machine.", remedy) from problem
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(family[4])
        listener.listen(BACKLOG)
    except OSError as problem:
        listener.close()
        kind = _AbsentError if problem.errno == errno.EADDRNOTAVAIL else InputError
        raise kind(
            f"Port {port} of {host} cannot be used ({problem.strerror}).", "Choose another port with --port."
        ) from problem
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  an address, not a binding
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"
