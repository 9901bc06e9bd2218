"""A LiveRuntime in this process: one thread runs the model, and turns join and leave the batch between two steps.

Each adapter has its own batch. A turn stays in the batch of the adapter that it was admitted with, so loading,
activating or dropping another adapter cannot change one of its tokens.
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
from academy.serving.runtimes.base import Admit, Capabilities, LiveRuntime, Piece, RuntimeContext, Turn
from academy.serving.runtimes.decoding import CACHE_TOKENS, Rows, is_plain
from academy.serving.runtimes.detokenizer import Detokenizer
from academy.serving.runtimes.lora_layers import AdapterLayers
from academy.serving.runtimes.peft import open_model
from academy.store.ledger import BASE

BATCH = 32
"""Turns of one adapter that are answered together; further turns wait."""
COLDEST = 1e-6
"""Smallest divisor for a temperature: below it only the likeliest token remains, and then the division overflows."""


class PeftLive:
    """A LiveRuntime."""

    name = "peft"
    capabilities = Capabilities(hot=True, rslora=True, dora=True, logprobs=True, tolerance=0.01)

    def __init__(self, base: BaseModel, admit: Admit | None = None) -> None:
        """`admit` decides what may be loaded; without it the files are checked, but not who made them."""
        self.base = base
        self._admit = admit or partial(open_adapter, base_digest=base.digest)
        self._templates: dict[str, ChatTemplate] = {}
        self._engine: _Engine | None = None
        self._died = False

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the loaded adapters."""
        return frozenset(self._templates) - {BASE}

    @property
    def ended(self) -> bool:
        """Whether the thread has died."""
        return self._died or (self._engine is not None and self._engine.dead)

    async def start(self) -> None:
        """Load the base model and start the thread. A thread that replaces a dead one starts without adapters."""
        if self._engine is not None and not self._engine.dead:
            return
        self._died, self._engine = self.ended, None  # one model in memory at a time
        self._templates.clear()  # adapters must be attached to the new model
        self._templates[BASE] = await asyncio.to_thread(self.base.open_template)
        engine = await asyncio.to_thread(_Engine, self.base)
        engine.start()
        self._engine, self._died = engine, False

    async def load(self, adapter: Path) -> str:
        """Check an adapter and attach it, from the same bytes that were checked."""
        engine = self._running()
        content = await asyncio.to_thread(self._admit, adapter)
        digest = content.adapter.digest
        if digest not in self._templates:
            tensors = content.tensors
            await engine.between_steps(lambda: engine.attach(digest, content.config, tensors))
            self._templates[digest] = ChatTemplate(self._templates[BASE].tokenizer, content.template)
        return digest

    async def unload(self, adapter: str) -> None:
        """Remove an adapter after its last turn."""
        if adapter != BASE and self._templates.pop(adapter, None) is not None:
            engine = self._running()
            await engine.between_steps(lambda: engine.forget(adapter))

    async def point(self, adapter: str) -> str:  # noqa: ARG002
        """Return "": only this process can reach the engine."""
        return ""

    async def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer by the named adapter."""
        engine = self._running()
        if adapter not in self._templates:
            raise AdapterError(f"The adapter {adapter[:12]} is not loaded.", "Load it first.")
        template = self._templates[adapter]
        prompt = template.prompt(turn.messages)
        if len(prompt) >= self.base.context:
            raise InputError(
                f"The conversation has {len(prompt):,} tokens; the model's context holds {self.base.context:,}, "
                "including the answer.",
                "Shorten the conversation.",
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
            job.cancelled = True

    async def close(self) -> None:
        """End the thread; running turns end with ServingError."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._templates.clear()
            await asyncio.to_thread(engine.stop)

    def _running(self) -> _Engine:
        if self._engine is None or self._engine.dead:
            raise ServingError("The runtime is not running: it was not started, or it has ended.", "Start it again.")
        return self._engine


def make(context: RuntimeContext) -> LiveRuntime:
    """The runtime `peft`. Raises InputError for a URL and for --seen-as."""
    context.refuse_seen_as("peft")
    context.refuse_url("peft")
    return PeftLive(context.base, context.admit)


class _Job:
    """A turn in progress. The thread writes its pieces; the event loop reads them and may cancel."""

    def __init__(self, turn: Turn, prompt: list[int], template: ChatTemplate, limit: int, adapter: str) -> None:
        self.turn, self.prompt, self.limit, self.adapter = turn, prompt, limit, adapter
        self.end: int = template.tokenizer.eos_token_id
        self.detokenizer = Detokenizer(template.tokenizer, turn.stop)
        self.tokens: list[int] = []
        self.over = False
        self.cancelled = False
        self.pieces: asyncio.Queue[Piece | AcademyError] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.generator = torch.Generator()
        self.generator.manual_seed(turn.seed if turn.seed is not None else int.from_bytes(os.urandom(7)))

    def take(self, logits: torch.Tensor, likeliest: int) -> Piece | None:
        """Choose the next token (logits: vocabulary). Returns the piece to send, if there is one."""
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
            descending, places = likely.sort(descending=True)
            excluded_tokens = descending.cumsum(0) - descending >= self.turn.top_p
            excluded_tokens[0] = False  # the likeliest token always stays, however small top_p is
            descending[excluded_tokens] = 0
            return int(places[torch.multinomial(descending, 1, generator=self.generator)])
        return int(torch.multinomial(likely, 1, generator=self.generator))


