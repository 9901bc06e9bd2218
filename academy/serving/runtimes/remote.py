"""A server of another process: its connection, whose failures are sentences, and the turns that are under way on it.

Whatever goes wrong between here and there becomes a ServingError: a server that is not there, is silent, is full, or
is gone in the middle of an answer. What a status means for an adapter is the runtime's to say.
"""

from __future__ import annotations

import asyncio
import ipaddress
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

CONNECT_SECONDS = 5.0
FULL = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
BARRED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RemoteConnection:
    """One HTTP server. `patience` is how many seconds it may be silent, between two pieces of an answer as well."""

    def __init__(self, name: str, url: str, key: str, patience: float) -> None:
        self.name, self.url, self.patience = name, url.rstrip("/"), patience
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(patience, connect=CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=not is_loopback(httpx.URL(self.url).host),  # no proxy stands before the loopback
        )

    async def call(
        self, method: str, path: str, body: Mapping[str, Any] | AsyncIterator[bytes] | None = None
    ) -> httpx.Response:
        """One request, answered whole. The status is the caller's to judge, but for a server that is full or barred."""
        with self._in_words():
            if isinstance(body, Mapping):
                answer = await self._client.request(method, path, json=body)
            else:
                answer = await self._client.request(method, path, content=body)
        self._refuse_full(answer)
        return answer

    async def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request whose answer must be a success. Returns its JSON object."""
        answer = await self.call(method, path, body)
        if not answer.is_success:
            raise self.failed(answer)
        return self.parsed(answer.content)

    @asynccontextmanager
    async def lines(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
        """One request whose answer comes line by line. Leaving the block closes the connection: the server stops.

        A response without success has no lines and has been read whole.
        """
        with self._in_words():
            request = self._client.build_request("POST", path, json=body)
            answer = await self._client.send(request, stream=True)
        try:
            if not answer.is_success:
                with self._in_words():
                    await answer.aread()
                self._refuse_full(answer)
            yield answer, self._lines(answer)
        finally:
            await answer.aclose()

    async def _lines(self, answer: httpx.Response) -> AsyncIterator[str]:
        with self._in_words():
            async for line in answer.aiter_lines():
                if line.strip():
                    yield line

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def parsed(self, content: str | bytes) -> Any:
        """A JSON object of the server."""
        try:
            found = orjson.loads(content)
        except orjson.JSONDecodeError as problem:
            raise ServingError(
                f"The {self.name} server at {self.url} answered with something that is no JSON.",
                f"Check that the URL is {self.name}'s own, without a page or a gateway before it.",
            ) from problem
        if not isinstance(found, dict):
            raise ServingError(f"The {self.name} server at {self.url} answered with no JSON object.", "Check the URL.")
        return found

    def failed(self, answer: httpx.Response) -> ServingError:
        """A status that is no success, in words."""
        return ServingError(
            f"The {self.name} server at {self.url} refused ({answer.status_code}): {error_text(answer)}",
            "Look at its log.",
        )

    def ended_early(self, why: str = "") -> ServingError:
        """An answer without its end."""
        return ServingError(
            f"The {self.name} server at {self.url} ended in the middle of an answer{': ' + why if why else ''}.",
            "Ask again; if it happens again, look at its log.",
        )

    def _refuse_full(self, answer: httpx.Response) -> None:
        if answer.status_code in FULL:
            raise ServingError(
                f"The {self.name} server at {self.url} takes no more at the moment "
                f"({answer.status_code}): {error_text(answer)}",
                "Ask again in a moment.",
            )
        if answer.status_code in BARRED:
            raise ServingError(
                f"The {self.name} server at {self.url} wants another key ({answer.status_code}).",
                "Give the key that it was started with.",
            )

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as problem:
            raise ServingError(
                f"There is no {self.name} server at {self.url}.", "Start it, or correct the URL."
            ) from problem
        except httpx.TimeoutException as problem:
            raise ServingError(
                f"The {self.name} server at {self.url} has said nothing for {self.patience:g} seconds.",
                "Look at its log and its load; a larger model may want more patience.",
            ) from problem
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as problem:
            raise InputError(f"{self.url} is no URL of a server.", "It begins with http:// or https://.") from problem
        except httpx.TransportError as problem:
            raise self.ended_early(str(problem)) from problem


class RunningTurns:
    """Counts the turns under way by adapter, so that none loses its adapter before its last token."""

    def __init__(self) -> None:
        self._running: Counter[str] = Counter()
        self._ended = asyncio.Condition()

    @asynccontextmanager
    async def under_way(self, adapter: str) -> AsyncIterator[None]:
        """A turn from its admission to its end."""
        self._running[adapter] += 1
        try:
            yield
        finally:
            self._running[adapter] -= 1
            async with self._ended:
                self._ended.notify_all()

    async def drained(self, adapter: str) -> None:
        """Returns once no turn of the adapter is under way."""
        async with self._ended:
            await self._ended.wait_for(lambda: not self._running[adapter])


def error_text(answer: httpx.Response) -> str:
    """What a server says of a refusal; each of them wraps its sentence otherwise."""
    try:
        found = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return answer.text.strip()[:300] or answer.reason_phrase
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return str(found)[:300]


def answer_tokens(prompt: int, wanted: int, context: int) -> int:
    """How many tokens an answer may have behind a prompt. Raises InputError where there is no room at all."""
    if prompt >= context:
        raise InputError(
            f"The conversation has {prompt:,} tokens; the model reads at most {context:,} with the answer.",
            "Shorten it.",
        )
    return min(wanted, context - prompt)


def template_of(adapter: Path, base: ChatTemplate) -> ChatTemplate:
    """The template that an adapter brings along, with the base model's tokenizer."""
    return ChatTemplate(base.tokenizer, (adapter / TEMPLATE_FILE).read_text(encoding="utf-8"))


def read_config(adapter: Path) -> dict[str, Any]:
    """An adapter's PEFT configuration. The files were checked before."""
    found: dict[str, Any] = orjson.loads((adapter / CONFIG).read_bytes())
    return found


def refuse_unservable(digest: str, config: Mapping[str, Any], engine: str, *, rslora: bool, dora: bool) -> None:
    """Raises AdapterError for an adapter that the engine would load wrongly, or not at all."""
    kinds = {
        "a DoRA adapter": bool(config.get("use_dora")) and not dora,
        "an rsLoRA adapter": bool(config.get("use_rslora")) and not rslora,
        "an adapter with whole modules (modules_to_save)": bool(config.get("modules_to_save")),
        "an adapter with biases": config.get("bias", "none") != "none",
    }
    for kind, found in kinds.items():
        if found:
            raise AdapterError(
                f"{digest[:12]} is {kind}, which {engine} does not serve.",
                "Serve it with peft, or train without it.",
            )
