"""A LiveRuntime on llama.cpp's HTTP server: a child process of ours, or a server that runs already.

The server reads adapters only when it starts. So a new adapter needs a second server with all adapters, which answers
before the first one ends; running turns end on the server where they began. Every request sets the scale of every
adapter: an empty list would mean the global scales, and a slot keeps the prompt cache of its previous adapter. Prompts
are rendered and tokenized here, with the adapter's own template, and sent as token ids.
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
from academy.serving.runtimes.base import Admit, Capabilities, LiveRuntime, Piece, RuntimeContext, Turn
from academy.serving.runtimes.llamacpp_process import REMEDY, LlamaCppServer, launch
from academy.serving.runtimes.llamacpp_server import ServerOptions
from academy.store.ledger import BASE
from academy.system.installation import install_remedy

EXACT, LOOSE = 0.001, 0.02
"""Largest difference of a canary's mean log-probability: with everything in 32 bits, and where attention or weights are
rounded (a server that runs already, another precision). Measured on the seed model in docs/design/gguf.md."""
SLOTS = 4
CONTEXT = 4096
"""Largest number of tokens of a slot; the server allocates them all at its start."""


class LlamaCppRuntime:
    """A LiveRuntime. `cache` keeps the GGUF files; `url` is a llama-server that serves files of `academy export`."""

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
        self._lock = asyncio.Lock()  # one load at a time: each starts from the adapters of the previous load
        self._draining: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Always llama.cpp."""
        return "llama.cpp"

    @property
    def capabilities(self) -> Capabilities:
        """Plain LoRA only; a new adapter needs a second server for a short time."""
        exact = self._precision == "f32" and not self._url
        return Capabilities(hot=False, rslora=False, dora=False, logprobs=True, tolerance=EXACT if exact else LOOSE)

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the loaded adapters."""
        return frozenset(self._adapters)

    @property
    def ended(self) -> bool:
        """Whether the child process has died; False for a server that runs already."""
        return self._server is not None and self._server.ended

    async def start(self) -> None:
        """Bring the server up. A server that has died is restarted with the adapters that it had.

        Raises ServingError, and BaseModelError for a base model that llama.cpp cannot serve.
        """
        async with self._lock:
            if self._server is not None and not self._server.ended:
                return
            self._templates[BASE] = await asyncio.to_thread(self.base.open_template)
            previous, self._server = (
                self._server,
                await (self._connect() if self._url else self._launch(self._adapters)),
            )
            if previous is not None:
                await previous.end()

    async def load(self, adapter: Path) -> str:
        """Check an adapter and start a second server with it and the others, which replaces the first one.

        Raises AdapterError for an adapter that llama.cpp cannot serve, and ServingError where the second server does
        not start; the first one then goes on.
        """
        record = (await asyncio.to_thread(self._admit, adapter)).adapter
        async with self._lock:
            server = self._running()
            if record.digest in self._adapters:
                return record.digest
            template = await asyncio.to_thread(self.base.open_template, adapter)
            refuse_other_than_plain(orjson.loads((adapter / CONFIG).read_bytes()))
            if self._url:
                await _adapters_by_place(server, {record.digest})
            elif record.digest not in server.places.values():
                self._server = await self._launch({**self._adapters, record.digest: record})
                self._retire(server)
            self._templates[record.digest], self._adapters[record.digest] = template, record
        return record.digest

    async def unload(self, adapter: str) -> None:
        """Forget an adapter's name. The next server frees its memory."""
        async with self._lock:
            self._adapters.pop(adapter, None)

    async def point(self, adapter: str) -> str:  # noqa: ARG002
        """Return "": the server has no aliases."""
        return ""

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer a turn piece by piece, or in one piece at its end where log-probabilities are wanted.

        Raises InputError for a conversation that is longer than the context.
        """
        server = self._running()
        if adapter != BASE and adapter not in self._adapters:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        prompt = self._templates[adapter].prompt(turn.messages)
        if len(prompt) >= self._context:
            raise InputError(
                f"The conversation has {len(prompt):,} tokens; the model's context holds {self._context:,}, "
                "including the answer.",
                "Shorten the conversation.",
            )
        async with server.scheduler.turn(adapter):
            places = await _adapters_by_place(server, {adapter} - {BASE}) if self._url else server.places
            body = {
                "prompt": prompt,
                "lora": [{"id": place, "scale": float(digest == adapter)} for place, digest in places.items()],
                "n_predict": min(turn.max_new_tokens, self._context - len(prompt)),
                "temperature": turn.temperature,
                "top_p": turn.top_p,
                "samplers": ["temperature", "top_p"],  # the server's defaults add top-k 40 and penalties
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
        """End the server, and older servers that still answer their last turns."""
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
        """End a server after its running turns."""
        task = asyncio.create_task(_drained(server))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def _launch(self, adapters: dict[str, Adapter]) -> LlamaCppServer:
        if find_spec("xllamacpp") is None or find_spec("gguf") is None:
            raise ServingError("llama.cpp is not installed.", f"{install_remedy('llamacpp')} Or give --runtime-url.")
        options = ServerOptions(
            model=await asyncio.to_thread(base_file, self.base, self._cache, self._precision),
            adapters=tuple(
                [
                    await asyncio.to_thread(adapter_file, adapter, self.base, self._cache)
                    for adapter in adapters.values()
                ]
            ),
            slots=self._slots,
            context=self._context,
            threads=self._threads,
            exact=self._precision == "f32",
            key=self._key,
        )
        return await launch(options, tuple(adapters))

    async def _connect(self) -> LlamaCppServer:
        """The server at the URL. Raises ServingError where it does not serve this base model."""
        server = LlamaCppServer(self._key)
        server.client.base_url = httpx.URL(self._url.rstrip("/"))
        try:
            self._context = min(self._context, _context(await server.get("/props"), self.base))
        except BaseException:
            await server.end()
            raise
        return server


def make(context: RuntimeContext) -> LiveRuntime:
    """The runtime `llamacpp`. Raises InputError for --seen-as."""
    context.refuse_seen_as("llamacpp")
    cache = context.settings.folder("gguf")
    return LlamaCppRuntime(context.base, cache, url=context.url, key=context.key, admit=context.admit)


def _context(props: dict[str, Any], base: BaseModel) -> int:
    """The tokens of a slot, from a server's /props. Raises ServingError for another base model."""
    model = PurePath(str(props.get("model_path", ""))).name
    if base.digest[:16] not in model:
        raise ServingError(
            f"The llama.cpp server serves {model or 'no model'}, not the base model {base.digest[:16]}.",
            "Start it with the base model's file that `academy export --format gguf` writes.",
        )
    return int(props["default_generation_settings"]["n_ctx"])


