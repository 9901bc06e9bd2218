"""A LiveRuntime on a vLLM server, here or on another machine, started with --enable-lora and runtime LoRA updating.

Each adapter is loaded under its digest and never in place: with vLLM 0.32, `load_inplace` mixed 17.6 % of the answers
during a swap, immutable names mixed none. Prompts are rendered here with the adapter's own template and sent as token
ids, so the server's template has no effect.

The server's base model is compared by name and path. Where both differ (for example a folder in a container), the base
model is not proven, and the canaries decide: academy.serving.identity sends them to the base model as well.

vLLM reads the adapter's folder itself. For a server on another machine or in a container, `seen_as` is the adapters'
folder as the server sees it. DoRA is refused, as in vLLM's own loader (vllm/lora/peft_helper.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import httpx

from academy.adapters.adapter import open_adapter
from academy.errors import AdapterError, InputError, ServingError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.serving.runtimes.base import Admit, Capabilities, LiveRuntime, Piece, RuntimeContext, Turn
from academy.serving.runtimes.remote import (
    RemoteConnection,
    RunningTurns,
    answer_tokens,
    error_text,
    read_config,
    refuse_unservable,
    template_of,
)
from academy.store.ledger import BASE

PATIENCE_SECONDS = 120.0
TOLERANCE = 0.04
"""For half-precision weights, compared with those of the training."""
PREFIX, DONE = "data:", "[DONE]"
START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-loras 2 --max-lora-rank RANK"


class VllmRuntime:
    """A LiveRuntime on a vLLM server that runs already."""

    def __init__(
        self,
        url: str,
        base: BaseModel,
        *,
        seen_as: str | None = None,
        key: str = "",
        patience: float = PATIENCE_SECONDS,
        tolerance: float = TOLERANCE,
        admit: Admit | None = None,
    ) -> None:
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self.base_proven = False  # whether the server itself names the family's base model
        self._connection = RemoteConnection("vllm", url, key, patience)
        self._seen_as = seen_as
        self._served = ""
        self._context = base.context
        self._templates: dict[str, ChatTemplate] = {}
        self._loading = asyncio.Lock()
        self._turns = RunningTurns()
        self.capabilities = Capabilities(hot=True, rslora=True, dora=False, logprobs=True, tolerance=tolerance)

    @property
    def name(self) -> str:
        """Always vllm."""
        return "vllm"

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the adapters that this process loaded."""
        return frozenset(self._templates) - {BASE}

    @property
    def ended(self) -> bool:
        """Always False: we do not run the server."""
        return False

    async def start(self) -> None:
        """Find the base model among the models that the server lists."""
        bases = [card for card in await self._cards() if not card.get("parent")]
        if not bases:
            raise ServingError(
                f"The vllm server at {self._connection.url} lists no base model.", f"Start it as: {START}"
            )
        names = {self.base.name, str(self.base.path)}
        matches = [card for card in bases if names & {card.get("id"), card.get("root")}]
        if not matches and len(bases) > 1:
            raise ServingError(
                f"The vllm server at {self._connection.url} lists {len(bases)} base models, "
                f"and none is {self.base.name}.",
                "Start it with only the base model of this family.",
            )
        card = (matches or bases)[0]
        self.base_proven = bool(matches)
        self._served = str(card["id"])
        self._context = min(self.base.context, int(card.get("max_model_len") or self.base.context))
        self._templates[BASE] = await asyncio.to_thread(self.base.open_template)

    async def load(self, adapter: Path) -> str:
        """Check an adapter's files here, then make the server load them from the folder that it sees."""
        record = (await asyncio.to_thread(self._admit, adapter)).adapter
        can = self.capabilities
        refuse_unservable(record.digest, read_config(adapter), "vllm", rslora=can.rslora, dora=can.dora)
        async with self._loading:
            if record.digest not in self._templates:
                template = template_of(adapter, self._base_template())
                place = str(PurePosixPath(self._seen_as) / adapter.name) if self._seen_as else str(adapter.resolve())
                answer = await self._connection.call(
                    "POST", "/v1/load_lora_adapter", {"lora_name": record.digest, "lora_path": place}
                )
                if not answer.is_success and not await self._has_it(answer, record.digest, place):
                    raise await self._refusal(answer, record.digest, place)
                self._templates[record.digest] = template
        return record.digest

    async def unload(self, adapter: str) -> None:
        """Drop an adapter after its last turn."""
        if adapter == BASE or self._templates.pop(adapter, None) is None:
            return
        await self._turns.drained(adapter)
        async with self._loading:
            if adapter in self._templates:
                return  # it was loaded again in the meantime
            answer = await self._connection.call("POST", "/v1/unload_lora_adapter", {"lora_name": adapter})
            if not answer.is_success and answer.status_code != httpx.codes.NOT_FOUND:
                raise self._connection.failed(answer)

    async def point(self, adapter: str) -> str:  # noqa: ARG002
        """Return "": a second name for the same files would take another place of --max-loras."""
        return ""

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer by the named adapter. The request carries its name, so a swap cannot change a running answer."""
        template = self._templates.get(adapter)
        if template is None:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        prompt = template.prompt(turn.messages)
        body = self._body(turn, adapter, prompt)
        async with self._turns.counted(adapter), self._connection.lines("/v1/completions", body) as (answer, lines):
            if not answer.is_success:
                raise self._unanswered(answer, adapter)
            finish, usage = "", None
            async for line in lines:
                if not line.startswith(PREFIX):
                    continue  # a comment or another field of server-sent events
                data = line.removeprefix(PREFIX).strip()
                if data == DONE:
                    break
                chunk = self._connection.parsed(data)
                if "error" in chunk:
                    raise self._connection.ended_early(str(_message(chunk["error"])))
                usage = chunk.get("usage") or usage
                for choice in chunk.get("choices", []):
                    finish = choice.get("finish_reason") or finish
                    logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
                    piece = Piece(
                        text=choice.get("text") or "",
                        logprobs=tuple(logprob for logprob in logprobs if logprob is not None),
                    )
                    if piece.text or piece.logprobs:
                        yield piece
            if finish not in ("stop", "length") or usage is None:
                raise self._connection.ended_early(finish)
            yield Piece(
                finish=cast('Literal["stop", "length"]', finish),
                prompt_tokens=usage["prompt_tokens"],
                tokens=usage["completion_tokens"],
            )

    async def close(self) -> None:
        """Close the connections. The server goes on running and keeps its adapters."""
        await self._connection.close()

    def _body(self, turn: Turn, adapter: str, prompt: list[int]) -> dict[str, Any]:
        """The request. It sets every option that the server would otherwise take from the model's generation_config."""
        return {
            "model": self._served if adapter == BASE else adapter,
            "prompt": prompt,
            "max_tokens": answer_tokens(len(prompt), turn.max_new_tokens, self._context),
            "temperature": turn.temperature,
            "top_p": turn.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop": list(turn.stop),
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"seed": turn.seed} if turn.seed is not None else {}),
            **({"logprobs": 1} if turn.logprobs else {}),
        }

    def _base_template(self) -> ChatTemplate:
        if BASE not in self._templates:
            raise ServingError("The runtime is not started.", "Start it first.")
        return self._templates[BASE]

    async def _cards(self) -> list[dict[str, Any]]:
        cards = (await self._connection.json("GET", "/v1/models")).get("data")
        if not isinstance(cards, list):
            raise ServingError(f"The server at {self._connection.url} is not a vllm server.", "Correct the URL.")
        return cards

    async def _has_it(self, answer: httpx.Response, digest: str, place: str) -> bool:
        """Whether the server refused because an earlier process loaded the same files under this name."""
        if answer.status_code != httpx.codes.BAD_REQUEST:
            return False
        return any(card.get("id") == digest and card.get("root") == place for card in await self._cards())

    async def _refusal(self, answer: httpx.Response, digest: str, place: str) -> AdapterError | ServingError:
        """Why the server did not load an adapter: its options, its view of our files, or the adapter itself."""
        message = error_text(answer)
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            if message in ("Not Found", "Method Not Allowed"):
                return ServingError(
                    f"The vllm server at {self._connection.url} does not allow loading adapters while it runs.",
                    f"Start it as: {START}",
                )
            return AdapterError(
                f"The vllm server at {self._connection.url} does not see the adapter {digest[:12]} at {place}.",
                "Share the adapters' folder with the server, and pass the path that the server sees as --seen-as.",
            )
        if answer.is_server_error and not (await self._connection.call("GET", "/health")).is_success:
            return self._connection.failed(answer)
        return AdapterError(
            f"The vllm server at {self._connection.url} did not load the adapter {digest[:12]}: {message}",
            "If the message names --max-lora-rank or --max-loras, start the server with a larger value.",
        )

    def _unanswered(self, answer: httpx.Response, adapter: str) -> AdapterError | ServingError:
        if answer.status_code == httpx.codes.NOT_FOUND and adapter != BASE:
            self._templates.pop(adapter, None)  # the server was restarted since
            return AdapterError(
                f"The vllm server at {self._connection.url} no longer has the adapter {adapter[:12]}.", "Load it again."
            )
        return self._connection.failed(answer)


def make(context: RuntimeContext) -> LiveRuntime:
    """The runtime `vllm`. Raises InputError without a URL, or for a relative `seen_as`."""
    url = context.required_url("vllm")
    if context.seen_as and not PurePosixPath(context.seen_as).is_absolute():
        raise InputError(
            f"The path '{context.seen_as}' is not absolute.",
            "Give the adapters' folder as vLLM's server sees it, for example /adapters.",
        )
    return VllmRuntime(url, context.base, seen_as=context.seen_as or None, key=context.key, admit=context.admit)


def _message(error: Any) -> Any:
    return error.get("message", error) if isinstance(error, dict) else error
