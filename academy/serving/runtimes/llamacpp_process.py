"""The connection to one llama.cpp server: a child of this process, or a server that runs already.

`launch` returns only a server that answers with the adapters it was started with. A server that ends, refuses or stops
answering raises ServingError with one clear sentence. A child dies with its parent.
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

from academy.border.current_folder import public_environment
from academy.errors import ServingError
from academy.serving.runtimes.adapter_scheduling import AdapterScheduler
from academy.serving.runtimes.llamacpp_server import ServerOptions

START_SECONDS = 600
"""Limit for a child's first answer; it reads a large model from the disk."""
TOKEN_SECONDS = 600
"""Longest silence of a server, whose slots may all be busy."""
PIPE_BYTES = 1 << 16
LOGGED = 1000
"""Characters of a child's line that are kept."""
REMEDY = "Running turns are lost; restart the runtime, and check the memory of this machine."


class LlamaCppServer:
    """A server and the adapters of its list, by place."""

    def __init__(
        self, key: str, adapters: Sequence[str] = (), process: asyncio.subprocess.Process | None = None
    ) -> None:
        self.places = dict(enumerate(adapters))
        self.client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(TOKEN_SECONDS, connect=10),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy cannot reach our loopback
        )
        self._process = process
        self._log: deque[str] = deque(maxlen=20)
        self._readers = [asyncio.create_task(self._listen(process.stderr))] if process and process.stderr else []
        self.scheduler = AdapterScheduler()

    @property
    def pid(self) -> int | None:
        """The child's process id; None for a server that we do not run."""
        return self._process.pid if self._process else None

    @property
    def ended(self) -> bool:
        """Whether the child process has died."""
        return self._process is not None and self._process.returncode is not None

    async def drain(self) -> None:
        """End the server after its last turn."""
        await self.scheduler.drain()
        await self.end()

    async def end(self) -> None:
        """End the child now; from a server that we do not run, only disconnect."""
        await self.client.aclose()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await asyncio.gather(*self._readers)

    async def get(self, path: str) -> Any:
        """The JSON answer of a GET. Raises ServingError."""
        try:
            answer = await self.client.get(path)
        except httpx.HTTPError as problem:
            raise await self._broken(problem) from problem
        return _parsed(answer.content, answer.status_code)

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A completion in one piece. Raises ServingError."""
        try:
            answer = await self.client.post("/completion", json={**body, "stream": False})
        except httpx.HTTPError as problem:
            raise await self._broken(problem) from problem
        completion: dict[str, Any] = _parsed(answer.content, answer.status_code)
        return completion

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """A completion part by part, up to the part with `stop`. Raises ServingError where the stream ends early."""
        try:
            async with self.client.stream("POST", "/completion", json={**body, "stream": True}) as answer:
                if answer.status_code != httpx.codes.OK:
                    _parsed(await answer.aread(), answer.status_code)
                async for line in answer.aiter_lines():
                    kind, _, content = line.partition(": ")
                    if kind in ("data", "error"):  # the rest are keep-alive comments and empty lines
                        part = _parsed(content.encode(), httpx.codes.OK)
                        yield part
                        if part["stop"]:
                            return
        except httpx.HTTPError as problem:
            raise await self._broken(problem) from problem
        raise await self._broken(EOFError())

    async def begin(self, options: ServerOptions) -> None:
        """Send a child its options; returns when it answers with exactly these adapters, all at scale 0."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise TypeError("only a child process takes options")
        with suppress(ConnectionError):  # a child that has ended reports the reason on stderr
            process.stdin.write(options.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise await self._broken(EOFError())
        self._readers.append(asyncio.create_task(self._listen(process.stdout)))
        self.client.base_url = httpx.URL(address)
        scales = [(entry["path"], entry["scale"]) for entry in await self.get("/lora-adapters")]
        if scales != [(str(path), 0.0) for path in options.adapters]:
            raise ServingError("The llama.cpp server does not have the adapters that it was started with.", REMEDY)

    async def _listen(self, pipe: asyncio.StreamReader) -> None:
        """Read a pipe of the child, so that it never fills, however long a line is. Its last line explains the end."""
        rest = b""
        while chunk := await pipe.read(PIPE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-PIPE_BYTES:]
            self._log.extend(text for line in lines if (text := line.decode(errors="replace").strip()[-LOGGED:]))
        if rest.strip():
            self._log.append(rest.decode(errors="replace").strip()[-LOGGED:])

    async def _broken(self, problem: Exception) -> ServingError:
        """The error for a server that stopped answering; waits briefly to see whether the child has died."""
        if self._process is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._process.wait()
                    await asyncio.shield(asyncio.gather(*self._readers))
        if not self.ended:
            return ServingError(f"The llama.cpp server does not answer ({type(problem).__name__}).", REMEDY)
        last = f" Its last line: {self._log[-1]}" if self._log else ""
        return ServingError(f"The llama.cpp server has ended.{last}", REMEDY)


async def launch(options: ServerOptions, adapters: Sequence[str]) -> LlamaCppServer:
    """Start a child and wait until it answers. `adapters` are the digests of the adapters in the options.

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
        cwd="/",
        env=public_environment(),
    )
    server = LlamaCppServer(options.key, adapters, process)
    try:
        async with asyncio.timeout(START_SECONDS):
            await server.begin(options)
    except TimeoutError:
        await server.end()
        raise ServingError(f"The llama.cpp server did not start within {START_SECONDS} seconds.", REMEDY) from None
    except BaseException:
        await server.end()
        raise
    return server


def _parsed(content: bytes, status: int) -> Any:
    """A server's JSON. Raises ServingError with the server's own message where it refuses."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as problem:
        raise ServingError(f"The llama.cpp server answered {status} without JSON.", REMEDY) from problem
    error = (
        value.get("error", value if "message" in value and "stop" not in value else None)
        if isinstance(value, dict)
        else None
    )
    if error or status != httpx.codes.OK:
        message = error.get("message", error) if isinstance(error, dict) else error
        raise ServingError(f"The llama.cpp server refused: {message}", "Check the request's length and options.")
    return value
