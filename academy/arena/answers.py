"""Answers that were given once are kept: the champion is asked each question once in its life.

One file for each player and generation settings: request -> [text, tokens, stopped]. The suite is no part of the key:
an answer does not depend on who grades it.
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
"""Questions answered between two savings."""


class KeptAnswers:
    """The replies of one player; `folder` None keeps nothing beyond this object."""

    def __init__(self, folder: Path | None, player: str, generation: Generation) -> None:
        self._path = folder / f"{player[:16]}-{generation.digest}.json" if folder else None
        known: dict[str, Any] = {}
        if self._path and self._path.is_file():
            known = orjson.loads(self._path.read_bytes())
        self._known = {asked: said for asked, said in known.items() if isinstance(said, list)}

    def __getitem__(self, request: str) -> Reply:
        text, tokens, stopped = self._known[request]
        return Reply(text=text, tokens=tokens, stopped=stopped)

    def missing(self, requests: Sequence[str]) -> list[str]:
        """What was not answered yet, in an order that does not depend on what was: batches are the same every time."""
        return sorted(set(requests) - self._known.keys(), key=lambda text: (len(text), text))

    @staticmethod
    def chunks(requests: Sequence[str]) -> Iterator[list[str]]:
        """At most CHUNK requests at a time."""
        for start in range(0, len(requests), CHUNK):
            yield list(requests[start : start + CHUNK])

    def add(self, requests: Sequence[str], replies: Sequence[Reply]) -> None:
        """Keep replies, on the disk at once."""
        for request, reply in zip(requests, replies, strict=True):
            self._known[request] = [reply.text, reply.tokens, reply.stopped]
        if self._path:
            write_file(self._path, canonical(self._known))
