"""Which texts are so near to each other that they say the same: origins of requests, and near duplicates of examples.

Candidates come from MinHash (rensa) in bands; a pair counts only when its exact similarity passes, so chance decides
nothing but what is never looked at: of pairs at the threshold one in thousands. Requests alone are compared for
origins (wordings are held out, answers are learned); whole examples for near duplicates.

Memory: an Index keeps 384 bytes a text and no text. Whoever has a million texts gives `texts_of`, which fetches the
few that must be looked at again, and adds them in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from rensa import RMinHash

from academy.artifacts import Record
from academy.experience.lessons import normalised

NEAR = 0.7
"""Jaccard similarity of character 4-grams from which two requests are one origin."""
SAME = 0.8
"""The same of two examples (request and answer), from which the later one is a near duplicate."""
CHUNK = 1024
"""Texts that are hashed at once. The result does not depend on it."""
_PERMUTATIONS, _ROWS, _SEED = 128, 4, 42
"""32 bands of 4 rows: a pair at 0.7 is missed once in 5,000, one at 0.9 never."""
_MARGIN = 0.18
"""A candidate whose estimate lies this far below the threshold is not looked at: four and a half deviations."""
_GRAM, _PAD = 4, "\U0010ffff"
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)

Array = np.ndarray[Any, np.dtype[Any]]
TextsOf = Callable[[list[int]], list[str]]


class Duplicate(Record):
    """A text and the earliest kept one that it is near to, by number."""

    number: int
    of: int
    similarity: float


def shingles(text: str) -> frozenset[str]:
    """Character 4-grams of the normalised text; a shorter text is its own only shingle."""
    plain = normalised(text)
    return frozenset(plain[i : i + _GRAM] for i in range(len(plain) - 3)) or frozenset((plain,))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared shingles as a share of all."""
    return len(a & b) / len(a | b)


