"""A FastAPI application on a free port of the loopback, in a thread; and the faults that its answers may have."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI


@dataclass
class Faults:
    """What is wrong with a server, until a test resets it."""

    dies_after: int | None = None  # pieces of an answer, after which the connection is gone
    fails_after: int | None = None  # pieces, after which an error is in the stream
    silent_for: float = 0.0  # seconds before every piece
    status: int | None = None  # instead of an answer
    shredded: bool = False  # bytes arrive three at a time
    asked: list[dict[str, Any]] = field(default_factory=list)  # the requests to the answering route
    cancelled: int = 0  # answers that the client cancelled


class Gone(Exception):
    """The process behind the connection has died."""


async def as_sent(pieces: Iterator[bytes], faults: Faults, error: bytes) -> AsyncIterator[bytes]:
    """Pieces of an answer as they are sent. Steps of the model run in a thread."""
    whole = False
    try:
        for n in range(1_000_000):
            if faults.dies_after == n:
                raise Gone
            if faults.fails_after == n:
                whole = True
                yield error
                return
            await asyncio.sleep(faults.silent_for)
            piece = await asyncio.to_thread(next, pieces, None)
            if piece is None:
                whole = True
                return
            for start in range(0, len(piece), 3) if faults.shredded else [0]:
                yield piece[start : start + 3] if faults.shredded else piece
                if faults.shredded:
                    await asyncio.sleep(0)
    finally:
        faults.cancelled += not whole and faults.dies_after is None


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The URL of the application while it runs."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a reply's body does not wait for its headers
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