class _Action:
    """A call to make between two steps."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self.done: Future[None] = Future()

    def run(self) -> None:
        """Make the call and set its result."""
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
    """The only thread that uses the model."""

    def __init__(self, base: BaseModel) -> None:
        super().__init__(name="academy-live", daemon=True)
        self.model, _ = open_model(base)
        if not is_plain(self.model):
            raise ServingError(
                "This process cannot serve the base model: its cache or its generation settings are not supported.",
                "Serve it with --runtime vllm or llamacpp.",
            )
        self.layers = AdapterLayers(self.model)
        self.dead = False
        template = base.open_template()
        self._pad: int = template.tokenizer.pad_token_id
        self._inbox: queue.SimpleQueue[_Job | _Action | None] = queue.SimpleQueue()
        self._groups: dict[str, _Group] = {}
        self._leaving: set[str] = set()

    def put(self, job: _Job) -> None:
        """Queue a turn."""
        self._inbox.put(job)
        if self.dead:  # it died just now, perhaps before it read this turn
            self._fail_queue()

    async def between_steps(self, do: Callable[[], None]) -> None:
        """Run a call in the thread while the model is idle, and wait for it."""
        action = _Action(do)
        self._inbox.put(action)
        if self.dead:
            self._fail_queue()
        await asyncio.wrap_future(action.done)

    def attach(self, adapter: str, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        """Attach an adapter; a pending removal of it is cancelled."""
        self._leaving.discard(adapter)
        self.layers.attach(adapter, config, tensors)

    def forget(self, adapter: str) -> None:
        """Detach an adapter now, or after its last turn."""
        if adapter in self._groups:
            self._leaving.add(adapter)
        else:
            self.layers.detach(adapter)

    def stop(self) -> None:
        """End the thread."""
        self._inbox.put(None)
        self.join()

    def run(self) -> None:
        """Answer until `stop`."""
        # one CPU thread a pass: more would compete with the event loop
        torch.set_num_threads(1 if self.model.device.type == "cpu" else torch.get_num_threads())
        try:
            while self._receive():
                for adapter in list(self._groups):
                    self._step(adapter)
        finally:
            self.dead = True
            self._fail([job for group in self._groups.values() for job in group.jobs + group.waiting])
            self._fail_queue()

    def _receive(self) -> bool:
        """Read the queue, waiting only where no turn runs. Returns False to stop."""
        while not self._groups or not self._inbox.empty():
            message = self._inbox.get()
            if message is None:
                return False
            if isinstance(message, _Job):
                self._groups.setdefault(message.adapter, _Group(self.model, self._pad)).waiting.append(message)
            else:
                message.run()
        return True

    def _fail_queue(self) -> None:
        """Fail everything that was queued after the thread's end."""
        with suppress(queue.Empty):
            while True:
                message = self._inbox.get_nowait()
                if isinstance(message, _Job):
                    self._fail([message])
                elif isinstance(message, _Action):
                    message.done.set_exception(_ended())

    def _step(self, adapter: str) -> None:
        """One token for each turn of an adapter; waiting turns join where there is room."""
        group = self._groups[adapter]
        self.layers.active.adapter = None if adapter == BASE else adapter
        active = [n for n, job in enumerate(group.jobs) if not (job.over or job.cancelled)]
        if len(active) < len(group.jobs):
            group.rows.keep(active)
            group.jobs = [group.jobs[n] for n in active]
        group.waiting = [job for job in group.waiting if not job.cancelled]
        pieces: list[tuple[_Job, Piece]] = []
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
                pieces.append((job, piece))
        _send(pieces)
        if not group.jobs and not group.waiting:
            del self._groups[adapter]
            if adapter in self._leaving:
                self._leaving.discard(adapter)
                self.layers.detach(adapter)

    def _fail(self, jobs: list[_Job]) -> None:
        _send([(job, _ended()) for job in jobs])


def _ended() -> ServingError:
    return ServingError("The runtime ended before the answer was complete.", "Retry.")


def _joining(group: _Group) -> list[_Job]:
    """The waiting turns that fit into the batch."""
    count = 0
    longest = max((len(job.prompt) + job.limit for job in group.jobs), default=0)
    for job in group.waiting[: BATCH - len(group.jobs)]:
        longest = max(longest, len(job.prompt) + job.limit)
        rows = len(group.jobs) + count
        if rows and (rows + 1) * longest > CACHE_TOKENS:
            break
        count += 1
    return group.waiting[:count]


def _send(pieces: list[tuple[_Job, Any]]) -> None:
    """Hand pieces to the event loops of their turns, with one call for each loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Any]]] = {}
    for job, piece in pieces:
        by_loop.setdefault(job.loop, []).append((job, piece))
    for loop, batch in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(_deliver, batch)


def _deliver(pieces: list[tuple[_Job, Any]]) -> None:
    for job, piece in pieces:
        job.pieces.put_nowait(piece)
