"""Connections that cost little: bounded in number, and closed where the other side only holds them open.

uvicorn has no time limit for a request's head or body and none for a client that does not read. Its protocol is kept;
once a second `sweep` looks at every connection.

A connection is proven once one of its requests was admitted. Callers on loopback share one address, and only the
home's owner is admitted there without a token: so other accounts have the few unproven connections, and no more.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
import sys
from functools import cache, partial
from typing import Any

import h11
import orjson
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from academy.access.layer import ADMISSION, IS_OPEN
from academy.access.peers import is_loopback
from academy.access.rules import Admission
from academy.access.strict_http import strict_connection
from academy.records import Record

log = logging.getLogger("academy.access.connections")
RESET = struct.pack("ii", 1, 0)
"""With this option, closing a connection discards its undelivered data."""
ESTABLISHED = 1
"""The state of an open connection, the first byte of the kernel's TCP_INFO."""
_TITLES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large", 501: "Not Implemented"}
_SENTENCES = {
    400: "This is not a valid HTTP request.",
    408: "The request did not arrive in time.",
    431: "The request has too many or too large headers.",
    501: "Of the transfer codings only 'chunked' is understood.",
}
BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
)  # fmt: skip
"""The answer to a connection beyond the limits."""


class ConnectionLimits(Record):
    """Limits for the connections of one server. Times are in seconds."""

    total: int = 1024
    per_address: int = 256  # of one other machine
    unproven: int = 128  # of one address, before their first admitted request
    head: float = 10.0  # longest time for a request's line and headers
    body: float = 30.0  # in this time a body must arrive, or go on with `rate`
    rate: int = 1024  # bytes a second
    unread: float = 60.0  # longest time in which a client reads nothing
    closing: float = 10.0  # longest time for the last bytes of a closed connection


class GuardedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, strict, with the marks that `Guard` needs."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], guard: Guard) -> None:
        super().__init__(config, state, app_state)
        self.conn = strict_connection()
        self.guard = guard
        self.began = self.loop.time()
        self.head_since: float | None = self.began
        self.body_since: float | None = None
        self.unread_since: float | None = None
        self.closing_since: float | None = None
        self.received = 0
        self.was_admitted = False

    @property
    def host(self) -> str:
        """The address of the other side."""
        return self.client[0] if self.client else ""

    @property
    def is_fresh(self) -> bool:
        """Whether it waits for a head and no earlier request of it was admitted."""
        return self.conn.their_state is h11.IDLE and not self.is_proven

    @property
    def is_proven(self) -> bool:
        """Whether a request of it was admitted, by a token or as the owner's."""
        if not self.was_admitted and self.scope is not None:
            admission = self.scope.get(ADMISSION)
            self.was_admitted = isinstance(admission, Admission) and admission.by != "public"
        return self.was_admitted

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Count the connection."""
        super().connection_made(transport)
        self.guard.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.guard.protocols.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Note when a head began."""
        self.received += len(data)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self.head_since = None
        elif self.head_since is None and self.cycle is not None and self.conn.trailing_data[0]:
            self.head_since = self.loop.time()

    def handle_events(self) -> None:
        """Keep what the last request proved before the next one replaces it."""
        self.is_proven  # noqa: B018  reads the scope
        super().handle_events()
        scope: Any = self.scope
        if scope is not None:  # its task has not begun
            scope[IS_OPEN] = partial(_is_established, self.transport)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """A websocket has its own protocol from here on."""
        protocol: Any = self.config.ws_protocol_class
        self.ws_protocol_class = _telling_whether_open(protocol) if protocol else None
        self.guard.protocols.discard(self)
        super().handle_websocket_upgrade(event)

    def _unsupported_upgrade_warning(self) -> None:
        """No line in the log for each request that asks for another protocol: it is answered as it is."""

    def pause_writing(self) -> None:
        """Note since when the client does not read."""
        self.unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        self.unread_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP; the status is the one that h11 suggests."""
        del msg
        problem = sys.exception()
        self.refuse(problem.error_status_hint if isinstance(problem, h11.ProtocolError) else 400)

    def refuse(self, status: int) -> None:
        """Answer with an error if no answer has begun, and close."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # the application's answer would come too late
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.abort()
            return
        title, detail = _TITLES.get(status, "Bad Request"), _SENTENCES.get(status, _SENTENCES[400])
        body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
        headers = [
            ("content-type", "application/problem+json"), ("content-length", str(len(body))), ("connection", "close"),
        ]  # fmt: skip
        response = h11.Response(status_code=status, headers=headers, reason=title.encode())
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def abort(self) -> None:
        """Close at once, and discard what the client did not read, in this process and in the system."""
        client_socket = self.transport.get_extra_info("socket")
        if client_socket is not None and client_socket.fileno() != -1:
            client_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()


