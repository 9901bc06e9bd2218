"""Near duplicates of examples: the exact similarity decides, nothing depends on chunks or on Python's hash seed."""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from academy.curriculum.similarity import (
    CHUNK,
    SAME,
    Deduplicator,
    Index,
    example_text,
    jaccard,
    near_duplicates,
    near_pairs,
    shingles,
    signatures,
)

SOME = ["restart", "the", "billing", "worker", "on", "staging", "żółw", "after", "deploy", "42"]
words = st.lists(st.sampled_from(SOME), max_size=8)


def families(count: int, copies: int, seed: int = 0) -> list[str]:
    """Texts of twenty words, each followed by copies in which one word is another."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(500)]
    texts = []
    for _ in range(count):
        body = chance.choices(vocabulary, k=20)
        texts.append(" ".join(body))
        for _ in range(copies):
            changed = list(body)
            changed[chance.randrange(20)] = chance.choice(vocabulary)
            texts.append(" ".join(changed))
    return texts


def told(deduplicator: Deduplicator, texts: list[str]) -> list[tuple[int, int]]:
    return [(duplicate.number, duplicate.of) for duplicate in deduplicator.add(texts)]


@settings(deadline=None)
@given(st.lists(words.map(" ".join), max_size=14))
def test_similarity_is_exact_and_all_near_duplicates_are_found(texts: list[str]) -> None:
    found = {(i, j): similarity for i, j, similarity in near_duplicates(texts)}
    assert list(found) == sorted(found, key=lambda pair: (pair[1], pair[0]))
    for i, j in itertools.combinations(range(len(texts)), 2):
        similarity = jaccard(shingles(texts[i]), shingles(texts[j]))
        assert ((i, j) in found) == (similarity >= SAME)
        assert found.get((i, j), similarity) == similarity


def test_most_pairs_at_the_threshold_are_found() -> None:
    texts = families(300, 4)
    grams = [shingles(text) for text in texts]
    expected = {
        (i, j)
        for first in range(0, len(texts), 5)
        for i, j in itertools.combinations(range(first, first + 5), 2)
        if jaccard(grams[i], grams[j]) >= SAME
    }
    found = {(i, j) for i, j, _ in near_duplicates(texts)}
    assert len(expected) > 500
    assert len(found & expected) / len(expected) >= 0.99
    assert expected >= found


def test_the_first_of_a_family_stays_wherever_the_chunks_end() -> None:
    texts = families(500, 3)  # two chunks
    random.Random(5).shuffle(texts)
    assert len(texts) > CHUNK
    found = told(Deduplicator(lambda numbers: [texts[n] for n in numbers]), texts)
    dropped = {number for number, _ in found}
    pairs = near_duplicates(texts)
    expected: dict[int, int] = {}
    for i, j, _ in pairs:
        if i not in expected:
            expected.setdefault(j, i)
    assert found == sorted(expected.items())
    assert not any(i not in dropped and j not in dropped for i, j, _ in pairs)
    pieces = Deduplicator(lambda numbers: [texts[n] for n in numbers])
    assert [pair for n in range(0, len(texts), 77) for pair in told(pieces, texts[n : n + 77])] == found
    assert pieces.seen == len(texts)
    assert len(pieces.index) == len(texts) - len(found)


def test_earlier_texts_are_fetched_only_for_candidates() -> None:
    texts = families(1500, 0)
    asked: list[int] = []

    def fetch(numbers: list[int]) -> list[str]:
        asked.extend(numbers)
        return [texts[n] for n in numbers]

    deduplicator = Deduplicator(fetch)
    deduplicator.add(texts)
    assert told(deduplicator, [texts[3].upper() + "!"]) == [(1500, 3)]
    assert set(asked) == {3}


def test_the_same_question_with_another_answer_is_not_a_duplicate() -> None:
    question = "Which port does the billing service listen on in the staging environment of the second data centre?"
    texts = [example_text(question, "8080"), example_text(question, "8081"), example_text(question + " ", "8080.")]
    assert [(i, j) for i, j, _ in near_duplicates(texts)] == [(0, 2)]


def test_request_and_answer_are_compared_separately() -> None:
    assert near_duplicates([example_text("a b", "c"), example_text("a", "b c")]) == []
    assert len(near_duplicates([example_text("a \x1f b", "c"), example_text("a b", "c")])) == 1


def test_an_index_is_small_and_holds_no_text() -> None:
    index = Index()
    for n in range(8):
        index.add(np.arange(n * 500, n * 500 + 500), *signatures(families(500, 0, seed=n)))
    assert len(index) == 4000
    assert index.nbytes / len(index) <= 600


def test_a_thousand_copies_are_one_example() -> None:
    copies = [
        f"Please restart the billing worker on the staging host before noon, ticket number {n}" for n in range(2500)
    ]
    found = Deduplicator(lambda numbers: [copies[n] for n in numbers]).add(copies)
    assert len(found) > 2400


def test_odd_texts_are_accepted() -> None:
    texts = ["", " ", "?", "a", "ab", "\ud800 broken", "\U0010ffff", "🙂🙂🙂🙂🙂", "\0"]
    assert {(i, j) for i, j, _ in near_duplicates(texts)} == {(0, 1), (0, 2), (1, 2)}
    assert list(near_pairs([])) == []
    assert Deduplicator(lambda numbers: []).add([]) == []


@pytest.mark.slow
def test_pythons_hash_seed_changes_nothing() -> None:
    program = (
        "import sys; sys.path[:0] = ['tests/unit'];"
        "from academy.records import digest_of; from academy.curriculum.similarity import near_duplicates;"
        "from test_near_duplicates import families; print(digest_of(near_duplicates(families(60, 3))))"
    )
    root = Path(__file__).parents[2]
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 65
