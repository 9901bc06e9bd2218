"""The same result in any number of shards, whoever runs them."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.artifacts import Record
from academy.curriculum.decontamination import Guarded, Suite
from academy.curriculum.nearness import Deduplicator, example_text
from academy.curriculum.sharding import Sifted, in_process, merge, near_duplicates, on_ray, shard, sift
from academy.errors import InputError

GUARDED = Guarded([
    Suite("recall", ["Which port does the billing service listen on in the staging environment?"], requests_only=True),
    Suite("coding", ["def total(prices, tax): net = sum(prices); return round(net * (1 + tax), 2)"]),
])  # fmt: skip


class Lesson(Record):
    """The least that can be curated."""

    id: str
    request: str
    answer: str


def too_short(lesson: Lesson) -> str:
    return "answer too short" if len(lesson.answer) < 3 else ""


def lessons(count: int = 400) -> list[Lesson]:
    """Some that are short, some near to another, some that overlap with a guarded text."""
    chance = random.Random(7)
    made = []
    for n in range(count):
        request = " ".join("".join(chance.choices("abcdefghij", k=6)) for _ in range(12))
        answer = " ".join("".join(chance.choices("klmnopqr", k=6)) for _ in range(6))
        kind = n % 10
        if kind == 0:
            answer = "ok"
        elif kind == 1 and made:
            request, answer = made[-1].request + "!", made[-1].answer.upper()
        elif kind == 2:
            request = f"{GUARDED.suites[0].texts[0]} {n}"
        elif kind == 3:
            answer = f"{answer}\n> {GUARDED.suites[1].texts[0]}"
        elif kind == 4 and made:
            request, answer = made[-1].request, made[-1].answer + " but not this one, number " + str(n)
        made.append(Lesson(id=f"{chance.getrandbits(64):016x}", request=request, answer=answer))
    return made


def sifted(items: Sequence[Lesson], shards: int = 1, run: Any = in_process) -> Sifted:
    return sift(items, too_short, GUARDED, shards=shards, run=run)


@given(st.lists(st.integers()), st.integers(1, 12))
def test_shards_are_of_one_size_and_merge_to_the_same(work: list[int], count: int) -> None:
    parts = shard(work, count)
    assert merge(parts) == work
    assert len(parts) == count
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_no_shards_are_refused() -> None:
    with pytest.raises(InputError, match="0 shards"):
        shard([1], 0)


def test_the_number_of_shards_and_the_order_change_nothing() -> None:
    made = lessons()
    first = sifted(made)
    assert set(first.funnel) == {
        "answer too short",
        "near duplicate",
        "overlaps with coding (exact)",
        "overlaps with recall (exact)",
    }
    assert len(first.kept) + len(first.dropped) == len(made)
    for shards in (2, 3, 7, 500):
        random.Random(shards).shuffle(made)
        again = sifted(made, shards)
        assert again == first
        assert again.digest == first.digest
    assert sifted(made[1:]).digest != first.digest


def test_each_shard_is_one_call_that_another_process_could_take() -> None:
    sizes: list[int] = []

    def watched(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        sizes.append(len(calls))
        return in_process(function, calls)

    sifted(lessons(40), 4, watched)
    assert sizes == [4, 4, 4]


def test_shards_find_the_duplicates_that_one_stream_finds() -> None:
    texts = [example_text(one.request, one.answer) for one in lessons()]
    one_stream = Deduplicator(lambda numbers: [texts[n] for n in numbers]).add(texts)
    assert near_duplicates(texts, shards=3) == one_stream
    assert one_stream


def test_the_same_question_with_another_answer_stays() -> None:
    question = GUARDED.suites[0].texts[0].replace("billing", "search").replace("staging", "test")
    pair = [Lesson(id=answer, request=question, answer=answer) for answer in ("8080", "8081")]
    assert sifted(pair).kept == ("8080", "8081")


def test_nothing_sifts_to_nothing() -> None:
    assert sifted([], 3).kept == ()


def test_two_workers_of_a_ray_cluster_give_the_same_digest() -> None:
    ray = pytest.importorskip("ray")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers have no tests
    made = lessons()
    with on_ray(workers=2) as run:
        assert sifted(made, 2, run).digest == sifted(made).digest
        assert sifted(made, 5, run) == sifted(made)
