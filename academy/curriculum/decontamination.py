"""Decontamination: what an examination asks must not stand in what is trained on.

The hold-out's requests are compared with requests only (answers are shared on purpose); other suites with the whole
example. Texts are compared as runs of words: letters and digits, lower case. So indentation, line breaks, quotation
marks and the `+`, `-` and `>` of diffs and mails make no difference. An example overlaps where it contains a guarded
text, or shares a run of eight words with one; a text of fewer words counts only where it fills whole lines.

An overlap is shown with the words that matched, because a shared run may be an accident: a person may allow it by its
key. Memory: about 30 bytes a run of eight words. The texts themselves stay where the caller's sequences keep them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from academy.curriculum.text_overlap import MARKED, RUN, Array, Reading, grams_of, readings_of, short_lines
from academy.records import Record, digest_of

SHORTEST_LINE = 3
"""Words from which a short text is also found as lines of an example; shorter ones only as all of it."""
COMMON = 8
"""A run that stands in more texts of one suite than this is the suite's own phrasing and betrays none of them."""
CHUNK = 1024

How = Literal["exact", "normalised", "re-indented", "quoted in a diff", "n-gram"]


class GuardedSuite(NamedTuple):
    """Texts that must stay out. `texts` may be any sequence, one that reads from a file too; it is not copied."""

    name: str
    texts: Sequence[str]
    requests_only: bool = False  # the hold-out of lessons: compared with requests
    shared_runs: bool = True  # False: only texts that stand in the example as a whole count


class Overlap(Record):
    """A guarded text (or eight words and more of it) that stands in an example."""

    suite: str
    number: int  # of the text in its suite
    how: How
    matched: str  # as it stands in the example
    key: str  # what a person names to allow it


class OverlapIndex:
    """The texts of all suites, hashed. `overlaps` looks at one example, `scan` at many (several times as fast)."""

    def __init__(
        self, suites: Iterable[GuardedSuite], allowed: Iterable[str] = (), boilerplate: Iterable[str] = ()
    ) -> None:
        """`allowed` are keys of overlaps; `boilerplate` are phrases of our own that are cut out before comparing."""
        self.suites = tuple(suites)
        self.allowed = frozenset(allowed)
        self.boilerplate = tuple(sorted(boilerplate, key=len, reverse=True))
        self._short: dict[int, list[tuple[int, int]]] = {}
        grams, owners, whole = [], [], []
        for place, suite in enumerate(self.suites):
            for found in self._index(place, suite):
                grams.append(found[0])
                owners.append(found[1])
                whole.append(found[2])
        every = np.concatenate([np.empty(0, np.uint64), *grams])
        order = np.argsort(every, kind="stable")
        self._grams = every[order]
        self._owners = np.concatenate([np.empty((0, 2), np.uint32), *owners])[order]
        self._whole_only = np.concatenate([np.empty(0, np.bool_), *whole])[order]
        # One bit of memory access tells of nearly every run that it is not there: a search costs fifty times that.
        self._table = np.zeros(1 << (8 * len(every) + 1023).bit_length(), np.bool_)
        self._table[self._grams & np.uint64(len(self._table) - 1)] = True

    def __reduce__(self) -> tuple[Any, ...]:
        # Words are hashed by Python's own hash, which differs from process to process: another one hashes anew.
        return OverlapIndex, (self.suites, self.allowed, self.boilerplate)

    def __len__(self) -> int:
        return sum(len(suite.texts) for suite in self.suites)

    def overlaps(self, request: str, answer: str = "") -> tuple[Overlap, ...]:
        """What an example shares with guarded texts, one overlap for each text, without those that are allowed."""
        found: dict[tuple[int, int], Overlap] = {}
        for text, requests_only in ((request, True), (f"{request}\n{answer}" if answer else request, False)):
            readings = self._read(text)
            settled: set[tuple[int, int]] = set()  # found as a whole, be it allowed or not
            for view in readings:
                for (place, number), runs in self._hits(view).items():
                    suite = self.suites[place]
                    if suite.requests_only == requests_only and (place, number) not in settled:
                        theirs = self._read(suite.texts[number])[0].words
                        if _contains(view.words, theirs):
                            settled.add((place, number))
                            found.pop((place, number), None)
                            overlaps = iter([self._whole(text, readings, view, suite, number)])
                        else:
                            overlaps = _shared(view.words, theirs, runs, suite, number)
                        for overlap in overlaps:
                            if overlap.key not in self.allowed:
                                found.setdefault((place, number), overlap)
        return tuple(found[at] for at in sorted(found))

    def scan(self, examples: Sequence[tuple[str, str]]) -> dict[int, tuple[Overlap, ...]]:
        """Overlaps of (request, answer) examples, by the example's place; those without any are left out."""
        found = {}
        for begin in range(0, len(examples), CHUNK):
            for place in self._suspects(examples[begin : begin + CHUNK]):
                if overlaps := self.overlaps(*examples[begin + place]):
                    found[begin + place] = overlaps
        return found

    def _suspects(self, examples: Sequence[tuple[str, str]]) -> list[int]:
        """The few examples that share a hash with a guarded text."""
        rows: list[int] = []
        words: list[list[str]] = []
        suspects = set()
        for row, (request, answer) in enumerate(examples):
            for view in self._read(f"{request}\n{answer}" if answer else request):
                rows.append(row)
                words.append(view.words)
                if self._short and any(hash(" ".join(line)) in self._short for line in short_lines(view)):
                    suspects.add(row)
        grams, row_of = grams_of(words)
        maybe = np.flatnonzero(self._table[grams & np.uint64(len(self._table) - 1)])
        at = np.searchsorted(self._grams, grams[maybe])
        maybe, at = maybe[at < len(self._grams)], at[at < len(self._grams)]
        suspects.update(rows[k] for k in np.unique(row_of[maybe[self._grams[at] == grams[maybe]]]))
        return sorted(suspects)

    def _index(self, place: int, suite: GuardedSuite) -> Iterator[tuple[Array, Array, Array]]:
        """Runs of the suite's texts: (hash, (suite, number), counts only where the whole text is there)."""
        parts: list[tuple[Array, Array]] = []
        for begin in range(0, len(suite.texts), CHUNK):
            words = [self._read(suite.texts[n])[0].words for n in range(begin, min(begin + CHUNK, len(suite.texts)))]
            for number, short in enumerate(words, start=begin):
                if 0 < len(short) < RUN:
                    self._short.setdefault(hash(" ".join(short)), []).append((place, number))
            grams, row = grams_of(words)
            parts.append((grams, (row + begin).astype(np.uint32)))
        if not parts:
            return
        grams, numbers = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        order = np.lexsort((grams, numbers))
        numbers, grams = numbers[order], grams[order]
        first = np.ones(len(grams), np.bool_)  # a run that a text repeats counts once
        first[1:] = (numbers[1:] != numbers[:-1]) | (grams[1:] != grams[:-1])
        numbers, grams = numbers[first], grams[first]
        _, back, counts = np.unique(grams, return_inverse=True, return_counts=True)
        seen = counts[back]
        # The rarest run of each text always stays: by it the whole text is found, however common its phrases are.
        order = np.lexsort((seen, numbers))
        rarest = order[np.unique(numbers[order], return_index=True)[1]]
        rare = (seen <= COMMON) & suite.shared_runs
        kept = rare.copy()
        kept[rarest] = True
        owners = np.stack([np.full(int(kept.sum()), place, np.uint32), numbers[kept]], axis=1)
        yield grams[kept], owners, ~rare[kept]

    def _read(self, text: str) -> list[Reading]:
        return readings_of(text, self.boilerplate)

    def _hits(self, view: Reading) -> dict[tuple[int, int], list[int]]:
        """Texts that may be in a view as a whole, each with the places of the runs that count by themselves."""
        found: dict[tuple[int, int], list[int]] = {}
        for line in short_lines(view) if self._short else ():
            if len(line) >= SHORTEST_LINE or len(line) == len(view.words):
                for owner in self._short.get(hash(" ".join(line)), ()):
                    found[owner] = []
        grams, _ = grams_of([view.words])
        low, high = np.searchsorted(self._grams, grams, "left"), np.searchsorted(self._grams, grams, "right")
        for first in np.flatnonzero(high > low):
            for at in range(low[first], high[first]):
                place, number = self._owners[at].tolist()
                runs = found.setdefault((place, number), [])
                if not self._whole_only[at]:
                    runs.append(int(first))
        return found

    def _whole(self, text: str, readings: list[Reading], view: Reading, suite: GuardedSuite, number: int) -> Overlap:
        """A guarded text that stands in a view of the text as a whole. It is allowed in this one example only."""
        guarded = suite.texts[number]
        how: How = "normalised"
        if guarded.strip() in text:
            how = "exact"
        elif _lines(guarded) in _lines(text):
            how = "re-indented"
        elif MARKED.search(text) and (view is not readings[0] or _lines(guarded) in _lines(_unmarked(text))):
            how = "quoted in a diff"
        key = digest_of([suite.name, self._read(guarded)[0].words, readings[0].words])
        return Overlap(suite=suite.name, number=number, how=how, matched=guarded.strip(), key=key)


