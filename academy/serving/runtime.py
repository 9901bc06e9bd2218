"""What a runtime promises, whichever engine is behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from academy.arena.suite import Reply
from academy.template import Message

Request = str | Sequence[Message]
"""What is asked: a text, or a conversation that ends with it."""


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
