"""Ollama on this machine or another (a LiveRuntime that is not hot: a tag is created, warmed, and then named).

Each adapter is a model of its own under an immutable tag, `academy/<family>:<digest16>`, whose licence text carries
the whole digest, so that a tag is known to be the adapter and not only to be called so. `point` lays the alias
`academy/<family>:champion` over a tag, for people who use Ollama without our gateway; the gateway itself always names
the tag.

Two ways lead to a tag. Ollama before 0.34.1 converts safetensors adapters itself, for the architectures llama and
gemma2 and for plain LoRA alone: it knows no rsLoRA scale. For everything else, and from 0.34.1 on, when Ollama dropped
adapters ("LoRA adapters are no longer supported"), `merged_gguf` writes the base model with the adapter merged into it.

Prompts are rendered here and sent raw. Ollama cuts them into tokens itself and may set a first token of its own; where
the template sets it too, ours is left out. Its log-probabilities leave the end token out.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import httpx

from academy.adapters.adapter import CONFIG, WEIGHTS, Adapter, open_adapter
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
from academy.store.files import digest_of_file
from academy.store.ledger import BASE

PATIENCE_SECONDS = 300.0
"""Ollama says nothing while it loads or converts a model."""
KEEP_ALIVE = "30m"
CONVERTED = ("llama", "gemma2")
"""Architectures whose safetensors adapters Ollama converts, before ADAPTERS_UNTIL."""
ADAPTERS_UNTIL = (0, 34, 1)
LOGPROBS_FROM = (0, 12, 11)
TOLERANCES = {"F32": 0.04, "BF16": 0.04, "F16": 0.04, "Q8_0": 0.1}
COARSEST = 0.3
"""For every other quantisation."""
CHUNK = 1 << 20
LOOKS, LOOK_SECONDS = 50, 0.1
"""How often it is asked whether a model has left the memory."""


class OllamaRuntime:
    """A LiveRuntime on an Ollama server that somebody else started. `model` is what the base model is called there."""

    def __init__(
        self,
        url: str,
        base: BaseModel,
        *,
        model: str,
        merged_gguf: Callable[[Path], Path] | None = None,
        key: str = "",
        patience: float = PATIENCE_SECONDS,
        admit: Admit | None = None,
    ) -> None:
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self._connection = RemoteConnection("ollama", url, key, patience)
        self._model = model
        self._merged_gguf = merged_gguf
        self._version = (0, 0, 0)
        self._architecture = ""
        self._begins: dict[str, bool] = {}  # of each tag, whether Ollama sets its first token itself
        self._tolerances: dict[str, float] = {}
        self._templates: dict[str, ChatTemplate] = {}
        self._loading = asyncio.Lock()
        self._turns = RunningTurns()

    @property
    def name(self) -> str:
        """Always ollama."""
        return "ollama"

    @property
    def capabilities(self) -> Capabilities:
        """What this server can do; known once it was started."""
        merges = self._merged_gguf is not None
        return Capabilities(
            hot=False,
            rslora=merges,
            dora=merges,
            logprobs=self._version >= LOGPROBS_FROM,
            tolerance=max(self._tolerances.values(), default=COARSEST),
        )

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the adapters that have a tag made or found by us."""
        return frozenset(self._templates) - {BASE}

    @property
    def ended(self) -> bool:
        """The server belongs to somebody else."""
        return False

    def tag(self, adapter: str) -> str:
        """What an adapter's model, or the base model, is called on the server."""
        return self._model if adapter == BASE else f"academy/{self.base.family}:{adapter[:16]}"

    async def start(self) -> None:
        """Learn the server's version and what it knows of the base model, and warm that up."""
        told = (await self._connection.json("GET", "/api/version")).get("version")
        if not isinstance(told, str):
            raise ServingError(f"The server at {self._connection.url} is no Ollama server.", "Correct the URL.")
        major, minor, patch = [*map(int, re.findall(r"\d+", told)), 0, 0, 0][:3]
        self._version = (major, minor, patch)
        self._architecture = await self._learn(BASE)
        self._templates[BASE] = await asyncio.to_thread(ChatTemplate.of, self.base.path)
        await self._warm(self._model)

    async def load(self, adapter: Path) -> str:
        """Create the adapter's model under its own tag, unless it is there, and have it brought into memory."""
        found = (await asyncio.to_thread(self._admit, adapter)).adapter
        can = self.capabilities
        refuse_unservable(found.digest, read_config(adapter), "ollama", rslora=can.rslora, dora=can.dora)
        async with self._loading:
            if found.digest not in self._templates:
                template = template_of(adapter, self._base_template())
                if not await self._is_there(found):
                    await self._create(found, template)
                await self._learn(found.digest)
                await self._warm(self.tag(found.digest))
                self._templates[found.digest] = template
        return found.digest

    async def unload(self, adapter: str) -> None:
        """Drop an adapter from memory and disk once its last turn has ended. An alias laid over it stays whole."""
        if adapter == BASE or self._templates.pop(adapter, None) is None:
            return
        await self._turns.drained(adapter)
        self._tolerances.pop(adapter, None)
        async with self._loading:
            if adapter in self._templates:
                return  # it was loaded again meanwhile
            tag = self.tag(adapter)
            answer = await self._connection.call("POST", "/api/generate", {"model": tag, "keep_alive": 0})
            if answer.is_success:
                await self._gone(tag)
            answer = await self._connection.call("DELETE", "/api/delete", {"model": tag})
            if not answer.is_success and answer.status_code != httpx.codes.NOT_FOUND:
                raise self._connection.failed(answer)

    async def point(self, adapter: str) -> str:
        """Lay the alias `champion` over an adapter, or over the base model. Returns the alias."""
        if adapter not in self._templates:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        alias = f"academy/{self.base.family}:champion"
        answer = await self._connection.call("POST", "/api/copy", {"source": self.tag(adapter), "destination": alias})
        if not answer.is_success:
            raise self._refused(answer, adapter)
        return alias

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer by the named adapter's tag."""
        template = self._templates.get(adapter)
        if template is None:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        prompt = template.prompt(turn.messages)
        body = self._body(turn, adapter, template, len(prompt))
        async with self._turns.under_way(adapter), self._connection.lines("/api/generate", body) as (answer, lines):
            if not answer.is_success:
                raise self._refused(answer, adapter)
            async for line in lines:
                said = self._connection.parsed(line)
                if "error" in said:
                    raise self._connection.ended_early(str(said["error"]))
                logprobs = tuple(one["logprob"] for one in said.get("logprobs") or ())
                if said.get("response") or logprobs:
                    yield Piece(text=said.get("response", ""), logprobs=logprobs)
                if said.get("done"):
                    finish = said.get("done_reason")
                    if finish not in ("stop", "length"):
                        raise self._connection.ended_early(str(finish))
                    yield Piece(
                        finish=cast('Literal["stop", "length"]', finish),
                        prompt_tokens=said.get("prompt_eval_count") or len(prompt),
                        tokens=said.get("eval_count", 0),
                    )
                    return
            raise self._connection.ended_early()

    async def close(self) -> None:
        """Close the connections. Tags stay; what is in memory leaves it when it is no longer asked."""
        await self._connection.close()

    def _body(self, turn: Turn, adapter: str, template: ChatTemplate, prompt_tokens: int) -> dict[str, Any]:
        """Every option that Ollama or the model would set otherwise is said."""
        text = template.rendered(turn.messages)
        first = str(template.tokenizer.bos_token or "")
        options = {
            "num_ctx": self.base.context,
            "num_predict": answer_tokens(prompt_tokens, turn.max_new_tokens, self.base.context),
            "temperature": turn.temperature,
            "top_p": turn.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "stop": [str(template.tokenizer.eos_token), *turn.stop],
            **({"seed": turn.seed} if turn.seed is not None else {}),
        }
        return {
            "model": self.tag(adapter),
            "prompt": text.removeprefix(first) if self._begins[adapter] and first else text,
            "raw": True,
            "stream": True,
            "keep_alive": KEEP_ALIVE,
            "options": options,
            **({"logprobs": True} if turn.logprobs and self.capabilities.logprobs else {}),
        }

    def _base_template(self) -> ChatTemplate:
        if BASE not in self._templates:
            raise ServingError("The runtime was not started.", "Start it first.")
        return self._templates[BASE]

    async def _create(self, adapter: Adapter, template: ChatTemplate) -> None:
        """A tag of the base model with the adapter beside it, or of both merged, whichever this version takes."""
        config = read_config(adapter.path)
        head: dict[str, Any] = {
            "model": self.tag(adapter.digest),
            "license": [_licence(adapter.digest)],
            "parameters": {"num_ctx": self.base.context, "stop": [str(template.tokenizer.eos_token)]},
        }
        version = ".".join(map(str, self._version))
        refusal = f"version {version} converts no adapters of the architecture '{self._architecture}'"
        if config.get("use_rslora") or config.get("use_dora"):
            refusal = "it converts plain LoRA alone"
        elif self._version < ADAPTERS_UNTIL and self._architecture in CONVERTED:
            files = {name: await self._uploaded(adapter.path / name) for name in (CONFIG, WEIGHTS)}
            refusal = await self._refusal_of({**head, "from": self._model, "adapters": files})
        if refusal and self._merged_gguf is not None:
            merged = await asyncio.to_thread(self._merged_gguf, adapter.path)
            refusal = await self._refusal_of({**head, "files": {merged.name: await self._uploaded(merged)}})
        if refusal:
            raise AdapterError(
                f"The Ollama server at {self._connection.url} rejected the adapter {adapter.digest[:12]}: {refusal}.",
                "Look at its log."
                if self._merged_gguf
                else "Install the extra `gguf`: the adapter is merged into the base model then.",
            )

    async def _refusal_of(self, body: dict[str, Any]) -> str:
        """Create a model; "" where the server did, or why it would not."""
        async with self._connection.lines("/api/create", body) as (answer, lines):
            if not answer.is_success:
                return error_text(answer)
            status = ""
            async for line in lines:
                said = self._connection.parsed(line)
                if "error" in said:
                    return str(said["error"])
                status = said.get("status", status)
            if status != "success":
                raise self._connection.ended_early("the model was not made")
        return ""

    async def _uploaded(self, path: Path) -> str:
        """Have the server hold a file. Returns how it is named there."""
        name = f"sha256:{await asyncio.to_thread(digest_of_file, path)}"
        answer = await self._connection.call("HEAD", f"/api/blobs/{name}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            answer = await self._connection.call("POST", f"/api/blobs/{name}", _chunks(path))
        if not answer.is_success:
            raise self._connection.failed(answer)
        return name

    async def _is_there(self, adapter: Adapter) -> bool:
        """Whether the tag stands for this very adapter, from a run before this one."""
        shown = await self._shown(self.tag(adapter.digest))
        return shown is not None and _licence(adapter.digest) in str(shown.get("license", ""))

    async def _learn(self, adapter: str) -> str:
        """What the server knows of a model: its quantisation and first token. Returns its architecture."""
        shown = await self._shown(self.tag(adapter))
        if shown is None:
            raise ServingError(
                f"The Ollama server at {self._connection.url} has no model {self.tag(adapter)}.",
                f"Pull or create it there: it must be {self.base.name}, the base model of this family.",
            )
        about = shown.get("model_info") or {}
        usual = about.get("tokenizer.ggml.model") == "llama" or about.get("tokenizer.ggml.pre") == "llama-bpe"
        self._begins[adapter] = bool(about.get("tokenizer.ggml.add_bos_token", usual))
        kind = str((shown.get("details") or {}).get("quantization_level", ""))
        self._tolerances[adapter] = TOLERANCES.get(kind, COARSEST)
        return str(about.get("general.architecture", ""))

    async def _shown(self, tag: str) -> dict[str, Any] | None:
        answer = await self._connection.call("POST", "/api/show", {"model": tag})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if not answer.is_success:
            raise self._connection.failed(answer)
        found: dict[str, Any] = self._connection.parsed(answer.content)
        return found

    async def _warm(self, tag: str) -> None:
        """Into memory, so that the first turn does not wait. A damaged model is found out here."""
        body = {"model": tag, "keep_alive": KEEP_ALIVE, "stream": False, "options": {"num_ctx": self.base.context}}
        answer = await self._connection.call("POST", "/api/generate", body)
        if not answer.is_success:
            raise ServingError(
                f"The Ollama server at {self._connection.url} cannot bring {tag} into memory: {error_text(answer)}",
                "Look at its log; the model may be too large for the machine, or damaged.",
            )

    async def _gone(self, tag: str) -> None:
        """Wait until a model has left the memory: Ollama answers before it has."""
        for _ in range(LOOKS):
            running = (await self._connection.json("GET", "/api/ps")).get("models") or []
            if tag not in {one.get("model") for one in running}:
                return
            await asyncio.sleep(LOOK_SECONDS)

    def _refused(self, answer: httpx.Response, adapter: str) -> AdapterError | ServingError:
        if answer.status_code == httpx.codes.NOT_FOUND and adapter != BASE:
            self._templates.pop(adapter, None)  # somebody removed it
            return AdapterError(
                f"The Ollama server at {self._connection.url} has no adapter {adapter[:12]} any more.", "Load it again."
            )
        return self._connection.failed(answer)


def _licence(digest: str) -> str:
    """The one field of a model that Ollama keeps and shows as it was given."""
    return f"academy adapter {digest}"


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """A file's content: merged models are larger than memory should hold."""
    with path.open("rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, CHUNK):
            yield chunk
