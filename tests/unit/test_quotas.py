"""Sources and authors keep their quotas, and a one-sided set raises alarms."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.curriculum.quotas import (
    Diversity,
    QuotaEntry,
    alarms,
    diversity,
    drops,
    first_words,
    mean_nearest,
    over_share,
    sample_ids,
)

records = st.lists(
    st.builds(
        QuotaEntry,
        id=st.uuids(version=4).map(str),
        source=st.sampled_from(["lessons", "git:a", "git:b"]),
        author=st.sampled_from(["", "ana", "bo"]),
        tokens=st.integers(1, 50),
        model_made=st.booleans(),
        at=st.sampled_from(["2026-01", "2026-02", "2026-03"]),
    ),
    max_size=40,
)


def share(name: str, at: str = "", **more: object) -> QuotaEntry:
    return QuotaEntry.model_validate({"id": name, "source": "lessons", "at": at, **more})


@given(records, st.integers(0, 10), st.integers(0, 10), st.floats(0, 1), st.randoms(use_true_random=False))
def test_quotas_and_the_cap_hold_in_any_order(
    shares: list[QuotaEntry], source: int, author: int, cap: float, chance: random.Random
) -> None:
    found = drops(shares, per_source=source, per_author=author, model_made=cap)
    left = [one for one in shares if one.id not in found]
    assert all(n <= source for n in Counter(one.source for one in left).values())
    assert all(n <= author for name, n in Counter(one.author for one in left).items() if name)
    made = sum(one.tokens for one in left if one.model_made)
    assert made <= cap * sum(one.tokens for one in left) + 1e-6
    chance.shuffle(shares)
    assert drops(shares, per_source=source, per_author=author, model_made=cap) == found


def test_the_newest_entries_stay_and_of_equal_ones_the_smaller_id() -> None:
    shares = [share("b", "2026-02"), share("c", "2026-01"), share("a", "2026-02"), share("d", "2026-02")]
    assert drops(shares, per_source=2) == {
        "c": "over the quota of source lessons",
        "d": "over the quota of source lessons",
    }


def test_a_quota_can_be_set_by_name() -> None:
    shares = [share(f"{author}{n}", author=author) for author in ("ana", "bo") for n in range(3)]
    found = drops(shares, per_author={"ana": 1})
    assert Counter(found.values()) == {"over the quota of author ana": 2}


def test_an_empty_author_has_no_quota() -> None:
    assert drops([share(str(n)) for n in range(9)], per_author=1) == {}


def test_an_example_has_one_reason() -> None:
    shares = [share(str(n), author="ana", model_made=True) for n in range(10)] + [share("x", author="bo")]
    found = drops(shares, per_source=8, per_author=4)
    assert Counter(found.values()) == {
        "over the quota of author ana": 4,
        "over the quota of source lessons": 3,
        "over the share of model-made examples": 4,
    }


def test_model_made_examples_fill_at_most_their_share() -> None:
    shares = [share(f"p{n}", tokens=7) for n in range(10)] + [share(f"m{n}", model_made=True) for n in range(100)]
    assert len(drops(shares)) == 70
    assert drops(shares, model_made=1) == {}
    only = [share(str(n), model_made=True) for n in range(3)]
    assert len(over_share(only)) == 3


def test_a_long_example_that_does_not_fit_leaves_room_for_a_short_one() -> None:
    shares = [share("p", tokens=10), share("long", "2", model_made=True, tokens=9), share("m", "1", model_made=True)]
    assert list(drops(shares)) == ["long"]


def test_the_effective_number_of_answers_is_exact_for_equal_shares() -> None:
    assert diversity("abcd", "wxyz", []).answers == pytest.approx(4)
    assert diversity("aaaa", "wxyz", []).answers == pytest.approx(1)
    assert 1 < diversity("aaab", "wxyz", []).answers < 2
    assert diversity([], [], []).examples == 0


def test_mean_nearest_compares_with_the_nearest_other_text() -> None:
    assert mean_nearest(["restart the worker", "restart the worker"]) == 1
    assert mean_nearest(["restart the worker", "zażółć gęślą jaźń"]) == 0
    assert mean_nearest(["alone"]) == 0


def test_a_diverse_set_raises_no_alarm_and_a_one_sided_one_raises_all() -> None:
    chance = random.Random(0)
    texts = ["".join(chance.choices("abcdefghijklmnop", k=40)) for _ in range(100)]
    assert alarms(diversity(texts, map(first_words, texts), texts[:50])) == ()
    same = [f"I am sorry, but I cannot help with request {n % 2}" for n in range(100)]
    said = alarms(diversity(same, map(first_words, same), same[:50]))
    assert len(said) == 4
    assert "One answer makes 50%" in said[0]


def test_a_small_set_raises_no_alarm() -> None:
    found = Diversity(examples=3, answers=1, most_frequent_answer=1, most_frequent_opening=1, nearest=1)
    assert alarms(found) == ()


def test_the_sample_does_not_depend_on_the_order() -> None:
    names = [str(n) for n in range(5000)]
    first = sample_ids(names)
    random.Random(1).shuffle(names)
    assert sample_ids(iter(names)) == first
    assert len(first) == 200
    assert sample_ids(names[:5]) == sorted(names[:5])