async def _drained(server: LlamaCppServer) -> None:
    try:
        await server.drain()
    finally:
        await server.end()


async def _adapters_by_place(server: LlamaCppServer, required: set[str]) -> dict[int, str]:
    """Digests by place of a server that we do not run: it may have been restarted with other adapters."""
    places = {int(entry["id"]): PurePath(entry["path"]).stem for entry in await server.get("/lora-adapters")}
    if missing := sorted(required - set(places.values())):
        raise AdapterError(
            f"The llama.cpp server does not have the adapter {missing[0][:12]}.",
            "Start it with --lora and the adapter's file that `academy export --format gguf` writes.",
        )
    return places


async def _scored(server: LlamaCppServer, body: dict[str, Any], tokenizer: Any) -> Piece:
    """An answer with the log-probability of each of its tokens.

    The server omits a token that ends inside a multi-byte character, and lists the completing token with all bytes of
    the character. The omitted tokens are requested one by one afterwards.
    """
    completion = await server.complete({**body, "n_probs": 1, "return_tokens": True})
    tokens: list[int] = completion["tokens"]
    entries = list(completion.get("completion_probabilities", []))
    special = set(tokenizer.all_special_ids)
    logprobs: list[float] = []
    pending = 0  # bytes of an incomplete character
    for place, token in enumerate(tokens):
        if not entries and completion["stop_type"] == "word":
            break  # the rest is the stop word, which is not part of the answer
        # a byte-level vocabulary writes each byte as one character
        pending += 0 if token in special else len(tokenizer.convert_ids_to_tokens(token))
        if entries and entries[0]["id"] == token and len(entries[0]["bytes"]) == pending:
            logprobs.append(float(entries.pop(0)["logprob"]))
            pending = 0
        else:
            logprobs.append(await _token_logprob(server, body, tokens[:place], token, tokenizer))
    return _last(completion, completion["content"], tuple(logprobs))


async def _token_logprob(
    server: LlamaCppServer, body: dict[str, Any], before: list[int], token: int, tokenizer: Any
) -> float:
    """The log-probability of a token at one place. It forces a whole character, so that the server lists it."""
    for count in (16, len(tokenizer)):
        completion = await server.complete(
            {
                **body,
                "prompt": body["prompt"] + before,
                "n_predict": 1,
                "n_probs": count,
                "stop": [],
                "temperature": 0,
                "logit_bias": [[tokenizer("a", add_special_tokens=False)["input_ids"][-1], 1e6]],
            }
        )
        for entry in completion["completion_probabilities"][0]["top_logprobs"]:
            if entry["id"] == token:
                return float(entry["logprob"])
    raise ServingError(f"The llama.cpp server does not list the token {token}, which it generated.", REMEDY)


def _last(completion: dict[str, Any], text: str, logprobs: tuple[float, ...] = ()) -> Piece:
    """The last piece of an answer."""
    finish: Literal["stop", "length"] = "length" if completion["stop_type"] == "limit" else "stop"
    return Piece(
        text=text,
        logprobs=logprobs,
        finish=finish,
        prompt_tokens=int(completion["tokens_evaluated"]),
        tokens=int(completion["tokens_predicted"]),
    )
