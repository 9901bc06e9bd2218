"""Adapters in this process for many users at once: one thread runs the model, turns join and leave between two steps.

Each adapter has a batch of its own. A turn stays in the batch of the adapter that it was admitted with, so loading,
activating or dropping another one cannot change a token of it.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from academy.adapters.adapter import open_adapter
from academy.errors import AcademyError, AdapterError, InputError, ServingError
from academy.models.base_model import BaseModel
from academy.models.chat_template import ChatTemplate
from academy.serving.runtimes.base import Admit, Capabilities, Piece, Turn
from academy.serving.runtimes.decoding import CACHE_TOKENS, Rows, is_plain
from academy.serving.runtimes.detokenizer import Detokenizer
from academy.serving.runtimes.lora_layers import AdapterLayers
from academy.serving.runtimes.peft import open_model
from academy.store.ledger import BASE

BATCH = 32
"""Turns of one adapter that are answered together; more wait."""
COLDEST = 1e-6
"""The least temperature that is divided by: below it nothing but the likeliest token is left, and then no number."""


class PeftLive:
    """A LiveRuntime."""

    name = "peft"
    capabilities = Capabilities(hot=True, rslora=True, dora=True, logprobs=True, tolerance=0.01)

    def __init__(self, base: BaseModel, admit: Admit | None = None) -> None:
        """`admit` reads and checks what is loaded; without it the files are checked, and not who made them."""
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self._templates: dict[str, ChatTemplate] = {}
        self._engine: _Engine | None = None
        self._died = False

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the adapters beside the base model."""
        return frozenset(self._templates) - {BASE}

    @property
    def ended(self) -> bool:
        """Whether its thread has died."""
        return self._died or (self._engine is not None and self._engine.dead)

    async def start(self) -> None:
        """Load the base model and begin to answer. After a thread that died a new one begins, without adapters."""
        if self._engine is not None and not self._engine.dead:
            return
        self._died, self._engine = self.ended, None  # one model in memory at a time
        self._templates.clear()  # no adapter is there until it was attached to the new model
        self._templates[BASE] = await asyncio.to_thread(ChatTemplate.of, self.base.path)
        engine = await asyncio.to_thread(_Engine, self.base)
        engine.start()
        self._engine, self._died = engine, False

    async def load(self, adapter: Path) -> str:
        """Check an adapter and put it beside the others, from the very bytes that were checked."""
        engine = self._running()
        opened = await asyncio.to_thread(self._admit, adapter)
        digest = opened.adapter.digest
        if digest not in self._templates:
            tensors = opened.tensors
            await engine.between_steps(lambda: engine.attach(digest, opened.config, tensors))
            self._templates[digest] = ChatTemplate(self._templates[BASE].tokenizer, opened.template)
        return digest

    async def unload(self, adapter: str) -> None:
        """Take an adapter away once its last turn has ended."""
        if adapter != BASE and self._templates.pop(adapter, None) is not None:
            engine = self._running()
            await engine.between_steps(lambda: engine.forget(adapter))

    async def point(self, adapter: str) -> str:  # noqa: ARG002
        """Nobody reaches this engine but through us."""
        return ""

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer with the named adapter."""
        engine = self._running()
        if adapter not in self._templates:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        template = self._templates[adapter]
        prompt = template.prompt(turn.messages)
        if len(prompt) >= self.base.context:
            raise InputError(
                f"The conversation has {len(prompt):,} tokens; the model reads at most {self.base.context:,} "
                "with the answer.",
                "Shorten it.",
            )
        job = _Job(turn, prompt, template, min(turn.max_new_tokens, self.base.context - len(prompt)), adapter)
        engine.put(job)
        try:
            while True:
                piece = await job.pieces.get()
                if isinstance(piece, AcademyError):
                    raise piece
                yield piece
                if piece.finish:
                    return
        finally:
            job.left = True

    async def close(self) -> None:
        """End the thread; turns that are being answered end with ServingError."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._templates.clear()
            await asyncio.to_thread(engine.stop)

    def _running(self) -> _Engine:
        if self._engine is None or self._engine.dead:
            raise ServingError("The runtime does not answer: it was not started, or has ended.", "Start it again.")
        return self._engine