class Guard:
    """The connections of one server, and their limits."""

    def __init__(self, limits: ConnectionLimits, state: ServerState) -> None:
        self.limits = limits
        self.state = state
        self.protocols: set[GuardedProtocol] = set()
        self.refused = 0

    def has_room(self, host: str) -> bool:
        """Whether a new connection of this address is accepted; an idle one may be closed for it."""
        if not is_loopback(host):
            own = sum(protocol.host == host for protocol in self.protocols)
            if own >= self.limits.per_address:
                return self._refuse(f"{host} has {own} connections")
        if len(self.state.connections) < self.limits.total:
            return True
        idle = [protocol for protocol in self.protocols if protocol.conn.their_state is h11.IDLE]
        if not idle:
            return self._refuse(f"{len(self.state.connections)} connections are open")
        min(idle, key=lambda protocol: (protocol.is_proven, protocol.began)).abort()
        return True

    def add(self, protocol: GuardedProtocol) -> None:
        """Count a new connection. Of too many unproven ones of its address the oldest is closed."""
        self.protocols.add(protocol)
        if len(self.protocols) > self.limits.unproven:
            fresh = [other for other in self.protocols if other.host == protocol.host and other.is_fresh]
            if len(fresh) > self.limits.unproven:
                min(fresh, key=lambda other: other.began).abort()

    def sweep(self) -> None:
        """Close the connections that are too slow. Called once a second."""
        now = asyncio.get_running_loop().time()
        for protocol in list(self.protocols):
            self._check(protocol, now)

    def _check(self, protocol: GuardedProtocol, now: float) -> None:
        limits, theirs = self.limits, protocol.conn.their_state
        if protocol.transport.is_closing():
            protocol.closing_since = protocol.closing_since or now
            if now - protocol.closing_since > limits.closing:
                protocol.abort()
        elif protocol.unread_since is not None and now - protocol.unread_since > limits.unread:
            protocol.abort()
        elif theirs is h11.IDLE:
            if protocol.head_since is not None and now - protocol.head_since > limits.head:
                protocol.refuse(408)
        elif theirs is h11.SEND_BODY and not protocol.flow.read_paused:
            if protocol.body_since is None:
                protocol.body_since, protocol.received = now, 0
            elif now - protocol.body_since > (limits.body if protocol.conn.our_state is not h11.DONE else limits.head):
                if protocol.received < limits.rate * limits.body:
                    protocol.refuse(408)
                protocol.body_since = None
        else:
            protocol.body_since = None
            if protocol.flow.read_paused and _has_left(protocol):
                protocol.abort()

    def _refuse(self, reason: str) -> bool:
        self.refused += 1
        log.warning("A new connection was refused: %s.", reason)
        return False


def _is_established(transport: asyncio.Transport) -> bool:
    """Whether neither side has closed a connection; only then its addresses have been its own all the time."""
    client_socket = transport.get_extra_info("socket")
    if client_socket is None or client_socket.fileno() == -1:
        return False
    return bool(client_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == ESTABLISHED)


@cache
def _telling_whether_open(protocol: Any) -> Any:
    """A protocol of websockets whose scope says whether its connection is open."""

    class Telling(protocol):  # type: ignore[misc]
        async def run_asgi(self) -> None:
            self.scope[IS_OPEN] = partial(_is_established, self.transport)
            await super().run_asgi()

    return Telling


def _has_left(protocol: GuardedProtocol) -> bool:
    """Whether the client has closed its side of a connection that is not read at the moment."""
    client_socket = protocol.transport.get_extra_info("socket")
    if client_socket is None or client_socket.fileno() == -1:
        return False
    poll = select.poll()
    poll.register(client_socket.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))
