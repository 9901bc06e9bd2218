"""Which texts are so near to each other that they say the same: origins of requests, and near duplicates of examples.

Candidates come from MinHash (rensa) in bands; a pair counts only when its exact similarity passes, so chance decides
nothing but what is never looked at: of pairs at the threshold one in thousands. Requests alone are compared for
origins (wordings are held out, answers are learned); whole examples for near duplicates.

Memory: an Index keeps 384 bytes a text and no text. Whoever has a million texts gives `texts_of`, which fetches the
few that must be looked at again, and adds them in chunks.
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
"""Jaccard similarity of character 4-grams from which two requests are one origin."""
SAME = 0.8
"""The same of two examples (request and answer), from which the later one is a near duplicate."""
CHUNK = 1024
"""Texts that are hashed at once. The result does not depend on it."""
_PERMUTATIONS, _ROWS, _SEED = 128, 4, 42
"""32 bands of 4 rows: a pair at 0.7 is missed once in 5,000, one at 0.9 never."""
_MARGIN = 0.18
"""A candidate whose estimate lies this far below the threshold is not looked at: four and a half deviations."""
SEPARATOR = "\x1f"
"""Stands between request and answer of an example; it is white space to everything else here."""
_GRAM, _PAD = 4, "\U0010ffff"
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], np.uint64)

Array = np.ndarray[Any, np.dtype[Any]]
TextsOf = Callable[[list[int]], list[str]]
Settled = Callable[[int, int], bool]


class Duplicate(Record):
    """A text and the earliest kept one that it is near to, by number."""

    number: int
    of: int
    similarity: float


def shingles(text: str) -> frozenset[str]:
    """Character 4-grams of the normalised text; a shorter text is its own only shingle."""
    plain = normalised(text)
    return frozenset(plain[i : i + _GRAM] for i in range(len(plain) - 3)) or frozenset((plain,))


def example_text(request: str, answer: str) -> str:
    """An example as one text: it is near to another only where both the requests and the answers are.

    So the same question with another answer is never a duplicate: it is a contradiction.
    """
    return request.replace(SEPARATOR, " ") + SEPARATOR + answer.replace(SEPARATOR, " ")


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
    """MinHash signatures in bands, sorted, without the texts: 520 bytes each."""

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
        runs: list[tuple[Array, Array, Array, Array | None]] = [(numbers, small, keys.T, None)]
        while self._runs and len(self._runs[-1][0]) <= 2 * sum(len(run[0]) for run in runs):
            runs.insert(0, self._runs.pop())
        total = sum(len(run[0]) for run in runs)
        by_band, order = np.empty((keys.shape[1], total), np.uint64), np.empty((keys.shape[1], total), np.uint32)
        for band in range(len(by_band)):  # one at a time: half the memory of all at once
            column = np.concatenate([_in_order(run[2][band], None if run[3] is None else run[3][band]) for run in runs])
            order[band] = np.argsort(column, kind="stable")
            by_band[band] = column[order[band]]
        numbers, small = (np.concatenate([run[k] for run in runs]) for k in (0, 1))
        self._runs.append((numbers, small, by_band, order))

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
                i, j = np.divmod(_distinct(np.concatenate(pairs)), len(keys))
                likely = _estimate(known, i, small, j) >= self.threshold - _MARGIN
                found.append(np.stack([j[likely], numbers[i[likely]]], axis=1))
        every = np.concatenate(found)  # a number is in one run alone: nothing comes twice
        every = every[np.lexsort((every[:, 1], every[:, 0]))]
        return every[:, 1], every[:, 0]


def _in_order(ranked: Array, order: Array | None) -> Array:
    """Sorted keys as they were before they were sorted."""
    if order is None:
        return ranked
    back = np.empty_like(ranked)
    back[order] = ranked
    return back


def _distinct(numbers: Array) -> Array:
    """Sorted, each once: np.unique hashes first and takes fifty times as long where most come again."""
    ranked = np.sort(numbers)
    once = np.ones(len(ranked), np.bool_)
    once[1:] = ranked[1:] != ranked[:-1]
    return ranked[once]


def _estimate(known: Array, i: Array, small: Array, j: Array) -> Array:
    """Estimated similarity of pairs, a part at a time so that many candidates need little memory."""
    step = 100_000
    parts = [(known[i[k : k + step]] == small[j[k : k + step]]).mean(axis=1) for k in range(0, len(i), step)]
    return np.concatenate(parts) if parts else np.empty(0)


def pairs_within(keys: Array, small: Array, threshold: float) -> tuple[Array, Array]:
    """Pairs (i, j), i < j, of rows that share a band and whose estimate is near the threshold, sorted by j and i."""
    found = np.empty(0, np.int64)
    for column in keys.T:
        order = np.argsort(column, kind="stable").astype(np.int64)
        ranked = column[order]
        mine, step = [found], 1
        place = np.flatnonzero(ranked[1:] == ranked[:-1])
        while len(place):
            mine.append(order[place + step] * len(keys) + order[place])  # stable: the later row has the larger number
            step += 1
            place = place[place + step < len(ranked)]
            place = place[ranked[place + step] == ranked[place]]
        if len(mine) > 1:
            found = _distinct(np.concatenate(mine))
    j, i = np.divmod(found, max(1, len(keys)))
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
    pairs = ((old, row + new_from) for row, old in both.tolist())
    yield from verified(pairs, lambda numbers: [texts[n] for n in numbers], threshold)


def near_between(
    first: Sequence[str], second: Sequence[str], threshold: float = NEAR
) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, similarity) of a text of `first` and one of `second`, sorted by j."""
    known = Index(threshold)
    known.add(np.arange(len(first)), *signatures(first))
    for begin in range(0, len(second), CHUNK):
        part = second[begin : begin + CHUNK]
        i, row = known.candidates(*_signatures(part))
        pairs = [(number, len(first) + begin + place) for number, place in zip(i.tolist(), row.tolist(), strict=True)]
        for left, right, similarity in verified(
            pairs, lambda ns: [first[n] if n < len(first) else second[n - len(first)] for n in ns], threshold
        ):
            yield left, right - len(first), similarity


