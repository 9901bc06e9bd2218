"""Turns the tokens of an answer into text while it is generated: whole characters only, cut before a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"
"""What a decoder shows for a character whose last bytes are still missing."""


class Detokenizer:
    """The text of one answer, token by token."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._from = 0  # decoding starts at this token: earlier ones do not change later text
        self._read = 0  # tokens before this one are emitted
        self._pending = ""  # may be the beginning of a stop text
        self.stopped = False

    def add(self, token: int | None) -> str:
        """The text that is final now that this token has arrived. None: no further token follows."""
        if token is not None:
            self._tokens.append(token)
        before = self._decoded(self._from, self._read)
        whole = self._decoded(self._from, len(self._tokens))
        if token is not None and whole.endswith(BROKEN):
            return ""
        text = whole[len(before) :]
        self._from, self._read = self._read, len(self._tokens)
        return self._until_stop(text)

    def rest(self) -> str:
        """The text that was held back, at the end of the answer."""
        if self.stopped:
            return ""
        tail = self._decoded(self._from, len(self._tokens))[len(self._decoded(self._from, self._read)) :]
        self._read = len(self._tokens)
        text = self._until_stop(tail)
        pending, self._pending = self._pending, ""
        return text if self.stopped else text + pending

    def _decoded(self, begin: int, end: int) -> str:
        return str(self._tokenizer.decode(self._tokens[begin:end], skip_special_tokens=True))

    def _until_stop(self, addition: str) -> str:
        """The text up to a stop text; holds back an end that may be the beginning of one."""
        if not self._stops or self.stopped:
            return "" if self.stopped else addition
        text = self._pending + addition
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._pending = True, ""
            return text[: min(places)]
        longest = max(
            (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        self._pending = text[len(text) - longest :]
        return text[: len(text) - longest]
