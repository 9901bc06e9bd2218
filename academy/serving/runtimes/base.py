"""The contracts of a runtime: what an implementation promises, and what its callers must tolerate.

`Runtime` answers batches for examinations. `LiveRuntime` answers many users at once behind the gateway, and can be
added from outside the project. To add one:

1. Write a class that fulfils `LiveRuntime`, and a factory `make(context: RuntimeContext) -> LiveRuntime` that starts
   nothing. The factory raises InputError for an option that it needs and lacks, or that it does not take.
2. Name the factory. A runtime of this project gets a file in this folder and a row in table.py. A package adds it in
   its own pyproject.toml:

       [project.entry-points."academy.runtimes"]
       mine = "my_package.runtime:make"

`academy serve --runtime mine` then uses it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field

from academy.adapters.adapter import AdapterFiles
from academy.arena.suites.base import Reply
from academy.errors import InputError
from academy.models.base_model import BaseModel
from academy.models.chat_template import Message
from academy.records import Record
from academy.settings import Settings
from academy.system.origins import key_for

Request = str | Sequence[Message]
"""A user's text, or a conversation that ends with one."""

Admit = Callable[[Path], AdapterFiles]
"""Reads an adapter's folder once, decides whether it may be served, and returns what it read. Raises AdapterError."""


class Runtime(Protocol):
    """A base model with adapters loaded beside it.

    Promises: an adapter's name is its digest and never means anything else. Exactly the named adapter makes the answer.
    Callers must tolerate AdapterError for a name that is not loaded.
    """

    def load(self, adapter: Path) -> str:
        """Check and load an adapter; returns its digest. Loading it again costs nothing."""
        ...

    def generate(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[str]:
        """Greedy answers by the named adapter, or by the base model for "base"."""
        ...

    def replies(self, requests: Sequence[Request], adapter: str, max_new_tokens: int) -> list[Reply]:
        """Greedy answers with their tokens, whether they ended by themselves, and seconds to the first token."""
        ...

    def loglikelihoods(self, pairs: Sequence[tuple[Request, str]], adapter: str, *, raw: bool = False) -> list[float]:
        """The log-probability of each continuation as the answer to a request, or after an unrendered text (`raw`)."""
        ...

    def verify(self, adapter: str) -> None:
        """Replay the adapter's canaries. Raises AdapterError where an answer differs from the one of its training."""
        ...


class Turn(Record):
    """A conversation to answer, and how to sample the answer. Temperature 0 is greedy."""

    messages: tuple[Message, ...]
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: bool = False


class Piece(Record):
    """A part of an answer. The last piece has a `finish` and counts the tokens of the prompt and the whole answer."""

    text: str = ""
    logprobs: tuple[float, ...] = ()  # natural, one for each token of this part, including the end token
    finish: Literal["", "stop", "length"] = ""
    prompt_tokens: int = 0
    tokens: int = 0


class Capabilities(Record):
    """What a live runtime can do. A request for anything else is refused with a reason before it is sent."""

    hot: bool  # loads adapters while it answers, without a second server
    rslora: bool
    dora: bool
    logprobs: bool
    tolerance: float  # largest accepted difference of a canary's mean log-probability from its training


class LiveRuntime(Protocol):
    """A base model with adapters loaded beside it, which answers many users at once.

    Promises: an adapter's name is its digest and never means anything else. Exactly the named adapter answers a turn,
    from the first token to the last, whatever is loaded or unloaded meanwhile. Callers must tolerate AdapterError for a
    name that is not loaded or that this runtime cannot serve, and ServingError where the engine has died.
    """

    @property
    def name(self) -> str:
        """The runtime's name in messages and reports."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this runtime can do; final once `start` has returned."""
        ...

    @property
    def loaded(self) -> frozenset[str]:
        """Digests of the loaded adapters. The base model is always available and not among them."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the runtime's own engine has died since it was started; always False for a server that we do not run.

        The gateway then calls `start` again.
        """
        ...

    async def start(self) -> None:
        """Bring the base model up; returns when it answers. Raises ServingError.

        Starting a running engine costs nothing. An engine that has died is replaced, with or without its adapters.
        """
        ...

    async def load(self, adapter: Path) -> str:
        """Check and load an adapter; the others stay loaded. Returns its digest. Loading it again costs nothing."""
        ...

    async def unload(self, adapter: str) -> None:
        """Drop an adapter after its last turn. Dropping an adapter that is not loaded is not an error."""
        ...

    async def point(self, adapter: str) -> str:
        """Point the engine's own alias, for clients that bypass the gateway, at this adapter. Returns the alias.

        Returns "" where the engine has no alias, or where only the gateway can reach the engine.
        """
        ...

    def chat(self, turn: Turn, adapter: str) -> AsyncIterator[Piece]:
        """Answer by the named adapter, or by the base model for "base". Closing the iterator cancels the answer."""
        ...

    async def close(self) -> None:
        """End everything that `start` began."""
        ...


@dataclass(frozen=True)
class RuntimeContext:
    """All that a factory may use to make a live runtime."""

    settings: Settings
    base: BaseModel
    admit: Admit | None = None
    """Decides which adapters the runtime loads; None: any intact adapter of the base model."""
    url: str = ""
    """Address of a server that runs already (`--runtime-url`)."""
    seen_as: str = ""
    """The adapters' folder as that server sees it (`--seen-as`), where it differs from ours."""
    merged_gguf: Callable[[Path], Path] | None = None
    """Writes base model and adapter as one GGUF file, for engines that do not take adapters."""

    @property
    def key(self) -> str:
        """The bearer token for a server that runs already; "" for none. Raises InputError as `key_for` does."""
        judge = self.settings.judge.partition("#")[0]
        return key_for(self.url, self.settings.endpoint_key.get_secret_value(), judge) if self.url else ""

    def required_url(self, runtime: str) -> str:
        """The server's address. Raises InputError without one."""
        if not self.url:
            raise InputError(
                f"The runtime {runtime} needs the address of its server.", "Add --runtime-url http://host:port."
            )
        return self.url

    def refuse_url(self, runtime: str) -> None:
        """Raise InputError where an address was given to a runtime that runs in this process."""
        if self.url:
            raise InputError(f"The runtime {runtime} runs in this process and takes no URL.", "Remove --runtime-url.")

    def refuse_seen_as(self, runtime: str) -> None:
        """Raise InputError where a folder was given to a runtime whose server does not read the adapters' folder."""
        if self.seen_as:
            raise InputError(f"The runtime {runtime} does not take --seen-as.", "Remove --seen-as.")


RuntimeFactory = Callable[[RuntimeContext], LiveRuntime]
"""Makes a live runtime that is not started yet. Raises InputError for options that do not fit."""
