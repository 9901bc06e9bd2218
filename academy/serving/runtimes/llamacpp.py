"""A live runtime on llama.cpp's HTTP server: our own in a child process, or one that runs elsewhere.

The server learns adapters only when it starts. So a new adapter means a second server with all of them, which answers
before the first one is left; turns in flight end where they began. Every request names the scale of every adapter:
an empty list would mean what was set globally, and a slot keeps the prompt cache of what it answered with before.
Prompts are rendered and tokenised here, by the adapter's own template, and sent as token ids.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any, Literal

import httpx
import orjson

from academy.adapters.adapter import CONFIG, Adapter, open_adapter
from academy.errors import AdapterError, InputError, ServingError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.serving.export.gguf import Precision, adapter_file, base_file, refuse_other_than_plain
from academy.serving.runtimes.base import Admit, Capabilities, Piece, Turn
from academy.serving.runtimes.llamacpp_process import REMEDY, LlamaCppServer, launch
from academy.serving.runtimes.llamacpp_server import ServerOptions
from academy.store.ledger import BASE

EXACT, LOOSE = 0.001, 0.02
"""How far a canary's mean log-probability may be off: with everything in 32 bits, and where attention or weights are
rounded (a server that runs elsewhere, another precision). Measured on the seed model in docs/design/gguf.md."""
SLOTS = 4
CONTEXT = 4096
"""Tokens of a slot at most: memory is taken for all of them at the start."""


class LlamaCppRuntime:
    """A LiveRuntime. `cache` keeps the GGUF files; `url` names a llama-server that serves files of `academy export`."""

    def __init__(
        self,
        base: BaseModel,
        cache: Path,
        *,
        url: str = "",
        key: str = "",
        slots: int = SLOTS,
        context: int = CONTEXT,
        threads: int | None = None,
        precision: Precision = "f32",
        admit: Admit | None = None,
    ) -> None:
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self._cache = cache
        self._url = url
        self._key = key if url else secrets.token_urlsafe(32)
        self._slots = slots
        self._context = min(base.context, context)
        self._threads = threads or max(1, (os.cpu_count() or 2) // 2)
        self._precision = precision
        self._server: LlamaCppServer | None = None
        self._adapters: dict[str, Adapter] = {}
        self._templates: dict[str, ChatTemplate] = {}
        self._lock = asyncio.Lock()  # one load at a time: each begins from the adapters of the one before
        self._draining: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Its name for people."""
        return "llama.cpp"

    @property
    def capabilities(self) -> Capabilities:
        """Plain LoRA only; a new adapter needs a second server for a moment."""
        exact = self._precision == "f32" and not self._url
        return Capabilities(hot=False, rslora=False, dora=False, logprobs=True, tolerance=EXACT if exact else LOOSE)

    @property
    def loaded(self) -> frozenset[str]:
        """Digests that can be named."""
        return frozenset(self._adapters)

    @property
    def ended(self) -> bool:
        """Whether the child has died; of a server that runs elsewhere nobody knows."""
        return self._server is not None and self._server.ended

    async def start(self) -> None:
        """Bring the server up; one that has died is started again with the adapters that it had.

        Raises ServingError, and BaseModelError for a base model that llama.cpp cannot serve.
        """
        async with self._lock:
            if self._server is not None and not self._server.ended:
                return
            self._templates[BASE] = await asyncio.to_thread(ChatTemplate.of, self.base.path)
            before, self._server = self._server, await (self._connect() if self._url else self._launch(self._adapters))
            if before is not None:
                await before.end()

    async def load(self, adapter: Path) -> str:
        """Check an adapter and serve it beside the others, by a second server that takes the first one's place.

        Raises AdapterError for one that cannot be served here; ServingError where the second server does not come up:
        the first one goes on.
        """
        found = (await asyncio.to_thread(self._admit, adapter)).adapter
        async with self._lock:
            server = self._running()
            if found.digest in self._adapters:
                return found.digest
            template = await asyncio.to_thread(ChatTemplate.of, self.base.path, adapter)
            refuse_other_than_plain(orjson.loads((adapter / CONFIG).read_bytes()))
            if self._url:
                await _stand(server, {found.digest})
            elif found.digest not in server.places.values():
                self._server = await self._launch({**self._adapters, found.digest: found})
                self._retire(server)
            self._templates[found.digest], self._adapters[found.digest] = template, found
        return found.digest

    async def unload(self, adapter: str) -> None:
        """Forget an adapter's name. Its memory is given back with the next server."""
        async with self._lock:
            self._adapters.pop(adapter, None)

    async def point(self, adapter: str) -> str:  # noqa: ARG002
        """The server knows no names; what it was started with decides."""
        return ""

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer a turn piece by piece; with log-probabilities in one piece at its end.

        Raises InputError for a conversation that is longer than the context.
        """
        server = self._running()
        if adapter != BASE and adapter not in self._adapters:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        prompt = self._templates[adapter].prompt(turn.messages)
        if len(prompt) >= self._context:
            raise InputError(
                f"The conversation has {len(prompt)} tokens, and the context holds {self._context}.", "Shorten it."
            )
        async with server.scheduler.turn(adapter):
            stand = await _stand(server, {adapter} - {BASE}) if self._url else server.places
            body = {
                "prompt": prompt,
                "lora": [{"id": place, "scale": float(digest == adapter)} for place, digest in stand.items()],
                "n_predict": min(turn.max_new_tokens, self._context - len(prompt)),
                "temperature": turn.temperature,
                "top_p": turn.top_p,
                "samplers": ["temperature", "top_p"],  # the server's own would also cut at 40 tokens and punish
                "seed": secrets.randbits(31) if turn.seed is None else turn.seed % 2**32,
                "stop": list(turn.stop),
                "cache_prompt": True,
            }
            if turn.logprobs:
                yield await _scored(server, body, self._templates[adapter].tokenizer)
                return
            async for part in server.stream(body):
                if part["stop"]:
                    yield _last(part, part["content"])
                elif part["content"]:
                    yield Piece(text=part["content"])

    async def close(self) -> None:
        """End the server, and those that wait for their last turn."""
        async with self._lock:
            for task in self._draining:
                task.cancel()
            await asyncio.gather(*self._draining, return_exceptions=True)
            if self._server is not None:
                await self._server.end()
            self._server = None
            self._adapters.clear()

    def _running(self) -> LlamaCppServer:
        if self._server is None or self._server.ended:
            raise ServingError("The llama.cpp server is not running.", "Start the runtime.")
        return self._server

    def _retire(self, server: LlamaCppServer) -> None:
        """Let a server's turns end; then it ends."""
        task = asyncio.create_task(_drained(server))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _launch(self, adapters: dict[str, Adapter]) -> LlamaCppServer:
        if find_spec("xllamacpp") is None or find_spec("gguf") is None:
            raise ServingError("llama.cpp is not installed here.", "Install the extra `llamacpp`, or give a URL.")
        order = ServerOptions(
            model=await asyncio.to_thread(base_file, self.base, self._cache, self._precision),
            adapters=tuple(
                [await asyncio.to_thread(adapter_file, one, self.base, self._cache) for one in adapters.values()]
            ),
            slots=self._slots,
            context=self._context,
            threads=self._threads,
            exact=self._precision == "f32",
            key=self._key,
        )
        return await launch(order, tuple(adapters))

    async def _connect(self) -> LlamaCppServer:
        """A server that runs elsewhere, once it has said that it serves this base model."""
        server = LlamaCppServer(self._key)
        server.client.base_url = httpx.URL(self._url.rstrip("/"))
        try:
            self._context = min(self._context, _context(await server.get("/props"), self.base))
        except BaseException:
            await server.end()
            raise
        return server


