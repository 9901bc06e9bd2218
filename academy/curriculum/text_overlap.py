"""How a text may be read when one looks for another in it: as it stands, a diff's two sides, a mail's quotations.

Read means: as words (letters and digits, small), line by line. So indentation, line breaks, quotation marks and the
`+`, `-` and `>` before a line make no difference. Runs of words are hashed with Python's own hash of each word, which
differs from process to process: hashes never leave the process.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

RUN = 8
"""Words in a row that two texts must share."""
MARKED = re.compile(r"(?m)^\s*[+\->|]")
_HEADER = re.compile(r"@@ |diff --git |index [0-9a-f]+\.\.|\+\+\+ |--- ")
_NO_WORD = re.compile(r"[^\w\n]+")
_ASCII = str.maketrans({chr(n): " " for n in range(128) if not (chr(n).isalnum() or chr(n) in "_\n")})
_FACTORS = np.array([0x9E3779B97F4A7C15 ** (k + 1) % 2**64 | 1 for k in range(RUN)], np.uint64)

Array = np.ndarray[Any, np.dtype[Any]]


class Reading(NamedTuple):
    """One way to read a text: its words in order, and which of them begin and end a line."""

    words: list[str]
    begins: list[int]
    ends: list[int]


def readings_of(text: str, boilerplate: Iterable[str] = ()) -> list[Reading]:
    """The ways to read a text: as it stands; of a diff either side, of a mail the quote."""
    for phrase in boilerplate:
        text = text.replace(phrase, "\n")
    if "\\n" in text:
        text = text.replace("\\n", "\n").replace("\\t", "\t")  # quoted in JSON or in code
    plain = text if text.isascii() else _without_marks(text)
    plain = plain.casefold()
    # Word by word only once, for all the ways to read it.
    bare = plain.translate(_ASCII) if plain.isascii() else _NO_WORD.sub(" ", plain)
    words = [line.split() for line in bare.split("\n")]
    readings = [_read(words)]
    if len(words) > 1 and MARKED.search(plain):
        lines = list(zip(plain.split("\n"), words, strict=True))
        body = [(line, found) for line, found in lines if not _HEADER.match(line)]
        for mark, other in (("+", "-"), ("-", "+")):
            if any(line.startswith(mark) for line, _ in body):
                readings.append(_read([found for line, found in body if not line.startswith(other)]))
        for mark in ">|+-":
            quoted = [found for line, found in lines if line.lstrip().startswith(mark)]
            if 0 < len(quoted) < len(lines):
                readings.append(_read(quoted))
    return readings


def _without_marks(text: str) -> str:
    """Compatible forms made one, and what cannot be seen taken out."""
    return "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")


def _read(lines: Iterable[list[str]]) -> Reading:
    words: list[str] = []
    begins, ends = [], []
    for found in lines:
        if found:
            begins.append(len(words))
            words += found
            ends.append(len(words))
    return Reading(words, begins, ends)


def short_lines(view: Reading) -> Iterator[list[str]]:
    """Lines, and lines that follow each other, of fewer words than a run has."""
    for place, begin in enumerate(view.begins):
        for end in view.ends[place:]:
            if end - begin >= RUN:
                break
            yield view.words[begin:end]


def grams_of(texts: Sequence[Sequence[str]]) -> tuple[Array, Array]:
    """Hashes of all runs of eight words, and the text that each belongs to."""
    lengths = np.array([len(words) for words in texts], np.int64)
    hashes = np.fromiter(map(hash, chain.from_iterable(texts)), np.int64, count=int(lengths.sum())).view(np.uint64)
    if len(hashes) < RUN:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    hashes = hashes ^ (hashes >> np.uint64(32))
    count = len(hashes) - RUN + 1
    grams = np.zeros(count, np.uint64)
    for place, factor in enumerate(_FACTORS):
        grams += hashes[place : place + count] * factor
    text = np.repeat(np.arange(len(texts)), lengths)
    inside = text[:count] == text[RUN - 1 :]
    return grams[inside], text[:count][inside]