def near_duplicates(texts: Sequence[str], threshold: float = SAME) -> list[tuple[int, int, float]]:
    """All pairs (i, j, similarity) of near-duplicate examples, i < j, sorted by j and then i.

    A text is a whole example (`example_text`). Many copies of one text make as many pairs as there are;
    `Deduplicator` names only the first.
    """
    return list(near_pairs(texts, threshold=threshold))


def verified(
    pairs: Iterable[tuple[int, int]],
    texts_of: TextsOf,
    threshold: float,
    settled: Settled = lambda i, j: False,  # noqa: ARG005
) -> Iterator[tuple[int, int, float]]:
    """Of candidate pairs those whose exact similarity is at least the threshold, in the order given.

    A pair that is `settled` by what was found before it is passed over.
    """
    waiting = iter(pairs)
    while part := list(islice(waiting, CHUNK)):
        wanted = sorted({number for pair in part if not settled(*pair) for number in pair})
        texts = dict(zip(wanted, texts_of(wanted), strict=True)) if wanted else {}
        grams: dict[int, tuple[frozenset[str], ...]] = {}
        for i, j in part:
            if settled(i, j):
                continue
            for number in (i, j):
                if number not in grams:
                    grams[number] = tuple(map(shingles, texts[number].split(SEPARATOR)))
            similarity = min(map(jaccard, grams[i], grams[j]))
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

    def add(self, texts: Sequence[str], signed: tuple[Array, Array] | None = None) -> list[Duplicate]:
        """The near duplicates among these texts, by number (counted from the first text ever added).

        `signed` are their signatures, where another worker has made them.
        """
        found: dict[int, Duplicate] = {}
        for begin in range(0, len(texts), CHUNK):
            part = texts[begin : begin + CHUNK]
            keys, small = _signatures(part) if signed is None else (each[begin : begin + CHUNK] for each in signed)
            self._place(part, keys, small, np.arange(len(part)), found)
            self.seen += len(part)
        return [found[number] for number in sorted(found)]

    def _place(self, texts: Sequence[str], keys: Array, small: Array, rows: Array, found: dict[int, Duplicate]) -> None:
        """Compare some rows of a chunk with what is kept and with each other; keep those that are not found."""

        def compare(pairs: Iterable[tuple[int, int]]) -> None:
            for i, j, similarity in verified(pairs, fetch, self.index.threshold, lambda i, j: i in found or j in found):
                found[j] = Duplicate(number=j, of=i, similarity=similarity)

        def fetch(numbers: list[int]) -> list[str]:
            old = [number for number in numbers if number < self.seen]
            return (self._texts_of(old) if old else []) + [texts[n - self.seen] for n in numbers if n >= self.seen]

        numbers, at = self.index.candidates(keys[rows], small[rows])
        compare(zip(numbers.tolist(), (rows[at] + self.seen).tolist(), strict=True))
        left = rows[[row + self.seen not in found for row in rows.tolist()]]
        if len(left) > 1 and _crowded(keys[left]):  # a large family: what the first half keeps takes out the second
            for half in np.array_split(left, 2):
                self._place(texts, keys, small, half, found)
            return
        i, j = pairs_within(keys[left], small[left], self.index.threshold)
        compare(zip((left[i] + self.seen).tolist(), (left[j] + self.seen).tolist(), strict=True))
        left = left[[row + self.seen not in found for row in left.tolist()]]
        if len(left):
            self.index.add(left + self.seen, keys[left], small[left])


def _crowded(keys: Array) -> bool:
    """Whether comparing these with each other would make more pairs than a chunk is long, many times over."""
    _, counts = np.unique(keys[:, 0], return_counts=True)
    return bool((counts * (counts - 1)).sum() > 16 * len(keys))