def _shared(
    words: list[str], theirs: list[str], runs: list[int], suite: GuardedSuite, number: int
) -> Iterator[Overlap]:
    """Runs that a view shares with a guarded text. Each is allowed as a phrase of that text, wherever it stands."""
    seen = -1  # the last place inside a run that was told
    for first in runs:
        begin, end = _longest(words, theirs, first)
        if first > seen and end > begin:
            seen, run = end - RUN, words[begin:end]
            yield Overlap(
                suite=suite.name,
                number=number,
                how="n-gram",
                matched=" ".join(run),
                key=digest_of([suite.name, theirs, run]),
            )


def _contains(words: Sequence[str], wanted: Sequence[str]) -> bool:
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _longest(words: list[str], theirs: list[str], first: int) -> tuple[int, int]:
    """Begin and end of the longest run around the eight words at `first` that both share; equal where there is none."""
    run = words[first : first + RUN]
    longest = (first, first)
    for begin in range(len(theirs) - RUN + 1):
        if theirs[begin : begin + RUN] == run:
            low, high = 0, RUN
            while min(first, begin) > low and words[first - low - 1] == theirs[begin - low - 1]:
                low += 1
            while (
                max(first - len(words), begin - len(theirs)) + high < 0 and words[first + high] == theirs[begin + high]
            ):
                high += 1
            longest = max(longest, (first - low, first + high), key=lambda found: found[1] - found[0])
    return longest


def _lines(text: str) -> str:
    """The text without indentation and empty lines."""
    return "\n" + "\n".join(line.strip() for line in text.splitlines() if line.strip()) + "\n"


def _unmarked(text: str) -> str:
    """The text without the marks that diffs and mails put before a line."""
    return "\n".join(line.lstrip(" \t+->|") for line in text.splitlines())


def count_overlaps(found: Iterable[Sequence[Overlap]]) -> dict[str, int]:
    """How many examples overlap, by suite and way: for the funnel."""
    reasons = Counter(
        f"overlaps with {suite} ({how})" for each in found for suite, how in {(o.suite, o.how) for o in each}
    )
    return dict(sorted(reasons.items()))
