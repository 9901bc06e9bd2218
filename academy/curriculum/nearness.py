"""Which requests are so near to each other that they are one origin.

Candidates come from MinHash (rensa); a pair counts only when its exact similarity passes, so chance decides nothing.
Only requests are compared: answers are shared on purpose (wordings are held out, answers are learned).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rensa import RMinHash, RMinHashLSH

from academy.experience.lessons import normalised

NEAR = 0.7
"""Jaccard similarity of character 4-grams from which two requests are one origin."""
_PERMUTATIONS, _BANDS, _SEED = 128, 32, 42
"""32 bands of 4 rows: a pair at 0.7 is missed once in 5,000, one at 0.9 never."""


def shingles(text: str) -> frozenset[str]:
    """Character 4-grams of the normalised text; a shorter text is its own only shingle."""
    plain = normalised(text)
    return frozenset(plain[i : i + 4] for i in range(len(plain) - 3)) or frozenset((plain,))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared shingles as a share of all."""
    return len(a & b) / len(a | b)


def near_pairs(texts: Sequence[str], new_from: int = 0) -> Iterator[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j, j >= new_from, of texts at least NEAR to each other."""
    grams = [shingles(text) for text in texts]
    index = RMinHashLSH(NEAR, _PERMUTATIONS, _BANDS)
    for j, hashes in enumerate(RMinHash.from_token_sets([sorted(gram) for gram in grams], _PERMUTATIONS, _SEED)):
        if j >= new_from:
            for i in sorted(set(index.query(hashes))):
                similarity = jaccard(grams[i], grams[j])
                if similarity >= NEAR:
                    yield i, j, similarity
        index.insert(j, hashes)
