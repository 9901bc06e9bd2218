"""What a runtime promises, whichever engine is behind it: for examinations, and for users who are waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from academy.adapters.adapter import Opened
from academy.arena.suites.base import Reply
from academy.models.chat_template import Message
from academy.records import Record

Request = str | Sequence[Message]
"""What is asked: a text, or a conversation that ends with it."""

Admit = Callable[[Path], Opened]
"""Reads an adapter's folder once, decides whether it may be served, and returns what was read. Raises AdapterError."""


class Runtime(Protocol):
    """A base model with adapters beside it.

    Promises: an adapter's name is its digest and never means anything else; an answer is made by exactly the adapter
    that was named. A caller must tolerate AdapterError for a name that was not loaded.
    """

    def load(self, adapter: Path) -> str:
        """Check and load an adapter; returns its digest. Loading it again is free."""
        ...

    def generate(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[str]:
        """Greedy answers by the named adapter, or by the base model for "base"."""
        ...

    def replies(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[Reply]:
        """The same with what they took: tokens, whether they ended by themselves, seconds to the first token."""
        ...

    def loglikelihoods(self, pairs: Sequence[tuple[Request, str]], adapter: str, *, raw: bool = False) -> list[float]:
        """The log-probability of each continuation as the answer to a request, or after a text as it stands."""
        ...

    def verify(self, adapter: str) -> None:
        """Replay the adapter's canaries. Raises AdapterError where an answer is not the one of its training."""
        ...


class Turn(Record):
    """One request of a user: a conversation that ends with it, and how the answer is drawn. Temperature 0 is greedy."""

    messages: tuple[Message, ...]
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False


class Piece(Record):
    """A part of an answer. The last one has a `finish` and counts the tokens of the prompt and of the whole answer."""

    text: str = ""
    logprobs: tuple[float, ...] = ()  # natural, one for each token of this part, its end token among them
    finish: Literal["", "stop", "length"] = ""
    prompt_tokens: int = 0
    tokens: int = 0


class Capabilities(Record):
    """What a live runtime can do; what it cannot is refused with a sentence before anything is sent to it."""

    hot: bool  # adapters are loaded while others answer, without a second server
    rslora: bool
    dora: bool
    logprobs: bool
    tolerance: float  # how far the mean log-probability of a canary's token may be from its training's


class LiveRuntime(Protocol):
    """A base model with adapters beside it, answering many users at once.

    Promises: an adapter's name is its digest and never means anything else; a turn is answered by exactly the adapter
    that was named, from its first token to its last, whatever is loaded or unloaded meanwhile. A caller must tolerate
    AdapterError for a name that is not loaded or cannot be served here, and ServingError where the engine has died.
    """

    @property
    def name(self) -> str:
        """Peft, llama.cpp, vllm or ollama."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""
        ...

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the adapters that can be named now; the base model is always there."""
        ...

    @property
    def ended(self) -> bool:
        """Whether an engine of its own has died since it was started. A server of somebody else's never has."""
        ...

    async def start(self) -> None:
        """Bring the base model up; returns when it answers. Raises ServingError.

        Where it answers already that is free; an engine that has died is replaced, with or without its adapters.
        """
        ...

    async def load(self, adapter: Path) -> str:
        """Check and load an adapter beside the others; returns its digest. Loading it again is free."""
        ...

    async def unload(self, adapter: str) -> None:
        """Drop an adapter that nobody uses any more. Dropping one that is not there is free."""
        ...

    async def point(self, adapter: str) -> str:
        """Let a name of the engine's own, for those who ask it directly, mean this adapter. Returns the name.

        Where an engine has no such name, or nobody can reach it, nothing is done and "" is returned.
        """
        ...

    def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer by the named adapter, or by the base model for "base". Closing the iterator cancels the answer."""
        ...

    async def close(self) -> None:
        """End everything that `start` began."""
        ...