class _Job:
    """A turn on its way. The thread writes it, the event loop reads its pieces and may leave."""

    def __init__(self, turn: Turn, prompt: list[int], template: ChatTemplate, limit: int, adapter: str) -> None:
        self.turn, self.prompt, self.limit, self.adapter = turn, prompt, limit, adapter
        self.end: int = template.tokenizer.eos_token_id
        self.detokenizer = Detokenizer(template.tokenizer, turn.stop)
        self.tokens: list[int] = []
        self.over = False
        self.left = False
        self.pieces: asyncio.Queue[Piece | AcademyError] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.chance = torch.Generator()
        self.chance.manual_seed(turn.seed if turn.seed is not None else int.from_bytes(os.urandom(7)))

    def take(self, logits: torch.Tensor, likeliest: int) -> Piece | None:
        """Choose the next token (logits: vocabulary); what there is to say of it."""
        token = likeliest if self.turn.temperature == 0 else self._drawn(logits)
        self.tokens.append(token)
        logprobs = (float(logits.float().log_softmax(-1)[token]),) if self.turn.logprobs else ()
        text = self.detokenizer.add(None if token == self.end else token)
        if token == self.end or self.detokenizer.stopped or len(self.tokens) >= self.limit:
            self.over = True
            return Piece(
                text=text + self.detokenizer.rest(), logprobs=logprobs, prompt_tokens=len(self.prompt),
                finish="stop" if token == self.end or self.detokenizer.stopped else "length", tokens=len(self.tokens),
            )  # fmt: skip
        return Piece(text=text, logprobs=logprobs) if text or logprobs else None

    def _drawn(self, logits: torch.Tensor) -> int:
        logits = logits.float().cpu()
        likely = ((logits - logits.max()) / max(self.turn.temperature, COLDEST)).softmax(-1)
        if self.turn.top_p < 1:
            ordered, places = likely.sort(descending=True)
            left_out = ordered.cumsum(0) - ordered >= self.turn.top_p
            left_out[0] = False  # the likeliest one always stays, however small a share is asked for
            ordered[left_out] = 0
            return int(places[torch.multinomial(ordered, 1, generator=self.chance)])
        return int(torch.multinomial(likely, 1, generator=self.chance))


