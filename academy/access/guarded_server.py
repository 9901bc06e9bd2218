"""The server process of Prefect, MLflow and the gateway: uvicorn, with guarded connections and reserved file handles.

asyncio's own accept loop goes on where no file handle is free: it writes a traceback for every try, thousands a
second, and the process has no handle left for its database. So the number of connections leaves a reserve.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from academy.access.guarded_connections import BUSY, ConnectionLimits, Guard, GuardedProtocol
from academy.border.plain_text import plain_logs

log = logging.getLogger("academy.access.server")
BACKLOG = 1024
RESERVE = 128
"""File handles for the database, files and children of a server."""
FEWEST = 16
"""Connections that a server accepts with however few handles."""
MOST_HANDLES = 65_536
PAUSE = 1.0
"""Seconds without accepting after the system had no handle or memory."""
REPEATED, WINDOW = 5, 60.0
"""Most lines of one kind in a server's log in this many seconds."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class GuardedServer(uvicorn.Server):
    """uvicorn's server on sockets that are bound already."""

    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits) -> None:
        super().__init__(config)
        self.guard = Guard(fitting(limits), self.server_state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then accept connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self.servers = [_Acceptor(self, listener) for listener in sockets or ()]  # type: ignore[misc]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; looks at the connections once a second."""
        if counter % 10 == 0:
            self.guard.sweep()
        return await super().on_tick(counter)

    def protocol(self) -> GuardedProtocol:
        """The protocol of a new connection."""
        return GuardedProtocol(self.config, self.server_state, self.lifespan.state, self.guard)


class _Acceptor:
    """Accepts the connections of one listening socket, as asyncio's Server does."""

    def __init__(self, server: GuardedServer, listener: socket.socket) -> None:
        self.server = server
        self.listener = listener
        listener.setblocking(False)
        listener.listen(server.config.backlog)
        self._task = asyncio.get_running_loop().create_task(self._accept())

    def close(self) -> None:
        """Accept nothing more."""
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Wait for the end of `close`."""
        with suppress(asyncio.CancelledError):
            await self._task

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self.listener)
            except OSError as problem:
                if problem.errno in _EXHAUSTED:
                    log.error("No connection can be accepted (%s); those that are open go on.", problem.strerror)  # noqa: TRY400
                    await asyncio.sleep(PAUSE)
                continue  # otherwise a client that left before it was accepted
            if self.server.guard.has_room(address[0]):
                with suppress(OSError):  # a client that has left already
                    await loop.connect_accepted_socket(self.server.protocol, connection)
            else:
                with connection, suppress(OSError):
                    connection.send(BUSY)
            await asyncio.sleep(0)  # many new connections must not keep the open ones from their turn


class _Repeats(logging.Filter):
    """Drops a line that was written too often lately: requests must not fill a disk with log lines."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        now, kind = time.monotonic(), (record.name, str(record.msg)[:200])
        since, count = self._written.get(kind, (now, 0))
        if now - since > WINDOW:
            since, count = now, 0
        if len(self._written) > 1000:
            self._written.clear()
        self._written[kind] = since, count + 1
        if count == REPEATED:
            record.msg, record.args = f"{record.getMessage()} (More such lines are dropped for a minute.)", ()
        return count <= REPEATED


_REPEATS = _Repeats()


def fitting(limits: ConnectionLimits) -> ConnectionLimits:
    """The limits, with no more connections than file handles allow; the soft limit of handles becomes the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    handles = MOST_HANDLES if hard == resource.RLIM_INFINITY else min(hard, MOST_HANDLES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (handles, hard))
    room = handles - len(list(Path("/proc/self/fd").iterdir())) - RESERVE
    return limits.model_copy(update={"total": max(FEWEST, min(limits.total, room))})


def limit_logs() -> None:
    """Bound the lines that requests cause in the log of this process."""
    plain_logs()
    for name in ("uvicorn.error", "asyncio", log.name, "academy.access.connections"):
        logger = logging.getLogger(name)
        if _REPEATS not in logger.filters:
            logger.addFilter(_REPEATS)


def run(app: ASGIApp, listeners: list[socket.socket]) -> None:
    """Serve an application on sockets that are bound already, until a signal arrives."""
    config = uvicorn.Config(
        app, log_level="warning", proxy_headers=False, server_header=False, backlog=BACKLOG,
        timeout_graceful_shutdown=2, timeout_keep_alive=5,
    )  # fmt: skip
    limit_logs()
    with suppress(KeyboardInterrupt):
        GuardedServer(config, ConnectionLimits()).run(sockets=listeners)
