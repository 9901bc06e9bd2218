"""What runtimes on HTTP servers share: the connection to the server, and the count of running turns by adapter.

Every failure of the connection becomes a ServingError with one clear sentence: a server that is unreachable, silent or
full, or that stops in the middle of an answer. What a status means for an adapter is for the runtime to say.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson

from academy.adapters.adapter import CONFIG
from academy.errors import AdapterError, InputError, ServingError
from academy.models.chat_template import FILE as TEMPLATE_FILE
from academy.models.chat_template import ChatTemplate
from academy.system.connections import check_connections, is_loopback
from academy.system.origins import refuse_plain_text

CONNECT_SECONDS = 5.0
FULL = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
BARRED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
MOST_BYTES, MOST_LINE = 64 << 20, 4 << 20
"""Bytes of an answer, and of one line of it."""
PATIENCES = 10
"""An answer that is not streamed may take so many times the patience, however steadily it trickles."""


class RemoteConnection:
    """The connection to one HTTP server. `patience`: seconds that it may be silent, also within an answer."""

    def __init__(self, name: str, url: str, key: str, patience: float) -> None:
        """Raises InputError for a key that would cross a network in plain text."""
        refuse_plain_text(url, key)
        self.name, self.url, self.patience = name, url.rstrip("/"), patience
        is_here = is_loopback(httpx.URL(self.url).host)
        if not is_here:
            check_connections()
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            event_hooks={"response": [_bound]},
            follow_redirects=False,
            timeout=httpx.Timeout(patience, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=not is_here,  # a proxy cannot reach our loopback
        )

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | AsyncIterator[bytes] | None = None
    ) -> httpx.Response:
        """Send a request and read the whole response. Raises ServingError for a full server or a wrong key.

        The caller judges every other status.
        """
        with self._clear_errors():
            async with asyncio.timeout(None if isinstance(body, AsyncIterator) else PATIENCES * self.patience):
                if isinstance(body, Mapping):
                    response = await self._client.request(method, path, json=body)
                else:
                    response = await self._client.request(method, path, content=body)
        self._refuse_full(response)
        return response

    async def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return its JSON object. Raises ServingError where the status is not a success."""
        response = await self.call(method, path, body)
        if not response.is_success:
            raise self.failed(response)
        return self.parsed(response.content)

    @asynccontextmanager
    async def lines(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
        """Send a request and read the response line by line. Leaving the block closes it, so that the server stops.

        A response without success has no lines and is read whole.
        """
        with self._clear_errors():
            request = self._client.build_request("POST", path, json=body)
            response = await self._client.send(request, stream=True)
        try:
            if not response.is_success:
                with self._clear_errors():
                    await response.aread()
                self._refuse_full(response)
            yield response, self._lines(response)
        finally:
            await response.aclose()

    async def _lines(self, response: httpx.Response) -> AsyncIterator[str]:
        with self._clear_errors():
            async for line in response.aiter_lines():
                if line.strip():
                    yield line

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def parsed(self, content: str | bytes) -> Any:
        """A JSON object of the server. Raises ServingError for anything else."""
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError as problem:
            raise ServingError(
                f"The {self.name} server at {self.url} sent an answer that is not JSON.",
                f"Check that the URL is {self.name}'s own, not that of a page or a gateway in front of it.",
            ) from problem
        if not isinstance(value, dict):
            raise ServingError(
                f"The {self.name} server at {self.url} sent an answer that is not a JSON object.", "Check the URL."
            )
        return value

    def failed(self, response: httpx.Response) -> ServingError:
        """The error for a status that is not a success."""
        return ServingError(
            f"The {self.name} server at {self.url} refused ({response.status_code}): {error_text(response)}",
            "Check its log.",
        )

    def ended_early(self, why: str = "") -> ServingError:
        """The error for an answer without its end."""
        return ServingError(
            f"The {self.name} server at {self.url} stopped in the middle of an answer{': ' + why if why else ''}.",
            "Retry; if it happens again, check the server's log.",
        )

    def _refuse_full(self, response: httpx.Response) -> None:
        if response.status_code in FULL:
            raise ServingError(
                f"The {self.name} server at {self.url} accepts no more requests at the moment "
                f"({response.status_code}): {error_text(response)}",
                "Retry in a moment.",
            )
        if response.status_code in BARRED:
            raise ServingError(
                f"The {self.name} server at {self.url} rejected the key ({response.status_code}).",
                "Set the key that the server was started with.",
            )

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Raise the errors of httpx as ours."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as problem:
            raise ServingError(
                f"There is no {self.name} server at {self.url}.", "Start it, or correct the URL."
            ) from problem
        except (httpx.TimeoutException, TimeoutError) as problem:
            raise ServingError(
                f"The {self.name} server at {self.url} was silent for {self.patience:g} seconds.",
                "Check its log and its load; a larger model may need a longer limit.",
            ) from problem
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as problem:
            raise InputError(
                f"{self.url} is not the URL of a server.", "Give one that begins with http:// or https://."
            ) from problem
        except httpx.TransportError as problem:
            raise self.ended_early(str(problem)) from problem


async def _bound(response: httpx.Response) -> None:
    """Limit an answer before it is read. A compressed one was not asked for, and has no limit when it is unpacked."""
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise httpx.ReadError("its answer is compressed", request=response.request)
    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _BoundedStream(response.stream)


class _BoundedStream(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        total = line = 0
        async for chunk in self._stream:
            total += len(chunk)
            newline = chunk.rfind(b"\n")
            line = line + len(chunk) if newline < 0 else len(chunk) - newline - 1
            if total > MOST_BYTES or line > MOST_LINE:
                raise httpx.ReadError("its answer is too long")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class RunningTurns:
    """Counts the running turns by adapter, so that an adapter is not removed before its last token."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._ended = asyncio.Condition()

    @asynccontextmanager
    async def counted(self, adapter: str) -> AsyncIterator[None]:
        """Count a turn from its admission to its end."""
        self._running[adapter] += 1
        try:
            yield
        finally:
            self._running[adapter] -= 1
            async with self._ended:
                self._ended.notify_all()

    async def drained(self, adapter: str) -> None:
        """Return once no turn of the adapter runs."""
        async with self._ended:
            await self._ended.wait_for(lambda: not self._running[adapter])


def error_text(response: httpx.Response) -> str:
    """The server's own explanation of an error; servers put it in different fields."""
    try:
        value = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return response.text.strip()[:300] or response.reason_phrase
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    return str(value)[:300]


def answer_tokens(prompt: int, limit: int, context: int) -> int:
    """How many tokens an answer may have after a prompt. Raises InputError where the prompt fills the context."""
    if prompt >= context:
        raise InputError(
            f"The conversation has {prompt:,} tokens; the model's context holds {context:,}, including the answer.",
            "Shorten the conversation.",
        )
    return min(limit, context - prompt)


def template_of(adapter: Path, base: ChatTemplate) -> ChatTemplate:
    """An adapter's own chat template, with the base model's tokenizer."""
    return ChatTemplate(base.tokenizer, (adapter / TEMPLATE_FILE).read_text(encoding="utf-8"))


def read_config(adapter: Path) -> dict[str, Any]:
    """An adapter's PEFT configuration, of files that were checked before."""
    config: dict[str, Any] = orjson.loads((adapter / CONFIG).read_bytes())
    return config


def refuse_unservable(digest: str, config: Mapping[str, Any], engine: str, *, rslora: bool, dora: bool) -> None:
    """Raise AdapterError for an adapter that the engine would load wrongly, or not at all."""
    kinds = {
        "a DoRA adapter": bool(config.get("use_dora")) and not dora,
        "an rsLoRA adapter": bool(config.get("use_rslora")) and not rslora,
        "an adapter with fully trained modules (modules_to_save)": bool(config.get("modules_to_save")),
        "an adapter with biases": config.get("bias", "none") != "none",
    }
    for kind, unservable in kinds.items():
        if unservable:
            raise AdapterError(
                f"{digest[:12]} is {kind}, which {engine} does not serve.",
                "Serve it with peft, or train without it.",
            )
