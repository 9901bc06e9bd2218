"""Decontamination: texts that an examination asks must not be in the training side.

Held-out requests are compared with requests only (answers are shared on purpose), other suites with whole examples.
Texts are compared as runs of words: letters and digits, lower case. Indentation, line breaks, quotation marks and the
`+`, `-` and `>` of diffs and mails make no difference. An example overlaps if it contains a guarded text, or shares a
run of eight words with one. A text of fewer words counts only if it fills whole lines.

An overlap shows the words that matched, because a shared run may be an accident: a user can allow it by its key.
Memory: about 30 bytes for each run of eight words. The texts stay in the caller's sequences.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from academy.curriculum.text_overlap import MARKED, RUN, Array, Reading, grams_of, readings_of, short_lines
from academy.records import Record, digest_of

SHORTEST_LINE = 3
"""A text of fewer words is found only as the whole of an example, not as some of its lines."""
COMMON = 8
"""A run in more texts of one suite than this is the suite's own phrasing and does not identify any of them."""
MOST_PLACES = 16
"""Places of one run in a text that are looked at: a text of one word again and again has thousands."""
CHUNK = 1024

How = Literal["exact", "normalised", "re-indented", "quoted in a diff", "n-gram"]


class GuardedSuite(NamedTuple):
    """Texts that must not be trained on. `texts` may be any sequence, even one that reads a file; it is not copied."""

    name: str
    texts: Sequence[str]
    requests_only: bool = False  # compare with requests instead of whole examples
    shared_runs: bool = True  # False: an example must contain the whole text


class Overlap(Record):
    """A guarded text, or a run of at least eight of its words, that is part of an example."""

    suite: str
    number: int  # position of the text in its suite
    how: How
    matched: str  # the words that match
    key: str  # by which a user allows it


