"""A LiveRuntime on an Ollama server, here or on another machine. Not hot: a tag is created and warmed before its use.

Each adapter is a separate model under an immutable tag, `academy/<family>:<digest16>`. The model's licence text holds
the whole digest, which proves that the tag is the adapter. `point` sets the alias `academy/<family>:champion` to a tag,
for people who use Ollama without our gateway; the gateway itself always names the tag.

There are two ways to make a tag. Ollama before 0.34.1 converts safetensors adapters itself, but only plain LoRA (it
ignores rsLoRA's scale) and only for the architectures llama and gemma2. For everything else, and from 0.34.1 on, where
Ollama dropped adapters ("LoRA adapters are no longer supported"), `merged_gguf` merges the adapter into the base model.

Prompts are rendered here and sent raw. Ollama tokenizes them itself and may add a first token; where the template adds
it too, ours is omitted. A control token that a user typed is sent with an invisible character in it, because Ollama
would read it as a control token. Ollama's log-probabilities do not include the end token.
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
from academy.errors import AdapterError, InputError, ServingError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.serving.export.modelfile import licence
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
from academy.store.files import digest_of_file
from academy.store.ledger import BASE
from academy.system.installation import install_remedy

PATIENCE_SECONDS = 300.0
"""Ollama is silent while it loads or converts a model."""
KEEP_ALIVE = "30m"
CONVERTED = ("llama", "gemma2")
"""Architectures whose safetensors adapters Ollama converts, before ADAPTERS_UNTIL."""
ADAPTERS_UNTIL = (0, 34, 1)
LOGPROBS_FROM = (0, 12, 11)
TOLERANCES = {"F32": 0.04, "BF16": 0.04, "F16": 0.04, "Q8_0": 0.1}
COARSEST = 0.3
"""Tolerance for every other quantisation."""
CHUNK = 1 << 20
POLLS, POLL_SECONDS = 50, 0.1
"""How often and at what interval `_gone` checks whether a model has left the memory."""


class OllamaRuntime:
    """A LiveRuntime on an Ollama server that runs already. `model` is the server's name for the base model."""

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
        self._adds_first_token: dict[str, bool] = {}  # by adapter: whether Ollama adds the first token itself
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
        """What this server can do; final after `start`."""
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
        """Digests of the adapters whose tag this process made or verified."""
        return frozenset(self._templates) - {BASE}

    @property
    def ended(self) -> bool:
        """Always False: we do not run the server."""
        return False

    def tag(self, adapter: str) -> str:
        """The server's name for an adapter's model, or for the base model."""
        return self._model if adapter == BASE else f"academy/{self.base.family}:{adapter[:16]}"

    async def start(self) -> None:
        """Read the server's version and its description of the base model, and load that model into memory."""
        version = (await self._connection.json("GET", "/api/version")).get("version")
        if not isinstance(version, str):
            raise ServingError(f"The server at {self._connection.url} is not an Ollama server.", "Correct the URL.")
        major, minor, patch = [*map(int, re.findall(r"\d+", version)), 0, 0, 0][:3]
        self._version = (major, minor, patch)
        self._architecture = await self._learn(BASE)
        self._templates[BASE] = await asyncio.to_thread(self.base.open_template)
        await self._warm(self._model)

    async def load(self, adapter: Path) -> str:
        """Create the adapter's model under its own tag unless it exists, and load it into memory."""
        record = (await asyncio.to_thread(self._admit, adapter)).adapter
        can = self.capabilities
        refuse_unservable(record.digest, read_config(adapter), "ollama", rslora=can.rslora, dora=can.dora)
        async with self._loading:
            if record.digest not in self._templates:
                template = template_of(adapter, self._base_template())
                if not await self._is_there(record):
                    await self._create(record, template)
                await self._learn(record.digest)
                await self._warm(self.tag(record.digest))
                self._templates[record.digest] = template
        return record.digest

    async def unload(self, adapter: str) -> None:
        """Drop an adapter from memory and disk after its last turn. An alias of it goes on working."""
        if adapter == BASE or self._templates.pop(adapter, None) is None:
            return
        await self._turns.drained(adapter)
        self._tolerances.pop(adapter, None)
        async with self._loading:
            if adapter in self._templates:
                return  # it was loaded again in the meantime
            tag = self.tag(adapter)
            answer = await self._connection.call("POST", "/api/generate", {"model": tag, "keep_alive": 0})
            if answer.is_success:
                await self._gone(tag)
            answer = await self._connection.call("DELETE", "/api/delete", {"model": tag})
            if not answer.is_success and answer.status_code != httpx.codes.NOT_FOUND:
                raise self._connection.failed(answer)

    async def point(self, adapter: str) -> str:
        """Set the alias `champion` to an adapter, or to the base model. Returns the alias."""
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
        async with self._turns.counted(adapter), self._connection.lines("/api/generate", body) as (answer, lines):
            if not answer.is_success:
                raise self._refused(answer, adapter)
            async for line in lines:
                event = self._connection.parsed(line)
                if "error" in event:
                    raise self._connection.ended_early(str(event["error"]))
                logprobs = tuple(token["logprob"] for token in event.get("logprobs") or ())
                if event.get("response") or logprobs:
                    yield Piece(text=event.get("response", ""), logprobs=logprobs)
                if event.get("done"):
                    finish = event.get("done_reason")
                    if finish not in ("stop", "length"):
                        raise self._connection.ended_early(str(finish))
                    yield Piece(
                        finish=cast('Literal["stop", "length"]', finish),
                        prompt_tokens=event.get("prompt_eval_count") or len(prompt),
                        tokens=event.get("eval_count", 0),
                    )
                    return
            raise self._connection.ended_early()

    async def close(self) -> None:
        """Close the connections. Tags stay; Ollama drops unused models from memory itself."""
        await self._connection.close()

    def _body(self, turn: Turn, adapter: str, template: ChatTemplate, prompt_tokens: int) -> dict[str, Any]:
        """The request. It sets every option that Ollama or the model would otherwise set."""
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
            "prompt": text.removeprefix(first) if self._adds_first_token[adapter] and first else text,
            "raw": True,
            "stream": True,
            "keep_alive": KEEP_ALIVE,
            "options": options,
            **({"logprobs": True} if turn.logprobs and self.capabilities.logprobs else {}),
        }

    def _base_template(self) -> ChatTemplate:
        if BASE not in self._templates:
            raise ServingError("The runtime is not started.", "Start it first.")
        return self._templates[BASE]

    async def _create(self, adapter: Adapter, template: ChatTemplate) -> None:
        """Create a tag of the base model with the adapter, or of both merged, depending on the server's version."""
        config = read_config(adapter.path)
        head: dict[str, Any] = {
            "model": self.tag(adapter.digest),
            "license": [licence(adapter.digest)],
            "parameters": {"num_ctx": self.base.context, "stop": [str(template.tokenizer.eos_token)]},
        }
        version = ".".join(map(str, self._version))
        refusal = f"version {version} does not convert adapters of the architecture '{self._architecture}'"
        if config.get("use_rslora") or config.get("use_dora"):
            refusal = "it converts only plain LoRA"
        elif self._version < ADAPTERS_UNTIL and self._architecture in CONVERTED:
            files = {name: await self._uploaded(adapter.path / name) for name in (CONFIG, WEIGHTS)}
            refusal = await self._refusal_of({**head, "from": self._model, "adapters": files})
        if refusal and self._merged_gguf is not None:
            model_file = await asyncio.to_thread(self._merged_gguf, adapter.path)
            refusal = await self._refusal_of({**head, "files": {model_file.name: await self._uploaded(model_file)}})
        if refusal:
            raise AdapterError(
                f"The Ollama server at {self._connection.url} rejected the adapter {adapter.digest[:12]}: {refusal}.",
                "Check its log."
                if self._merged_gguf
                else f"{install_remedy('llamacpp')} The adapter is then merged into the base model.",
            )

    async def _refusal_of(self, body: dict[str, Any]) -> str:
        """Create a model. Returns "", or why the server refused."""
        async with self._connection.lines("/api/create", body) as (answer, lines):
            if not answer.is_success:
                return error_text(answer)
            status = ""
            async for line in lines:
                event = self._connection.parsed(line)
                if "error" in event:
                    return str(event["error"])
                status = event.get("status", status)
            if status != "success":
                raise self._connection.ended_early("the model was not created")
        return ""

    async def _uploaded(self, path: Path) -> str:
        """Upload a file unless the server has it. Returns the server's name for it."""
        name = f"sha256:{await asyncio.to_thread(digest_of_file, path)}"
        answer = await self._connection.call("HEAD", f"/api/blobs/{name}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            answer = await self._connection.call("POST", f"/api/blobs/{name}", _chunks(path))
        if not answer.is_success:
            raise self._connection.failed(answer)
        return name

    async def _is_there(self, adapter: Adapter) -> bool:
        """Whether an earlier process made the tag for exactly this adapter."""
        model = await self._described(self.tag(adapter.digest))
        return model is not None and licence(adapter.digest) in str(model.get("license", ""))

    async def _learn(self, adapter: str) -> str:
        """Read a model's quantisation and first token from the server. Returns its architecture."""
        model = await self._described(self.tag(adapter))
        if model is None:
            raise ServingError(
                f"The Ollama server at {self._connection.url} has no model {self.tag(adapter)}.",
                f"Pull or create it there; it must be {self.base.name}, the base model of this family.",
            )
        about = model.get("model_info") or {}
        usual = about.get("tokenizer.ggml.model") == "llama" or about.get("tokenizer.ggml.pre") == "llama-bpe"
        self._adds_first_token[adapter] = bool(about.get("tokenizer.ggml.add_bos_token", usual))
        kind = str((model.get("details") or {}).get("quantization_level", ""))
        self._tolerances[adapter] = TOLERANCES.get(kind, COARSEST)
        return str(about.get("general.architecture", ""))

    async def _described(self, tag: str) -> dict[str, Any] | None:
        answer = await self._connection.call("POST", "/api/show", {"model": tag})
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if not answer.is_success:
            raise self._connection.failed(answer)
        description: dict[str, Any] = self._connection.parsed(answer.content)
        return description

    async def _warm(self, tag: str) -> None:
        """Load a model into memory, so that the first turn does not wait. A damaged model fails here."""
        body = {"model": tag, "keep_alive": KEEP_ALIVE, "stream": False, "options": {"num_ctx": self.base.context}}
        answer = await self._connection.call("POST", "/api/generate", body)
        if not answer.is_success:
            raise ServingError(
                f"The Ollama server at {self._connection.url} cannot load {tag} into memory: {error_text(answer)}",
                "Check its log; the model may be too large for the machine, or damaged.",
            )

    async def _gone(self, tag: str) -> None:
        """Wait until a model has left the memory; Ollama answers before that."""
        for _ in range(POLLS):
            running = (await self._connection.json("GET", "/api/ps")).get("models") or []
            if tag not in {model.get("model") for model in running}:
                return
            await asyncio.sleep(POLL_SECONDS)

    def _refused(self, answer: httpx.Response, adapter: str) -> AdapterError | ServingError:
        if answer.status_code == httpx.codes.NOT_FOUND and adapter != BASE:
            self._templates.pop(adapter, None)  # it was removed on the server
            return AdapterError(
                f"The Ollama server at {self._connection.url} no longer has the adapter {adapter[:12]}.",
                "Load it again.",
            )
        return self._connection.failed(answer)


def make(context: RuntimeContext) -> LiveRuntime:
    """The runtime `ollama`. Raises InputError for a URL that does not name the base model, and for --seen-as."""
    context.refuse_seen_as("ollama")
    address, _, model = context.required_url("ollama").partition("#")
    if not model:
        raise InputError(
            f"The URL {address} does not name the Ollama model that is the base model.",
            "Give --runtime-url http://host:port#model.",
        )
    return OllamaRuntime(
        address, context.base, model=model, merged_gguf=context.merged_gguf, key=context.key, admit=context.admit
    )


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    """A file's content in chunks, because merged models are large."""
    with path.open("rb") as stream:
        while chunk := await asyncio.to_thread(stream.read, CHUNK):
            yield chunk
