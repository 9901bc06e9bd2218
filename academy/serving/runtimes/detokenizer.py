"""From tokens to text while an answer is being written: whole characters only, and nothing behind a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"
"""What a decoder shows for a character whose last bytes are still to come."""


class Detokenizer:
    """The text of one answer, token by token."""

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = [stop for stop in stops if stop]
        self._tokens: list[int] = []
        self._from = 0  # tokens before this one change nothing of what follows
        self._read = 0  # tokens before this one have been told
        self._held = ""  # may be the beginning of a stop text
        self.stopped = False

    def add(self, token: int | None) -> str:
        """The text that is certain now that this token is there; None: there is no further one."""
        if token is not None:
            self._tokens.append(token)
        before = self._decoded(self._from, self._read)
        whole = self._decoded(self._from, len(self._tokens))
        if token is not None and whole.endswith(BROKEN):
            return ""
        new = whole[len(before) :]
        self._from, self._read = self._read, len(self._tokens)
        return self._checked(new)

    def rest(self) -> str:
        """What was held back, at the end."""
        if self.stopped:
            return ""
        tail = self._decoded(self._from, len(self._tokens))[len(self._decoded(self._from, self._read)) :]
        self._read = len(self._tokens)
        said = self._checked(tail)
        held, self._held = self._held, ""
        return said if self.stopped else said + held

    def _decoded(self, begin: int, end: int) -> str:
        return str(self._tokenizer.decode(self._tokens[begin:end], skip_special_tokens=True))

    def _checked(self, new: str) -> str:
        if not self._stops or self.stopped:
            return "" if self.stopped else new
        text = self._held + new
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)]
        longest = max(
            (n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )
        self._held = text[len(text) - longest :]
        return text[: len(text) - longest]
