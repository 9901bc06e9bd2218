"""A cache of answers: a player answers each question once.

One file for each player and generation settings: request -> [text, tokens, stopped], and as a fourth value the text
with the thoughts before it, if there are any. The key does not include the suite, because an answer does not depend on
its grader.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from academy.arena.suites.base import Generation, Reply
from academy.records import canonical
from academy.store.files import write_file

CHUNK = 64
"""Questions answered between two writes to the disk."""


class AnswerCache:
    """The replies of one player. With `folder` None it only lives in memory."""

    def __init__(self, folder: Path | None, player: str, generation: Generation) -> None:
        self._path = folder / f"{player[:16]}-{generation.digest}.json" if folder else None
        rows: dict[str, Any] = {}
        if self._path and self._path.is_file():
            rows = orjson.loads(self._path.read_bytes())
        self._replies = {request: reply for request, reply in rows.items() if isinstance(reply, list)}

    def __getitem__(self, request: str) -> Reply:
        text, tokens, is_complete, *raw = self._replies[request]
        return Reply(text=text, tokens=tokens, stopped=is_complete, raw=raw[0] if raw else "")

    def missing(self, requests: Sequence[str]) -> list[str]:
        """Requests without an answer, in an order that does not depend on the cache: batches are always the same."""
        return sorted(set(requests) - self._replies.keys(), key=lambda text: (len(text), text))

    @staticmethod
    def chunks(requests: Sequence[str]) -> Iterator[list[str]]:
        """Split requests into lists of up to CHUNK."""
        for start in range(0, len(requests), CHUNK):
            yield list(requests[start : start + CHUNK])

    def add(self, requests: Sequence[str], replies: Sequence[Reply]) -> None:
        """Store replies, and write them to the disk at once."""
        for request, reply in zip(requests, replies, strict=True):
            self._replies[request] = [reply.text, reply.tokens, reply.stopped, *([reply.raw] if reply.raw else [])]
        if self._path:
            write_file(self._path, canonical(self._replies))
