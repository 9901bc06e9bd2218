"""One llama.cpp server that answers: a child of this process, or one that was started elsewhere.

What this module promises: `launch` returns only a server that answers and has the adapters it was started with; a
server that ends, refuses or breaks off is a ServingError in one sentence; a child dies with its parent.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import httpx
import orjson

from academy.errors import ServingError
from academy.serving.runtimes.adapter_scheduling import AdapterScheduler
from academy.serving.runtimes.llamacpp_server import ServerOptions

START_SECONDS = 600
"""Within which a child must answer: a large model is read from the disk."""
TOKEN_SECONDS = 600
"""Longest silence of a server: all its slots may be busy with others."""
REMEDY = "Turns that are under way are lost; start the runtime again, and look at the memory of this machine."


class LlamaCppServer:
    """A server, and which adapter stands at which place of its list."""

    def __init__(
        self, key: str, adapters: Sequence[str] = (), process: asyncio.subprocess.Process | None = None
    ) -> None:
        self.places = dict(enumerate(adapters))
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(TOKEN_SECONDS, connect=10),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # no proxy stands before the loopback
        )
        self._process = process
        self._said: deque[str] = deque(maxlen=20)
        self._reader = asyncio.create_task(self._listen(process.stderr)) if process and process.stderr else None
        self.scheduler = AdapterScheduler()

    @property
    def pid(self) -> int | None:
        """The child's process id; None for a server that was started elsewhere."""
        return self._process.pid if self._process else None

    @property
    def ended(self) -> bool:
        """Whether a child of ours has died."""
        return self._process is not None and self._process.returncode is not None

    async def drain(self) -> None:
        """End it when its last turn is over."""
        await self.scheduler.drain()
        await self.end()

    async def end(self) -> None:
        """End it now. A server that was started elsewhere is only left."""
        await self.client.aclose()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reader is not None:
            await self._reader

    async def get(self, path: str) -> Any:
        """What a GET answers. Raises ServingError."""
        try:
            answer = await self.client.get(path)
        except httpx.HTTPError as problem:
            raise await self._broken(problem) from problem
        return _checked(answer.content, answer.status_code)

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A completion in one piece. Raises ServingError."""
        try:
            answer = await self.client.post("/completion", json={**body, "stream": False})
        except httpx.HTTPError as problem:
            raise await self._broken(problem) from problem
        found: dict[str, Any] = _checked(answer.content, answer.status_code)
        return found

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A completion as it is made, up to the part that says `stop`. Raises ServingError where it breaks off."""
        try:
            async with self.client.stream("POST", "/completion", json={**body, "stream": True}) as answer:
                if answer.status_code != httpx.codes.OK:
                    _checked(await answer.aread(), answer.status_code)
                async for line in answer.aiter_lines():
                    kind, _, content = line.partition(": ")
                    if kind in ("data", "error"):  # else a sign of life, or the empty line between two parts
                        part = _checked(content.encode(), httpx.codes.OK)
                        yield part
                        if part["stop"]:
                            return
        except httpx.HTTPError as problem:
            raise await self._broken(problem) from problem
        raise await self._broken(EOFError())

    async def begin(self, order: ServerOptions) -> None:
        """Tell a child what to serve; returns when it answers with just these adapters, none of them at work."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise TypeError("only a child is told what to serve")
        with suppress(ConnectionError):  # a child that has ended says why on its other pipe
            process.stdin.write(order.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise await self._broken(EOFError())
        self.client.base_url = httpx.URL(address)
        stand = [(one["path"], one["scale"]) for one in await self.get("/lora-adapters")]
        if stand != [(str(path), 0.0) for path in order.adapters]:
            raise ServingError("The llama.cpp server has other adapters than it was started with.", REMEDY)

    async def _listen(self, pipe: asyncio.StreamReader) -> None:
        """Keep the child's last lines, so that its pipe never fills and its end can be told."""
        while line := await pipe.readline():
            self._said.append(line.decode(errors="replace").strip())

    async def _broken(self, problem: Exception) -> ServingError:
        """The sentence for a server that broke off. A child that has just died is waited for, briefly."""
        if self._process is not None and self._reader is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._process.wait()
                    await asyncio.shield(self._reader)
        if not self.ended:
            return ServingError(f"The llama.cpp server does not answer ({type(problem).__name__}).", REMEDY)
        last = f" The last that it said: {self._said[-1]}" if self._said else ""
        return ServingError(f"The llama.cpp server has ended.{last}", REMEDY)


async def launch(order: ServerOptions, adapters: Sequence[str]) -> LlamaCppServer:
    """Start a child and wait until it answers with the adapters of the order, which have these digests.

    The child dies with the thread that runs this loop. Raises ServingError where it ends before it answers.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "academy.serving.runtimes.llamacpp_server",
        str(os.getpid()),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
    )
    server = LlamaCppServer(order.key, adapters, process)
    try:
        async with asyncio.timeout(START_SECONDS):
            await server.begin(order)
    except TimeoutError:
        await server.end()
        raise ServingError(f"The llama.cpp server did not start within {START_SECONDS} seconds.", REMEDY) from None
    except BaseException:
        await server.end()
        raise
    return server


def _checked(content: bytes, status: int) -> Any:
    """A server's JSON. Raises ServingError with its own words where it refuses."""
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as problem:
        raise ServingError(f"The llama.cpp server answered {status} without JSON.", REMEDY) from problem
    error = (
        found.get("error", found if "message" in found and "stop" not in found else None)
        if isinstance(found, dict)
        else None
    )
    if error or status != httpx.codes.OK:
        words = error.get("message", error) if isinstance(error, dict) else error
        raise ServingError(f"The llama.cpp server refused: {words}", "Look at the request's length and options.")
    return found
