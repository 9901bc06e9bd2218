"""Measures that several suites use: pure functions of texts, from 0 to 1."""

from __future__ import annotations

import re
from collections import Counter

_PUNCTUATION = re.compile(r"[^\w\s]+")


def same_text(answer: str, reference: str) -> bool:
    """Whether two texts are equal, ignoring white space."""
    return answer.split() == reference.split()


def normalised(text: str) -> str:
    """Lower case, without punctuation, single spaces."""
    return " ".join(_PUNCTUATION.sub(" ", text.lower()).split())


def word_f1(answer: str, reference: str) -> float:
    """The F1 score of lower-case words, with repetitions."""
    first, second = Counter(answer.lower().split()), Counter(reference.lower().split())
    overlap = (first & second).total()
    return 2 * overlap / (first.total() + second.total()) if overlap else 0.0
