"""Unicode's compatible form (NFKC) in linear time.

Normalisation sorts the marks that follow a letter, and the sort is quadratic: 40,000 accents on one letter take
seconds. Unicode's stream-safe form (UAX 15) cuts a run of marks after thirty, more than any language writes.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

MOST_MARKS = 30
_JOINER = "\u034f"
"""The combining grapheme joiner, with which the stream-safe form cuts a run."""


def compatible(text: str) -> str:
    """The text in Unicode's compatible form."""
    return text if text.isascii() else unicodedata.normalize("NFKC", _stream_safe(text))


def without_invisible(text: str) -> str:
    """The text in Unicode's compatible form, without invisible characters."""
    return "".join(char for char in compatible(text) if unicodedata.category(char) != "Cf")


def _stream_safe(text: str) -> str:
    marks, parts = 0, []
    for char in text:
        marks = marks + 1 if _is_mark(char) else 0
        if marks > MOST_MARKS:
            parts.append(_JOINER)
            marks = 1
        parts.append(char)
    return "".join(parts)


@lru_cache(8192)
def _is_mark(char: str) -> bool:
    """Whether a character becomes one that combines with the letter before it."""
    return unicodedata.combining(unicodedata.normalize("NFKD", char)[0]) != 0