def signatures(texts: Sequence[str]) -> tuple[Array, Array]:
    """MinHash of each text: band keys (n, 32) uint64, and one byte of each permutation (n, 128) uint8."""
    found = [_signatures(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
    if not found:
        return np.empty((0, _PERMUTATIONS // _ROWS), np.uint64), np.empty((0, _PERMUTATIONS), np.uint8)
    return np.concatenate([keys for keys, _ in found]), np.concatenate([small for _, small in found])


def _signatures(texts: Sequence[str]) -> tuple[Array, Array]:
    plain = [normalised(text).ljust(_GRAM, _PAD) for text in texts]
    signs = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in plain])
    ends = np.cumsum(lengths)
    inside = np.ones(len(signs), np.bool_)
    for back in range(1, _GRAM):
        inside[ends - back] = False  # a gram never reaches into the next text
    hashes = np.zeros(len(signs) - _GRAM + 1, np.uint64)
    for place, factor in enumerate(_MIX):
        hashes += signs[place : len(signs) - _GRAM + 1 + place] * factor
    hashes = hashes[inside[: len(hashes)]]
    hashes ^= hashes >> np.uint64(29)
    hashes *= _MIX[1]
    hashes ^= hashes >> np.uint64(32)
    offsets = np.concatenate([[0], np.cumsum(lengths - _GRAM + 1)]).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, _PERMUTATIONS, _SEED)
    digests = np.array(matrix.to_rows(), np.uint32)
    rows = digests.reshape(len(texts), -1, _ROWS).astype(np.uint64)
    keys = (rows * _MIX).sum(axis=2, dtype=np.uint64)
    return keys ^ (keys >> np.uint64(31)), (digests >> np.uint32(7)).astype(np.uint8)


def _joined(left: Array, right: Array) -> tuple[Array, Array]:
    """All (i, j) where left[i] == right[j]; `left` is sorted."""
    low, high = np.searchsorted(left, right, "left"), np.searchsorted(left, right, "right")
    counts = high - low
    j = np.repeat(np.arange(len(right)), counts)
    i = np.arange(len(j)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    return i, j


class Index:
    """MinHash signatures in bands, sorted, without the texts: 384 bytes each."""

    def __init__(self, threshold: float = SAME) -> None:
        self.threshold = threshold
        self._runs: list[tuple[Array, Array, Array, Array]] = []  # numbers, small, sorted keys and their order by band

    def __len__(self) -> int:
        return sum(len(numbers) for numbers, *_ in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds."""
        return sum(part.nbytes for run in self._runs for part in run)

    def add(self, numbers: Array, keys: Array, small: Array) -> None:
        """Keep signatures under their numbers. Runs of similar length are merged, so that there are few of them."""
        while self._runs and len(self._runs[-1][0]) <= 2 * len(numbers):
            before, before_small, before_keys, order = self._runs.pop()
            back = np.empty_like(before_keys)
            np.put_along_axis(back, order.astype(np.int64), before_keys, axis=1)
            numbers, small = np.concatenate([before, numbers]), np.concatenate([before_small, small])
            keys = np.concatenate([back.T, keys])
        by_band = np.ascontiguousarray(keys.T)
        order = np.argsort(by_band, axis=1, kind="stable").astype(np.uint32)
        self._runs.append((numbers, small, np.take_along_axis(by_band, order.astype(np.int64), axis=1), order))

    def candidates(self, keys: Array, small: Array) -> tuple[Array, Array]:
        """Pairs (number kept, row given) that share a band and whose estimate is near the threshold, sorted by row."""
        found = [np.empty((0, 2), np.int64)]
        for numbers, known, by_band, order in self._runs:
            pairs = []
            for band, sorted_keys in enumerate(by_band):
                i, j = _joined(sorted_keys, keys[:, band])
                if len(i):
                    pairs.append(order[band][i].astype(np.int64) * len(keys) + j)
            if pairs:
                i, j = np.divmod(np.unique(np.concatenate(pairs)), len(keys))
                likely = _estimate(known, i, small, j) >= self.threshold - _MARGIN
                found.append(np.stack([j[likely], numbers[i[likely]]], axis=1))
        every = np.unique(np.concatenate(found), axis=0)
        return every[:, 1], every[:, 0]


def _estimate(known: Array, i: Array, small: Array, j: Array) -> Array:
    """Estimated similarity of pairs, a part at a time so that many candidates need little memory."""
    step = 100_000
    parts = [(known[i[k : k + step]] == small[j[k : k + step]]).mean(axis=1) for k in range(0, len(i), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def pairs_within(keys: Array, small: Array, threshold: float) -> tuple[Array, Array]:
    """Pairs (i, j), i < j, of rows that share a band and whose estimate is near the threshold, sorted by j and i."""
    found = [np.empty(0, np.int64)]
    for column in keys.T:
        order = np.argsort(column, kind="stable").astype(np.int64)
        ranked = column[order]
        place, step = np.flatnonzero(ranked[1:] == ranked[:-1]), 1
        while len(place):
            found.append(order[place + step] * len(keys) + order[place])  # stable: the later row has the larger number
            step += 1
            place = place[place + step < len(ranked)]
            place = place[ranked[place + step] == ranked[place]]
    j, i = np.divmod(np.unique(np.concatenate(found)), max(1, len(keys)))
    likely = _estimate(small, i, small, j) >= threshold - _MARGIN
    return i[likely], j[likely]


def near_pairs(texts: Sequence[str], new_from: int = 0, threshold: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j, j >= new_from, of texts at least `threshold` to each other, sorted by j."""
    keys, small = signatures(texts)
    known = Index(threshold)
    if new_from:
        known.add(np.arange(new_from), keys[:new_from], small[:new_from])
    old, row = known.candidates(keys[new_from:], small[new_from:])
    i, j = pairs_within(keys[new_from:], small[new_from:], threshold)
    both = np.concatenate([np.stack([row, old], axis=1), np.stack([j, i + new_from], axis=1)])
    both = both[np.lexsort((both[:, 1], both[:, 0]))]
    pairs = [(old, row + new_from) for row, old in both.tolist()]
    yield from verified(pairs, lambda numbers: [texts[n] for n in numbers], threshold)


def near_duplicates(texts: Sequence[str], threshold: float = SAME) -> list[tuple[int, int, float]]:
    """All pairs (i, j, similarity) of near-duplicate examples, i < j, sorted by j and then i.

    A text is a whole example (request and answer). Many copies of one text make as many pairs as there are;
    `Deduplicator` names only the first.
    """
    return list(near_pairs(texts, threshold=threshold))


def verified(pairs: Sequence[tuple[int, int]], texts_of: TextsOf, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Of candidate pairs those whose exact similarity is at least the threshold, in the order given."""
    for begin in range(0, len(pairs), CHUNK):
        part = pairs[begin : begin + CHUNK]
        wanted = sorted({number for pair in part for number in pair})
        grams = {number: shingles(text) for number, text in zip(wanted, texts_of(wanted), strict=True)}
        for i, j in part:
            similarity = jaccard(grams[i], grams[j])
            if similarity >= threshold:
                yield i, j, similarity


class Deduplicator:
    """Keeps the first of each near-duplicate family; texts come in chunks, in a stable order (by id, say).

    `texts_of` gives the texts of numbers that were kept before; it is asked for candidates only.
    """

    def __init__(self, texts_of: TextsOf, threshold: float = SAME) -> None:
        self.index = Index(threshold)
        self.seen = 0
        self._texts_of = texts_of

    def add(self, texts: Sequence[str]) -> list[Duplicate]:
        """The near duplicates among these texts, by number (counted from the first text ever added)."""
        return [
            duplicate for begin in range(0, len(texts), CHUNK) for duplicate in self._add(texts[begin : begin + CHUNK])
        ]

    def _add(self, texts: Sequence[str]) -> list[Duplicate]:
        first, threshold = self.seen, self.index.threshold
        self.seen += len(texts)
        keys, small = _signatures(texts)

        def fetch(numbers: list[int]) -> list[str]:
            old = [number for number in numbers if number < first]
            return (self._texts_of(old) if old else []) + [texts[n - first] for n in numbers if n >= first]

        kept_numbers, rows = self.index.candidates(keys, small)
        pairs = [(int(i), first + int(row)) for i, row in zip(kept_numbers, rows, strict=True)]
        found: dict[int, Duplicate] = {}
        for i, j, similarity in verified(pairs, fetch, threshold):
            found.setdefault(j, Duplicate(number=j, of=i, similarity=similarity))
        left = np.array([row for row in range(len(texts)) if first + row not in found], np.int64)
        earlier, later = pairs_within(keys[left], small[left], threshold)
        pairs = [(first + int(left[i]), first + int(left[j])) for i, j in zip(earlier, later, strict=True)]
        for i, j, similarity in verified(pairs, fetch, threshold):
            if i not in found:
                found.setdefault(j, Duplicate(number=j, of=i, similarity=similarity))
        kept = np.array([row for row in left if first + row not in found], np.int64)
        if len(kept):
            self.index.add(kept + first, keys[kept], small[kept])
        return [found[j] for j in sorted(found)]