class _Errand:
    """Something to be done between two steps."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self.done: Future[None] = Future()

    def run(self) -> None:
        """Do it."""
        try:
            self._do()
        except AcademyError as problem:
            self.done.set_exception(problem)
        else:
            self.done.set_result(None)


class _Group:
    """The batch of one adapter."""

    def __init__(self, model: Any, pad: int) -> None:
        self.rows = Rows(model, pad)
        self.jobs: list[_Job] = []
        self.waiting: list[_Job] = []


class _Engine(threading.Thread):
    """The one thread that touches the model."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(name="academy-live", daemon=True)
        self.model, _ = open_model(base)
        if not is_plain(self.model):
            raise ServingError(
                "This base model cannot be served in this process: its cache or its settings are of another kind.",
                "Serve it with --runtime vllm or llamacpp.",
            )
        self.beside = AdapterLayers(self.model)
        self.dead = False
        template = ChatTemplate.of(base.path)
        self._pad: int = template.tokenizer.pad_token_id
        self._inbox: queue.SimpleQueue[_Job | _Errand | None] = queue.SimpleQueue()
        self._groups: dict[str, _Group] = {}
        self._leaving: set[str] = set()

    def put(self, job: _Job) -> None:
        """Hand a turn in."""
        self._inbox.put(job)
        if self.dead:  # it died just now, perhaps before it saw this one
            self._bury()

    async def between_steps(self, do: Callable[[], None]) -> None:
        """Have something done while the model stands still, and wait for it."""
        errand = _Errand(do)
        self._inbox.put(errand)
        if self.dead:
            self._bury()
        await asyncio.wrap_future(errand.done)

    def attach(self, adapter: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Put an adapter beside the others; one that was about to leave stays."""
        self._leaving.discard(adapter)
        self.beside.attach(adapter, config, tensors)

    def forget(self, adapter: str) -> None:
        """Detach an adapter now, or when its last turn has ended."""
        if adapter in self._groups:
            self._leaving.add(adapter)
        else:
            self.beside.detach(adapter)

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self.join()

    def run(self) -> None:
        """Answer until told to stop."""
        # one thread a pass: more of them fight with the event loop for the processors
        torch.set_num_threads(1 if self.model.device.type == "cpu" else torch.get_num_threads())
        try:
            while self._receive():
                for adapter in list(self._groups):
                    self._step(adapter)
        finally:
            self.dead = True
            self._fail([job for group in self._groups.values() for job in group.jobs + group.waiting])
            self._bury()

    def _receive(self) -> bool:
        """Take what has come in; wait for it where nothing is to be done. False: stop."""
        while not self._groups or not self._inbox.empty():
            found = self._inbox.get()
            if found is None:
                return False
            if isinstance(found, _Job):
                self._groups.setdefault(found.adapter, _Group(self.model, self._pad)).waiting.append(found)
            else:
                found.run()
        return True

    def _bury(self) -> None:
        """Tell those who came too late."""
        with suppress(queue.Empty):
            while True:
                found = self._inbox.get_nowait()
                if isinstance(found, _Job):
                    self._fail([found])
                elif isinstance(found, _Errand):
                    found.done.set_exception(_ended())

    def _step(self, adapter: str) -> None:
        """One token for each turn of an adapter, and room for those that wait."""
        group = self._groups[adapter]
        self.beside.active.adapter = None if adapter == BASE else adapter
        going = [n for n, job in enumerate(group.jobs) if not (job.over or job.left)]
        if len(going) < len(group.jobs):
            group.rows.keep(going)
            group.jobs = [group.jobs[n] for n in going]
        group.waiting = [job for job in group.waiting if not job.left]
        said: list[tuple[_Job, Piece]] = []
        if joining := _joining(group):
            del group.waiting[: len(joining)]
            group.jobs += joining
            taking, logits = joining, group.rows.join([job.prompt for job in joining])
        elif group.jobs:
            taking, logits = group.jobs, group.rows.step([job.tokens[-1] for job in group.jobs])
        else:
            taking, logits = [], torch.empty(0, 1)
        for job, row, likeliest in zip(taking, logits, logits.argmax(-1).tolist(), strict=True):
            if piece := job.take(row, likeliest):
                said.append((job, piece))
        _tell(said)
        if not group.jobs and not group.waiting:
            del self._groups[adapter]
            if adapter in self._leaving:
                self._leaving.discard(adapter)
                self.beside.detach(adapter)

    def _fail(self, jobs: list[_Job]) -> None:
        _tell([(job, _ended()) for job in jobs])


def _ended() -> ServingError:
    return ServingError("The runtime ended before the answer did.", "Ask again.")


def _joining(group: _Group) -> list[_Job]:
    """Those who wait and fit in."""
    count = 0
    longest = max((len(job.prompt) + job.limit for job in group.jobs), default=0)
    for job in group.waiting[: BATCH - len(group.jobs)]:
        longest = max(longest, len(job.prompt) + job.limit)
        rows = len(group.jobs) + count
        if rows and (rows + 1) * longest > CACHE_TOKENS:
            break
        count += 1
    return group.waiting[:count]


def _tell(said: list[tuple[_Job, Any]]) -> None:
    """Hand pieces to the event loops that wait for them: one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any]]] = {}
    for job, piece in said:
        by_loop.setdefault(job.loop, []).append((job, piece))
    for loop, some in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_deliver, some)


def _deliver(said: list[tuple[_Job, Any]]) -> None:
    for job, piece in said:
        job.pieces.put_nowait(piece)
