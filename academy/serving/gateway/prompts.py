"""Counts a conversation's tokens with each adapter's own template, to refuse a too long one before generation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from academy.errors import TemplateError
from academy.models.base_model import BaseModel
from academy.models.chat_template import FILE, ChatTemplate, Message
from academy.models.thinking import ThoughtsFilter
from academy.serving.gateway.openai_protocol import RequestError
from academy.store.ledger import BASE

INLINE = 4_000
"""Up to this many characters, counting is faster than handing it to a thread."""


class Prompts:
    """Counts tokens with each adapter's own template. Call `prepare` first."""

    def __init__(self, base: BaseModel, adapters: Path) -> None:
        self.base = base
        self.adapters = adapters
        self._templates: dict[str, ChatTemplate] = {}
        self._counting = asyncio.Lock()  # a tokenizer is not thread-safe

    async def room(self, messages: Sequence[Message], adapter: str) -> int:
        """How many tokens an answer may have. Raises RequestError (400) where the prompt leaves none."""
        async with self._counting:
            if sum(len(message["content"]) for message in messages) < INLINE:
                tokens = self._count(messages, adapter)
            else:
                tokens = await asyncio.to_thread(self._count, messages, adapter)
        if tokens >= self.base.context:
            raise RequestError(
                400,
                f"The messages have {tokens:,} tokens; the model's context holds {self.base.context:,}, "
                "including the answer.",
                param="messages",
                code="context_length_exceeded",
            )
        return self.base.context - tokens

    async def prepare(self) -> None:
        """Read the base model's tokenizer, which all templates share, before the first request needs it."""
        self._templates[BASE] = await asyncio.to_thread(self.base.open_template)

    def _count(self, messages: Sequence[Message], adapter: str) -> int:
        try:
            return len(self._template(adapter).prompt(messages))
        except TemplateError as problem:
            raise RequestError(
                400,
                str(problem),
                param="messages",
                code="invalid_value",
            ) from None

    def filter(self, adapter: str) -> ThoughtsFilter:
        """Removes the thoughts before an answer of an adapter, whose room was counted before."""
        return ThoughtsFilter(self._template(adapter).rendering.opened)

    def _template(self, adapter: str) -> ChatTemplate:
        if adapter not in self._templates:
            file = self.adapters / adapter[:16] / FILE
            text = file.read_text(encoding="utf-8") if file.is_file() else None
            self._templates[adapter] = ChatTemplate(self._templates[BASE].tokenizer, text)
        return self._templates[adapter]
