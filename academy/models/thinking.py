"""What a model writes before its answer: a block of thoughts, which is neither graded nor shown.

Only a block at the very beginning counts. A tag inside of an answer is a part of it.
"""

from __future__ import annotations

import re

TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
}
"""Beginning -> end of a block."""
WORDS = frozenset((*TAGS, *TAGS.values()))
_OPENER = re.compile(r"\s*+(" + "|".join(map(re.escape, TAGS)) + r")")
_LAST_OPENER = re.compile("(" + "|".join(map(re.escape, TAGS)) + r")\Z")


def without_thoughts(text: str) -> str:
    """The answer after its thoughts; empty where they do not end. A text without thoughts is unchanged."""
    answer = text
    while (match := _OPENER.match(answer)) is not None:
        _, end, rest = answer[match.end() :].partition(TAGS[match[1]])
        answer = rest if end else ""
    return text if answer is text else answer.strip()


def opened_block(prompt: str) -> str:
    """The tag that a prompt's end opens for the model; empty if none."""
    match = _LAST_OPENER.search(prompt.rstrip())
    return match[1] if match else ""


class ThoughtsFilter:
    """Removes the thoughts from an answer that arrives in pieces. Other texts pass unchanged."""

    def __init__(self, opened: str = "") -> None:
        self._end = TAGS[opened] if opened else ""
        self._pending = ""
        self._begins = not opened  # whether a block may begin here
        self._after = False  # whether blank space follows a block

    def add(self, piece: str) -> str:
        """The part of the answer that is certain now."""
        self._pending += piece
        while True:
            if self._end:
                _, end, rest = self._pending.partition(self._end)
                if not end:
                    self._pending = self._pending[-len(self._end) :]  # the end tag may arrive in two pieces
                    return ""
                self._pending, self._end, self._begins, self._after = rest, "", True, True
            if not self._begins:
                text, self._pending = self._pending, ""
                return text
            if match := _OPENER.match(self._pending):
                self._end, self._pending = TAGS[match[1]], self._pending[match.end() :]
                continue
            start = self._pending.lstrip()
            if any(tag.startswith(start) for tag in TAGS):
                return ""
            self._begins = False
            if self._after:
                self._pending = start

    def rest(self) -> str:
        """The text that was held back, at the end of the answer."""
        text, self._pending = self._pending, ""
        return "" if self._end else text.lstrip() if self._after else text
