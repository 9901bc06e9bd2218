"""Readings of a text in which others are searched: the text itself, both sides of a diff, the quote of a mail.

A reading is a list of words (letters and digits, lower case) with the beginnings and ends of lines. Indentation, line
breaks, quotation marks and the `+`, `-` and `>` before a line make no difference. Runs of words are hashed with
Python's own hash of each word, which differs from process to process, so hashes never leave the process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from academy.experience.normal_form import without_invisible

RUN = 8
"""Consecutive words that two texts must share to overlap."""
MARKED = re.compile(r"(?m)^[^\S\n]*+[+\->|]")
_HEADER = re.compile(r"@@ |diff --git |index [0-9a-f]+\.\.|\+\+\+ |--- ")
_NO_WORD = re.compile(r"[^\w\n]+")
_ASCII = str.maketrans({chr(n): " " for n in range(128) if not (chr(n).isalnum() or chr(n) in "_\n")})
_FACTORS = np.array([0x9E3779B97F4A7C15 ** (k + 1) % 2**64 | 1 for k in range(RUN)], np.uint64)

Array = np.ndarray[Any, np.dtype[Any]]


class Reading(NamedTuple):
    """The words of a text in order, and the positions at which lines begin and end."""

    words: list[str]
    begins: list[int]
    ends: list[int]


def readings_of(text: str, boilerplate: Iterable[str] = ()) -> list[Reading]:
    """All readings of a text: the text itself, each side of a diff, the quoted part of a mail."""
    for phrase in boilerplate:
        text = text.replace(phrase, "\n")
    if "\\n" in text:
        text = text.replace("\\n", "\n").replace("\\t", "\t")  # quoted in JSON or in code
    plain = text if text.isascii() else without_invisible(text)
    plain = plain.casefold()
    # split into words once for all readings
    bare = plain.translate(_ASCII) if plain.isascii() else _NO_WORD.sub(" ", plain)
    words = [line.split() for line in bare.split("\n")]
    readings = [_reading(words)]
    if len(words) > 1 and MARKED.search(plain):
        lines = list(zip(plain.split("\n"), words, strict=True))
        body = [(line, line_words) for line, line_words in lines if not _HEADER.match(line)]
        for mark, other_side in (("+", "-"), ("-", "+")):
            if any(line.startswith(mark) for line, _ in body):
                readings.append(_reading([line_words for line, line_words in body if not line.startswith(other_side)]))
        for mark in ">|+-":
            quote = [line_words for line, line_words in lines if line.lstrip().startswith(mark)]
            if 0 < len(quote) < len(lines):
                readings.append(_reading(quote))
    return readings


def _reading(lines: Iterable[list[str]]) -> Reading:
    words: list[str] = []
    begins, ends = [], []
    for line in lines:
        if line:
            begins.append(len(words))
            words += line
            ends.append(len(words))
    return Reading(words, begins, ends)


def short_lines(reading: Reading) -> Iterator[list[str]]:
    """Lines, and groups of consecutive lines, with fewer words than a run."""
    for n, begin in enumerate(reading.begins):
        for last in range(n, min(n + RUN, len(reading.ends))):  # a line has a word at least
            if (end := reading.ends[last]) - begin >= RUN:
                break
            yield reading.words[begin:end]


def grams_of(texts: Sequence[Sequence[str]]) -> tuple[Array, Array]:
    """Hashes of all runs of eight words, and the number of the text of each."""
    lengths = np.array([len(words) for words in texts], np.int64)
    hashes = np.fromiter(map(hash, chain.from_iterable(texts)), np.int64, count=int(lengths.sum())).view(np.uint64)
    if len(hashes) < RUN:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes = hashes ^ (hashes >> np.uint64(32))
    count = len(hashes) - RUN + 1
    grams = np.zeros(count, np.uint64)
    for n, factor in enumerate(_FACTORS):
        grams += hashes[n : n + count] * factor
    text = np.repeat(np.arange(len(texts)), lengths)
    inside = text[:count] == text[RUN - 1 :]
    return grams[inside], text[:count][inside]
