"""What graders of several suites measure: pure functions of two texts, from 0 to 1."""

from __future__ import annotations

import re
from collections import Counter

_PUNCTUATION = re.compile(r"[^\w\s]+")


def same_text(said: str, wanted: str) -> bool:
    """The same words in the same order, white space apart."""
    return said.split() == wanted.split()


def normalised(text: str) -> str:
    """Lower case, without punctuation, single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def word_f1(said: str, wanted: str) -> float:
    """F1 of lower-case words with their numbers."""
    first, second = Counter(said.lower().split()), Counter(wanted.lower().split())
    shared = (first & second).total()
    return 2 * shared / (first.total() + second.total()) if shared else 0.0