def _context(told: dict[str, Any], base: BaseModel) -> int:
    """The tokens of a slot of a server whose /props tell that it serves this base model. Raises ServingError."""
    model = PurePath(str(told.get("model_path", ""))).name
    if base.digest[:16] not in model:
        raise ServingError(
            f"The llama.cpp server serves {model or 'no model'}, and not the base model {base.digest[:16]}.",
            "Start it with the base model's file that `academy export --format gguf` writes.",
        )
    return int(told["default_generation_settings"]["n_ctx"])


async def _drained(server: LlamaCppServer) -> None:
    try:
        await server.drain()
    finally:
        await server.end()


async def _stand(server: LlamaCppServer, wanted: set[str]) -> dict[int, str]:
    """What a server that runs elsewhere has now, by place: it may have been started again with other adapters."""
    stand = {int(one["id"]): PurePath(one["path"]).stem for one in await server.get("/lora-adapters")}
    if missing := sorted(wanted - set(stand.values())):
        raise AdapterError(
            f"The llama.cpp server does not have the adapter {missing[0][:12]}.",
            "Start it with --lora and the adapter's file that `academy export --format gguf` writes.",
        )
    return stand


async def _scored(server: LlamaCppServer, body: dict[str, Any], tokenizer: Any) -> Piece:
    """An answer with the log-probability of each of its tokens.

    The server leaves out a token that ends inside a character of several bytes, and lists the one that completes it
    with all its bytes. What was left out is asked for afterwards.
    """
    told = await server.complete({**body, "n_probs": 1, "return_tokens": True})
    tokens: list[int] = told["tokens"]
    listed = list(told.get("completion_probabilities", []))
    special = set(tokenizer.all_special_ids)
    found: list[float] = []
    pending = 0  # bytes of a character that is not whole yet
    for place, token in enumerate(tokens):
        if not listed and told["stop_type"] == "word":
            break  # the rest is the stop word, which is not part of the answer
        # a byte-level vocabulary writes each byte as one character
        pending += 0 if token in special else len(tokenizer.convert_ids_to_tokens(token))
        if listed and listed[0]["id"] == token and len(listed[0]["bytes"]) == pending:
            found.append(float(listed.pop(0)["logprob"]))
            pending = 0
        else:
            found.append(await _asked(server, body, tokens[:place], token, tokenizer))
    return _last(told, told["content"], tuple(found))


async def _asked(server: LlamaCppServer, body: dict[str, Any], before: list[int], token: int, tokenizer: Any) -> float:
    """The log-probability of a token at one place. A whole character is forced there, so that the server tells."""
    for most in (16, len(tokenizer)):
        told = await server.complete(
            {
                **body,
                "prompt": body["prompt"] + before,
                "n_predict": 1,
                "n_probs": most,
                "stop": [],
                "temperature": 0,
                "logit_bias": [[tokenizer("a", add_special_tokens=False)["input_ids"][-1], 1e6]],
            }
        )
        for one in told["completion_probabilities"][0]["top_logprobs"]:
            if one["id"] == token:
                return float(one["logprob"])
    raise ServingError(f"The llama.cpp server does not know the token {token} that it made.", REMEDY)


def _last(told: dict[str, Any], text: str, logprobs: tuple[float, ...] = ()) -> Piece:
    """The last piece of an answer."""
    finish: Literal["stop", "length"] = "length" if told["stop_type"] == "limit" else "stop"
    return Piece(
        text=text,
        logprobs=logprobs,
        finish=finish,
        prompt_tokens=int(told["tokens_evaluated"]),
        tokens=int(told["tokens_predicted"]),
    )
