"""Similarity of texts: groups similar requests into origins, and finds near duplicates of examples.

Candidates come from MinHash (rensa) in bands. A pair counts only if its exact similarity reaches the threshold, so
chance can only cause a miss: one in thousands of the pairs at the threshold. For origins only requests are compared
(wordings are held out, answers are learned), for near duplicates whole examples.

Characters do not show what a text means. So callers may give each text numbers ("salts", carrying.py): only texts that
share one are compared, and a pair may still be declared `distinct`.

Memory: an Index keeps 520 bytes for each text with one salt, 900 with two, and not the text. For a million texts add
them in chunks and pass a `texts_of` that fetches the few texts that must be compared again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from rensa import RMinHash

from academy.experience.reading import normalised
from academy.records import Record

NEAR = 0.7
"""Jaccard similarity of character 4-grams from which two requests have the same origin."""
SAME = 0.8
"""The similarity of two examples (request and answer) from which the later one is a near duplicate."""
CHUNK = 1024
"""Texts that are hashed at once. The result does not depend on it."""
_PERMUTATIONS, _ROWS, _SEED = 128, 4, 42
"""32 bands of 4 rows: a pair at 0.7 is missed once in 5,000, one at 0.9 never."""
_MARGIN = 0.18
"""A candidate whose estimate is further below the threshold is not compared: 4.5 standard deviations."""
SEPARATOR = "\x1f"
"""Separates request and answer of an example; the other functions treat it as white space."""
_GRAM, _PAD = 4, "\U0010ffff"
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)

Array = np.ndarray[Any, np.dtype[Any]]
TextsOf = Callable[[list[int]], list[str]]
Settled = Callable[[int, int], bool]
Distinct = Callable[[str, str], bool]
Salts = Sequence[Sequence[int]]
"""For each text the same number of 64-bit numbers."""


class Duplicate(Record):
    """A text and the earliest distinct text that it is similar to, by number."""

    number: int
    of: int
    similarity: float


def shingles(text: str) -> frozenset[str]:
    """Character 4-grams of the normalised text; a shorter text is its only shingle."""
    plain = normalised(text)
    return frozenset(plain[i : i + _GRAM] for i in range(len(plain) - 3)) or frozenset((plain,))


def example_text(request: str, answer: str) -> str:
    """An example as one text, which is similar to another only if both requests and answers are.

    So the same question with another answer is a contradiction, never a duplicate.
    """
    return request.replace(SEPARATOR, " ") + SEPARATOR + answer.replace(SEPARATOR, " ")


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared shingles divided by all shingles."""
    return len(a & b) / len(a | b)