class OverlapIndex:
    """The hashed texts of all suites. `overlaps` checks one example, `scan` many (several times as fast)."""

    def __init__(
        self, suites: Iterable[GuardedSuite], allowed: Iterable[str] = (), boilerplate: Iterable[str] = ()
    ) -> None:
        """`allowed` are keys of overlaps; `boilerplate` are phrases that are removed before comparing."""
        self.suites = tuple(suites)
        self.allowed = frozenset(allowed)
        self.boilerplate = tuple(sorted(boilerplate, key=len, reverse=True))
        self._short: dict[int, list[tuple[int, int]]] = {}
        grams, owners, whole = [], [], []
        for n, suite in enumerate(self.suites):
            for suite_grams, suite_owners, suite_whole in self._index(n, suite):
                grams.append(suite_grams)
                owners.append(suite_owners)
                whole.append(suite_whole)
        all_grams = np.concatenate([np.empty(0, np.uint64), *grams])
        order = np.argsort(all_grams, kind="stable")
        self._grams = all_grams[order]
        self._owners = np.concatenate([np.empty((0, 2), np.uint32), *owners])[order]
        self._whole_only = np.concatenate([np.empty(0, np.bool_), *whole])[order]
        # One memory access shows for nearly every run that it is not there; a search costs fifty times as much.
        self._table = np.zeros(1 << (8 * len(all_grams) + 1023).bit_length(), np.bool_)
        self._table[self._grams & np.uint64(len(self._table) - 1)] = True

    def __reduce__(self) -> tuple[Any, ...]:
        # Python's hashes of words differ from process to process, so another process builds the index again
        return OverlapIndex, (self.suites, self.allowed, self.boilerplate)

    def __len__(self) -> int:
        return sum(len(suite.texts) for suite in self.suites)

    def overlaps(self, request: str, answer: str = "") -> tuple[Overlap, ...]:
        """Overlaps of an example with guarded texts, one for each text, without those that are allowed."""
        by_text: dict[tuple[int, int], Overlap] = {}
        for text, requests_only in ((request, True), (f"{request}\n{answer}" if answer else request, False)):
            readings = self._read(text)
            whole_texts: set[tuple[int, int]] = set()  # allowed or not
            for reading in readings:
                for owner, runs in self._hits(reading).items():
                    suite, number = self.suites[owner[0]], owner[1]
                    if suite.requests_only == requests_only and owner not in whole_texts:
                        guarded_words = self._read(suite.texts[number])[0].words
                        if _contains(reading.words, guarded_words):
                            whole_texts.add(owner)
                            by_text.pop(owner, None)
                            overlaps = iter([self._whole(text, readings, reading, suite, number)])
                        else:
                            overlaps = _shared(reading.words, guarded_words, runs, suite, number)
                        for overlap in overlaps:
                            if overlap.key not in self.allowed:
                                by_text.setdefault(owner, overlap)
        return tuple(by_text[owner] for owner in sorted(by_text))

    def scan(self, examples: Sequence[tuple[str, str]]) -> dict[int, tuple[Overlap, ...]]:
        """Overlaps of (request, answer) examples, by position; examples without overlaps are omitted."""
        by_position = {}
        for begin in range(0, len(examples), CHUNK):
            for n in self._suspects(examples[begin : begin + CHUNK]):
                if overlaps := self.overlaps(*examples[begin + n]):
                    by_position[begin + n] = overlaps
        return by_position

    def _suspects(self, examples: Sequence[tuple[str, str]]) -> list[int]:
        """Positions of the few examples that share a hash with a guarded text."""
        rows: list[int] = []
        words: list[list[str]] = []
        suspects = set()
        for row, (request, answer) in enumerate(examples):
            for reading in self._read(f"{request}\n{answer}" if answer else request):
                rows.append(row)
                words.append(reading.words)
                if self._short and any(hash(" ".join(line)) in self._short for line in short_lines(reading)):
                    suspects.add(row)
        grams, row_of = grams_of(words)
        maybe = np.flatnonzero(self._table[grams & np.uint64(len(self._table) - 1)])
        at = np.searchsorted(self._grams, grams[maybe])
        maybe, at = maybe[at < len(self._grams)], at[at < len(self._grams)]
        suspects.update(rows[k] for k in np.unique(row_of[maybe[self._grams[at] == grams[maybe]]]))
        return sorted(suspects)

    def _index(self, n: int, suite: GuardedSuite) -> Iterator[tuple[Array, Array, Array]]:
        """Runs of a suite's texts: hashes, owners (suite, number), and which runs count only with the whole text."""
        parts: list[tuple[Array, Array]] = []
        for begin in range(0, len(suite.texts), CHUNK):
            words = [self._read(suite.texts[n])[0].words for n in range(begin, min(begin + CHUNK, len(suite.texts)))]
            for number, short in enumerate(words, start=begin):
                if 0 < len(short) < RUN:
                    self._short.setdefault(hash(" ".join(short)), []).append((n, number))
            grams, row = grams_of(words)
            parts.append((grams, (row + begin).astype(np.uint32)))
        if not parts:
            return
        grams, numbers = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        order = np.lexsort((grams, numbers))
        numbers, grams = numbers[order], grams[order]
        first = np.ones(len(grams), np.bool_)  # a repeated run of a text counts once
        first[1:] = (numbers[1:] != numbers[:-1]) | (grams[1:] != grams[:-1])
        numbers, grams = numbers[first], grams[first]
        _, back, counts = np.unique(grams, return_inverse=True, return_counts=True)
        frequency = counts[back]
        # The rarest run of each text always stays, so that the whole text is found even if its phrases are common.
        order = np.lexsort((frequency, numbers))
        rarest = order[np.unique(numbers[order], return_index=True)[1]]
        rare = (frequency <= COMMON) & suite.shared_runs
        mask = rare.copy()
        mask[rarest] = True
        owners = np.stack([np.full(int(mask.sum()), n, np.uint32), numbers[mask]], axis=1)
        yield grams[mask], owners, ~rare[mask]

    def _read(self, text: str) -> list[Reading]:
        return readings_of(text, self.boilerplate)

    def _hits(self, reading: Reading) -> dict[tuple[int, int], list[int]]:
        """Texts that the reading may contain, with the positions of the runs that count without the whole text."""
        hits: dict[tuple[int, int], list[int]] = {}
        for line in short_lines(reading) if self._short else ():
            if len(line) >= SHORTEST_LINE or len(line) == len(reading.words):
                for owner in self._short.get(hash(" ".join(line)), ()):
                    hits[owner] = []
        grams, _ = grams_of([reading.words])
        low, high = np.searchsorted(self._grams, grams, "left"), np.searchsorted(self._grams, grams, "right")
        for first in np.flatnonzero(high > low):
            for at in range(low[first], high[first]):
                suite, number = self._owners[at].tolist()
                runs = hits.setdefault((suite, number), [])
                if not self._whole_only[at]:
                    runs.append(int(first))
        return hits

    def _whole(self, text: str, readings: list[Reading], reading: Reading, suite: GuardedSuite, number: int) -> Overlap:
        """The overlap with a whole guarded text. Its key allows it in this example only."""
        guarded_text = suite.texts[number]
        how: How = "normalised"
        if guarded_text.strip() in text:
            how = "exact"
        elif _lines(guarded_text) in _lines(text):
            how = "re-indented"
        elif MARKED.search(text) and (reading is not readings[0] or _lines(guarded_text) in _lines(_unmarked(text))):
            how = "quoted in a diff"
        key = digest_of([suite.name, self._read(guarded_text)[0].words, readings[0].words])
        return Overlap(suite=suite.name, number=number, how=how, matched=guarded_text.strip(), key=key)


