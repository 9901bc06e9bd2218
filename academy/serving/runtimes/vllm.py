"""vLLM on this machine or another (a LiveRuntime), started with --enable-lora and runtime LoRA updating allowed.

An adapter is loaded under its digest and never in place: measured with vLLM 0.32, `load_inplace` mixed 17.6 % of the
answers while it swapped, immutable names none. Prompts are rendered here, with the adapter's own template, and sent as
token ids, so that the server's template decides nothing.

The base model that the server holds is compared by name and path. Where both are others (a folder in a container), it
is not proven, and the canaries decide: they ask the base as well (academy.serving.identity).

vLLM reads the adapter's folder itself. On another machine, or in a container, `seen_as` is the folder of the adapters
as the server sees it. DoRA is refused: vLLM's own loader does (vllm/lora/peft_helper.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import httpx

from academy.adapters.adapter import open_adapter
from academy.errors import AdapterError, ServingError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.serving.runtimes.base import Admit, Capabilities, Piece, Turn
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
"""Half-precision weights against those of the training."""
PREFIX, DONE = "data:", "[DONE]"
START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-loras 2 --max-lora-rank RANK"


class VllmRuntime:
    """A LiveRuntime on a vLLM server that somebody else started."""

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
        self.base_proven = False  # whether the server says by itself that its base model is the family's
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
        """Digests of the adapters that were loaded from here."""
        return frozenset(self._templates) - {BASE}

    @property
    def ended(self) -> bool:
        """The server belongs to somebody else."""
        return False

    async def start(self) -> None:
        """Find the base model among those that the server lists."""
        bases = [card for card in await self._cards() if not card.get("parent")]
        if not bases:
            raise ServingError(
                f"The vllm server at {self._connection.url} lists no base model.", f"Start it as: {START}"
            )
        known = {self.base.name, str(self.base.path)}
        ours = [card for card in bases if known & {card.get("id"), card.get("root")}]
        if not ours and len(bases) > 1:
            raise ServingError(
                f"The vllm server at {self._connection.url} lists {len(bases)} base models, "
                f"and none is {self.base.name}.",
                "Start it with the base model of this family alone.",
            )
        card = (ours or bases)[0]
        self.base_proven = bool(ours)
        self._served = str(card["id"])
        self._context = min(self.base.context, int(card.get("max_model_len") or self.base.context))
        self._templates[BASE] = await asyncio.to_thread(ChatTemplate.of, self.base.path)

    async def load(self, adapter: Path) -> str:
        """Check an adapter's files here, and have the server load them from where it sees them."""
        found = (await asyncio.to_thread(self._admit, adapter)).adapter
        can = self.capabilities
        refuse_unservable(found.digest, read_config(adapter), "vllm", rslora=can.rslora, dora=can.dora)
        async with self._loading:
            if found.digest not in self._templates:
                template = template_of(adapter, self._base_template())
                place = str(PurePosixPath(self._seen_as) / adapter.name) if self._seen_as else str(adapter.resolve())
                answer = await self._connection.call(
                    "POST", "/v1/load_lora_adapter", {"lora_name": found.digest, "lora_path": place}
                )
                if not answer.is_success and not await self._has_it(answer, found.digest, place):
                    raise await self._refusal(answer, found.digest, place)
                self._templates[found.digest] = template
        return found.digest

    async def unload(self, adapter: str) -> None:
        """Drop an adapter once the last turn that it answers has ended."""
        if adapter == BASE or self._templates.pop(adapter, None) is None:
            return
        await self._turns.drained(adapter)
        async with self._loading:
            if adapter in self._templates:
                return  # it was loaded again meanwhile
            answer = await self._connection.call("POST", "/v1/unload_lora_adapter", {"lora_name": adapter})
            if not answer.is_success and answer.status_code != httpx.codes.NOT_FOUND:
                raise self._connection.failed(answer)

    async def point(self, adapter: str) -> str:  # noqa: ARG002
        """There is no such name: a second one for the same files would take another place of --max-loras."""
        return ""

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer by the named adapter; its name goes with the request, so nothing can change under it."""
        template = self._templates.get(adapter)
        if template is None:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        prompt = template.prompt(turn.messages)
        body = self._body(turn, adapter, prompt)
        async with self._turns.under_way(adapter), self._connection.lines("/v1/completions", body) as (answer, lines):
            if not answer.is_success:
                raise self._unanswered(answer, adapter)
            finish, usage = "", None
            async for line in lines:
                if not line.startswith(PREFIX):
                    continue  # a comment or a field of server-sent events that says nothing here
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
                        text=choice.get("text") or "", logprobs=tuple(one for one in logprobs if one is not None)
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
        """Close the connections. The server belongs to whoever started it, and keeps its adapters."""
        await self._connection.close()

    def _body(self, turn: Turn, adapter: str, prompt: list[int]) -> dict[str, Any]:
        """What the server would take from the model's generation_config otherwise is said as well."""
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
            raise ServingError("The runtime was not started.", "Start it first.")
        return self._templates[BASE]

    async def _cards(self) -> list[dict[str, Any]]:
        found = (await self._connection.json("GET", "/v1/models")).get("data")
        if not isinstance(found, list):
            raise ServingError(f"The server at {self._connection.url} is no vllm server.", "Correct the URL.")
        return found

    async def _has_it(self, answer: httpx.Response, digest: str, place: str) -> bool:
        """Whether a refusal is for a name that stands for these very files already, from a run before this one."""
        if answer.status_code != httpx.codes.BAD_REQUEST:
            return False
        return any(card.get("id") == digest and card.get("root") == place for card in await self._cards())

    async def _refusal(self, answer: httpx.Response, digest: str, place: str) -> AdapterError | ServingError:
        """Why an adapter was not loaded: the server, its view of our files, or the adapter."""
        said = error_text(answer)
        if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            if said in ("Not Found", "Method Not Allowed"):
                return ServingError(
                    f"The vllm server at {self._connection.url} does not load adapters while it runs.",
                    f"Start it as: {START}",
                )
            return AdapterError(
                f"The vllm server at {self._connection.url} does not see the adapter {digest[:12]} at {place}.",
                "Share the folder of the adapters with it, and say where it sees that folder (--seen-as).",
            )
        if answer.is_server_error and not (await self._connection.call("GET", "/health")).is_success:
            return self._connection.failed(answer)
        return AdapterError(
            f"The vllm server at {self._connection.url} did not load the adapter {digest[:12]}: {said}",
            "Start it with a larger --max-lora-rank or --max-loras where that is what it says.",
        )

    def _unanswered(self, answer: httpx.Response, adapter: str) -> AdapterError | ServingError:
        if answer.status_code == httpx.codes.NOT_FOUND and adapter != BASE:
            self._templates.pop(adapter, None)  # the server was started anew since
            return AdapterError(
                f"The vllm server at {self._connection.url} has no adapter {adapter[:12]} any more.", "Load it again."
            )
        return self._connection.failed(answer)


def _message(error: Any) -> Any:
    return error.get("message", error) if isinstance(error, dict) else error