def signatures(texts: Sequence[str], salts: Salts | None = None) -> tuple[Array, Array]:
    """MinHash of each text: band keys (n, 32) uint64, and one byte of each permutation (n, 128) uint8.

    With k salts for each text there are 32 k band keys: only texts that share a salt, at its place, are candidates.
    """
    parts = [_signatures(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
    if not parts:
        return np.empty((0, _PERMUTATIONS // _ROWS), np.uint64), np.empty((0, _PERMUTATIONS), np.uint8)
    keys = np.concatenate([keys for keys, _ in parts])
    return salted(keys, salts) if salts else keys, np.concatenate([small for _, small in parts])


def salted(keys: Array, salts: Salts) -> Array:
    """Band keys that are equal only where the texts' salts are: one set of bands for each salt of a text."""
    columns = np.array(salts, np.uint64).T
    return np.concatenate([keys ^ (column * _MIX[2])[:, None] for column in columns], axis=1)


def _signatures(texts: Sequence[str]) -> tuple[Array, Array]:
    plain = [normalised(text).ljust(_GRAM, _PAD) for text in texts]
    characters = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in plain])
    ends = np.cumsum(lengths)
    inside = np.ones(len(characters), np.bool_)
    for back in range(1, _GRAM):
        inside[ends - back] = False  # a 4-gram must not reach into the next text
    hashes = np.zeros(len(characters) - _GRAM + 1, np.uint64)
    for n, factor in enumerate(_MIX):
        hashes += characters[n : len(characters) - _GRAM + 1 + n] * factor
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
    """All (i, j) with left[i] == right[j]; `left` is sorted."""
    low, high = np.searchsorted(left, right, "left"), np.searchsorted(left, right, "right")
    counts = high - low
    j = np.repeat(np.arange(len(right)), counts)
    i = np.arange(len(j)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    return i, j


class Index:
    """Sorted MinHash signatures in bands, without the texts: 520 bytes for each."""

    def __init__(self, threshold: float = SAME) -> None:
        self.threshold = threshold
        self._runs: list[tuple[Array, Array, Array, Array]] = []  # numbers, small, and by band: sorted keys, order

    def __len__(self) -> int:
        return sum(len(numbers) for numbers, *_ in self._runs)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the index uses."""
        return sum(part.nbytes for run in self._runs for part in run)

    def add(self, numbers: Array, keys: Array, small: Array) -> None:
        """Add signatures under their numbers. Runs of similar length are merged, so that there are few runs."""
        runs: list[tuple[Array, Array, Array, Array | None]] = [(numbers, small, keys.T, None)]
        while self._runs and len(self._runs[-1][0]) <= 2 * sum(len(run[0]) for run in runs):
            runs.insert(0, self._runs.pop())
        total = sum(len(run[0]) for run in runs)
        by_band, order = np.empty((keys.shape[1], total), np.uint64), np.empty((keys.shape[1], total), np.uint32)
        for band in range(len(by_band)):  # one band at a time needs half the memory
            column = np.concatenate([_unsort(run[2][band], None if run[3] is None else run[3][band]) for run in runs])
            order[band] = np.argsort(column, kind="stable")
            by_band[band] = column[order[band]]
        numbers, small = (np.concatenate([run[k] for run in runs]) for k in (0, 1))
        self._runs.append((numbers, small, by_band, order))

    def candidates(self, keys: Array, small: Array) -> tuple[Array, Array]:
        """Pairs (number in the index, row of `keys`) with a common band and an estimate near the threshold, by row."""
        matches = [np.empty((0, 2), np.int64)]
        for numbers, run_small, by_band, order in self._runs:
            codes = []
            for band, sorted_keys in enumerate(by_band):
                i, j = _joined(sorted_keys, keys[:, band])
                if len(i):
                    codes.append(order[band][i].astype(np.int64) * len(keys) + j)
            if codes:
                i, j = np.divmod(_distinct(np.concatenate(codes)), len(keys))
                likely = _estimate(run_small, i, small, j) >= self.threshold - _MARGIN
                matches.append(np.stack([j[likely], numbers[i[likely]]], axis=1))
        pairs = np.concatenate(matches)  # without duplicates: each number is in one run
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        return pairs[:, 1], pairs[:, 0]


def _unsort(sorted_keys: Array, order: Array | None) -> Array:
    """The keys in the order before they were sorted; without `order` they are not sorted."""
    if order is None:
        return sorted_keys
    keys = np.empty_like(sorted_keys)
    keys[order] = sorted_keys
    return keys


def _distinct(numbers: Array) -> Array:
    """Sorted distinct numbers. np.unique hashes first and takes fifty times as long with many duplicates."""
    by_value = np.sort(numbers)
    is_first = np.ones(len(by_value), np.bool_)
    is_first[1:] = by_value[1:] != by_value[:-1]
    return by_value[is_first]


def _estimate(first: Array, i: Array, second: Array, j: Array) -> Array:
    """Estimated similarity of pairs, in parts, so that many candidates need little memory."""
    step = 100_000
    parts = [(first[i[k : k + step]] == second[j[k : k + step]]).mean(axis=1) for k in range(0, len(i), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def pairs_within(keys: Array, small: Array, threshold: float) -> tuple[Array, Array]:
    """Pairs (i, j), i < j, of rows with a common band and an estimate near the threshold, sorted by j and i."""
    codes = np.empty(0, np.int64)  # of pairs: j * rows + i
    for column in keys.T:
        order = np.argsort(column, kind="stable").astype(np.int64)
        sorted_keys = column[order]
        parts, step = [codes], 1
        position = np.flatnonzero(sorted_keys[1:] == sorted_keys[:-1])
        while len(position):
            parts.append(order[position + step] * len(keys) + order[position])  # stable sort: the later row is larger
            step += 1
            position = position[position + step < len(sorted_keys)]
            position = position[sorted_keys[position + step] == sorted_keys[position]]
        if len(parts) > 1:
            codes = _distinct(np.concatenate(parts))
    j, i = np.divmod(codes, max(1, len(keys)))
    likely = _estimate(small, i, small, j) >= threshold - _MARGIN
    return i[likely], j[likely]


def near_pairs(texts: Sequence[str], new_from: int = 0, threshold: float = NEAR) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j and j >= new_from, of texts as similar as the threshold, sorted by j."""
    keys, small = signatures(texts)
    index = Index(threshold)
    if new_from:
        index.add(np.arange(new_from), keys[:new_from], small[:new_from])
    number, row = index.candidates(keys[new_from:], small[new_from:])
    i, j = pairs_within(keys[new_from:], small[new_from:], threshold)
    rows = np.concatenate([np.stack([row, number], axis=1), np.stack([j, i + new_from], axis=1)])
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    pairs = ((number, row + new_from) for row, number in rows.tolist())
    yield from verified(pairs, lambda numbers: [texts[n] for n in numbers], threshold)


def near_between(
    first: Sequence[str],
    second: Sequence[str],
    threshold: float = NEAR,
    salts: tuple[Salts, Salts] | None = None,
    distinct: Distinct | None = None,
) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, similarity) of a text of `first` and one of `second`, sorted by j. `salts` are those of both."""
    index = Index(threshold)
    index.add(np.arange(len(first)), *signatures(first, salts[0] if salts else None))
    for begin in range(0, len(second), CHUNK):
        part = second[begin : begin + CHUNK]
        i, rows = index.candidates(*signatures(part, salts[1][begin : begin + CHUNK] if salts else None))
        pairs = [(number, len(first) + begin + row) for number, row in zip(i.tolist(), rows.tolist(), strict=True)]
        for i_first, i_second, similarity in verified(
            pairs,
            lambda ns: [first[n] if n < len(first) else second[n - len(first)] for n in ns],
            threshold,
            distinct=distinct,
        ):
            yield i_first, i_second - len(first), similarity


def near_duplicates(texts: Sequence[str], threshold: float = SAME) -> list[tuple[int, int, float]]:
    """All pairs (i, j, similarity) of near-duplicate examples, i < j, sorted by j and then i.

    A text is a whole example (`example_text`). n copies of a text make n (n - 1) / 2 pairs; `Deduplicator` gives one
    pair for each copy.
    """
    return list(near_pairs(texts, threshold=threshold))


def verified(
    pairs: Iterable[tuple[int, int]],
    texts_of: TextsOf,
    threshold: float,
    settled: Settled = lambda i, j: False,  # noqa: ARG005
    distinct: Distinct | None = None,
) -> Iterator[tuple[int, int, float]]:
    """The candidate pairs whose exact similarity reaches the threshold, in the same order.

    A pair is skipped if earlier pairs have `settled` it, or if its texts are `distinct` although they are similar.
    """
    candidates = iter(pairs)
    while part := list(islice(candidates, CHUNK)):
        numbers = sorted({number for pair in part if not settled(*pair) for number in pair})
        texts = dict(zip(numbers, texts_of(numbers), strict=True)) if numbers else {}
        grams: dict[int, tuple[frozenset[str], ...]] = {}
        for i, j in part:
            if settled(i, j):
                continue
            for number in (i, j):
                if number not in grams:
                    grams[number] = tuple(map(shingles, texts[number].split(SEPARATOR)))
            similarity = min(map(jaccard, grams[i], grams[j]))
            if similarity >= threshold and not (distinct and distinct(texts[i], texts[j])):
                yield i, j, similarity


class Deduplicator:
    """Keeps the first text of each near-duplicate family. Add texts in chunks and in a stable order, such as by id.

    `texts_of` returns the texts of kept numbers; it is called for candidates only.
    """

    def __init__(self, texts_of: TextsOf, threshold: float = SAME, distinct: Distinct | None = None) -> None:
        self.index = Index(threshold)
        self.seen = 0
        self._texts_of = texts_of
        self._distinct = distinct

    def add(self, texts: Sequence[str], signed: tuple[Array, Array] | None = None) -> list[Duplicate]:
        """The near duplicates among these texts, by number (counted from the first text that was added).

        `signed` are their signatures, if they have salts or another worker computed them.
        """
        duplicates: dict[int, Duplicate] = {}
        for begin in range(0, len(texts), CHUNK):
            part = texts[begin : begin + CHUNK]
            keys, small = _signatures(part) if signed is None else (array[begin : begin + CHUNK] for array in signed)
            self._compare(part, keys, small, np.arange(len(part)), duplicates)
            self.seen += len(part)
        return [duplicates[number] for number in sorted(duplicates)]

    def _compare(
        self, texts: Sequence[str], keys: Array, small: Array, rows: Array, duplicates: dict[int, Duplicate]
    ) -> None:
        """Compare rows of a chunk with the index and with each other; rows without a duplicate join the index."""

        def compare(pairs: Iterable[tuple[int, int]]) -> None:
            for i, j, similarity in verified(
                pairs, fetch, self.index.threshold, lambda i, j: i in duplicates or j in duplicates, self._distinct
            ):
                duplicates[j] = Duplicate(number=j, of=i, similarity=similarity)

        def fetch(numbers: list[int]) -> list[str]:
            earlier = [number for number in numbers if number < self.seen]
            return (self._texts_of(earlier) if earlier else []) + [
                texts[n - self.seen] for n in numbers if n >= self.seen
            ]

        numbers, positions = self.index.candidates(keys[rows], small[rows])
        compare(zip(numbers.tolist(), (rows[positions] + self.seen).tolist(), strict=True))
        distinct = rows[[row + self.seen not in duplicates for row in rows.tolist()]]
        if len(distinct) > 1 and _has_too_many_pairs(
            keys[distinct]
        ):  # a large family: compare one half after the other
            for half in np.array_split(distinct, 2):
                self._compare(texts, keys, small, half, duplicates)
            return
        i, j = pairs_within(keys[distinct], small[distinct], self.index.threshold)
        compare(zip((distinct[i] + self.seen).tolist(), (distinct[j] + self.seen).tolist(), strict=True))
        distinct = distinct[[row + self.seen not in duplicates for row in distinct.tolist()]]
        if len(distinct):
            self.index.add(distinct + self.seen, keys[distinct], small[distinct])


def _has_too_many_pairs(keys: Array) -> bool:
    """Whether comparing these rows with each other would give many more pairs than there are rows."""
    _, counts = np.unique(keys[:, 0], return_counts=True)
    return bool((counts * (counts - 1)).sum() > 16 * len(keys))