def _shared(
    words: list[str], guarded_words: list[str], runs: list[int], suite: GuardedSuite, number: int
) -> Iterator[Overlap]:
    """Runs that a reading shares with a guarded text. The key of a run allows it in every example."""
    last = -1  # position of the last run inside the previous overlap
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for place in range(len(guarded_words) - RUN + 1 if runs else 0):
        places[tuple(guarded_words[place : place + RUN])].append(place)
    for first in runs:
        if first <= last:
            continue
        begin, end = _longest(words, guarded_words, first, places[tuple(words[first : first + RUN])][:MOST_PLACES])
        if end > begin:
            last, run = end - RUN, words[begin:end]
            yield Overlap(
                suite=suite.name,
                number=number,
                how="n-gram",
                matched=" ".join(run),
                key=digest_of([suite.name, guarded_words, run]),
            )


def _contains(words: Sequence[str], run: Sequence[str]) -> bool:
    return f" {' '.join(run)} " in f" {' '.join(words)} "


def _longest(words: list[str], others: list[str], first: int, places: list[int]) -> tuple[int, int]:
    """Begin and end of the longest shared run around the eight words at `first`; equal if there is none."""
    longest = (first, first)
    for begin in places:
        low, high = 0, RUN
        while min(first, begin) > low and words[first - low - 1] == others[begin - low - 1]:
            low += 1
        while max(first - len(words), begin - len(others)) + high < 0 and words[first + high] == others[begin + high]:
            high += 1
        longest = max(longest, (first - low, first + high), key=lambda span: span[1] - span[0])
    return longest


def _lines(text: str) -> str:
    """The text without indentation and empty lines."""
    return "\n" + "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def _unmarked(text: str) -> str:
    """The text without the marks of diffs and mails before each line."""
    return "\n".join(line.lstrip(" \t+->|") for line in text.splitlines())


def count_overlaps(examples: Iterable[Sequence[Overlap]]) -> dict[str, int]:
    """Number of overlapping examples by suite and kind of match, for the funnel."""
    reasons = Counter(
        f"overlaps with {suite} ({how})"
        for overlaps in examples
        for suite, how in {(overlap.suite, overlap.how) for overlap in overlaps}
    )
    return dict(sorted(reasons.items()))
