"""How long a conversation is in tokens, as each adapter's own template renders it: what is too long is refused before
anything is generated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import jinja2

from academy.base_model import BaseModel
from academy.ledger import BASE
from academy.serving.wire import RequestError
from academy.template import ChatTemplate, Message

INLINE = 4_000
"""Characters up to which counting is quicker than handing it to a thread."""


class Prompts:
    """Counts tokens; one tokenizer for each adapter that was asked."""

    def __init__(self, base: BaseModel, adapters: Path) -> None:
        self.base = base
        self.adapters = adapters
        self._templates: dict[str, ChatTemplate] = {}
        self._counting = asyncio.Lock()  # a tokenizer serves one thread at a time

    async def room(self, messages: Sequence[Message], adapter: str) -> int:
        """How many tokens an answer may have. Raises RequestError (400) where the prompt leaves none."""
        async with self._counting:
            if adapter in self._templates and sum(len(one["content"]) for one in messages) < INLINE:
                tokens = self._count(messages, adapter)
            else:
                tokens = await asyncio.to_thread(self._count, messages, adapter)
        if tokens >= self.base.context:
            raise RequestError(
                400,
                f"The messages are {tokens:,} tokens long; the context holds {self.base.context:,}, answer and all.",
                param="messages",
                code="context_length_exceeded",
            )
        return self.base.context - tokens

    def forget(self, adapters: frozenset[str]) -> None:
        """Keep the tokenizers of these adapters, and the base model's."""
        for one in self._templates.keys() - adapters - {BASE}:
            del self._templates[one]

    def _count(self, messages: Sequence[Message], adapter: str) -> int:
        if adapter not in self._templates:
            folder = None if adapter == BASE else self.adapters / adapter[:16]
            self._templates[adapter] = ChatTemplate.of(self.base.path, folder)
        try:
            return len(self._templates[adapter].prompt(messages))
        except jinja2.TemplateError as problem:
            raise RequestError(
                400,
                f"The model's chat template refuses these messages: {problem}.",
                param="messages",
                code="invalid_value",
            ) from None
