"""A dataset is the same in any number of shards and with any runner."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.curriculum.curator import DatasetCurator
from academy.curriculum.dataset import Dataset
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.holdout import Holdout
from academy.curriculum.sharding import ShardRunner, in_process, merge, near_duplicates, on_ray, shard
from academy.curriculum.similarity import Deduplicator, example_text
from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.store.database import Database

TASK = "def total(prices, tax): net = sum(prices); return round(net * (1 + tax), 2)"


@pytest.fixture
def store(database: Database) -> LessonsStore:
    """Lessons of which some are monotonous, near to another, hold a secret, or overlap with a guarded text."""
    chance = random.Random(7)
    store = LessonsStore(database)
    request = answer = "nothing"
    for n in range(300):
        before = (request, answer)
        request = " ".join("".join(chance.choices("abcdefghij", k=6)) for _ in range(12))
        answer = " ".join("".join(chance.choices("klmnopqr", k=6)) for _ in range(6)) if n % 3 == 0 else answer
        kind = n % 10
        if kind == 0:
            answer = "k" * 40
        elif kind == 6:
            request, answer = before[0] + " !?!", before[1].upper()
        elif kind == 2:
            answer = f"{answer}\n> {TASK}"
        elif kind == 3:
            answer += " with the password " + "Kaffee" + str(2000 + n)
        store.add_lesson(request, answer, "success")
    return store


def curated(store: LessonsStore, place: Path, shards: int = 1, run: ShardRunner = in_process) -> Dataset:
    curator = DatasetCurator(
        store,
        lambda talks: [sum(len(turn.content) for turn in talk.messages) // 4 for talk in talks],
        guarded=[GuardedSuite("coding", [TASK])],
        shards=shards,
        run=run,
    )
    curator.collect_from_lessons()
    curator.filter_low_quality()
    return curator.save(place / f"{shards}-{run.__name__}", Holdout(store.database))


@given(st.lists(st.integers()), st.integers(1, 12))
def test_shards_have_equal_sizes_and_merge_to_the_original(work: list[int], count: int) -> None:
    parts = shard(work, count)
    assert merge(parts) == work
    assert len(parts) == count
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_zero_shards_are_rejected() -> None:
    with pytest.raises(InputError, match="0 shards"):
        shard([1], 0)


def test_the_number_of_shards_changes_nothing(store: LessonsStore, tmp_path: Path) -> None:
    first = curated(store, tmp_path)
    assert {
        "dropped: answer: one sign repeated",
        "dropped: near duplicate",
        "dropped: overlap with an examination",
    } <= set(first.funnel)
    assert first.funnel["taken out: secret: password"] >= 10
    for shards in (2, 3, 7, 500):
        again = curated(store, tmp_path, shards)
        assert (again.digest, again.funnel, again.overlaps) == (first.digest, first.funnel, first.overlaps)


def test_each_shard_is_one_call_that_can_be_pickled(store: LessonsStore, tmp_path: Path) -> None:
    sizes: list[int] = []

    def pickling(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        sizes.append(len(calls))
        function, calls = pickle.loads(pickle.dumps((function, calls)))  # noqa: S301  our own bytes
        return in_process(function, calls)

    assert curated(store, tmp_path, 4, pickling).digest == curated(store, tmp_path).digest
    assert sizes == [4, 4, 4]


def test_shards_find_the_same_duplicates_as_one_stream(store: LessonsStore) -> None:
    texts = [example_text(one.request, one.answer) for one in store.read()]
    one_stream = Deduplicator(lambda numbers: [texts[n] for n in numbers]).add(texts)
    assert near_duplicates(texts, shards=3) == one_stream
    assert one_stream


def test_two_workers_of_a_ray_cluster_give_the_same_digest(store: LessonsStore, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    first = curated(store, tmp_path)
    with on_ray(workers=2) as run:
        again = curated(store, tmp_path, 2, run)
    assert (again.digest, again.funnel) == (first.digest, first.funnel)
