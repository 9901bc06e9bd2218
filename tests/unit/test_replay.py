"""Replay draws earlier examples by hash, spread over answers, and never from the examination."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.curriculum.replay import MAX_SHARE, SHARE, EarlierExample, draw_replay, replay_count, share_after
from academy.errors import InputError


def examples(groups: int, each: int) -> list[EarlierExample]:
    return [
        EarlierExample(id=f"{g}/{n}", group=f"answer {g}", origin=f"o{g}/{n}")
        for g in range(groups)
        for n in range(each)
    ]


@given(st.integers(0, 10_000), st.floats(0, MAX_SHARE))
def test_replayed_examples_have_their_share_of_the_set(new: int, share: float) -> None:
    assert replay_count(new, share) == pytest.approx(share * (new + replay_count(new, share)), abs=1)


def test_a_share_out_of_range_is_rejected() -> None:
    for share in (-0.1, MAX_SHARE + 0.01, float("nan")):
        with pytest.raises(InputError, match="replay share"):
            replay_count(100, share)


def test_the_draw_does_not_depend_on_the_order() -> None:
    earlier = examples(300, 20)
    first = draw_replay(earlier, 400, seed="generation 3")
    for n in range(3):
        random.Random(n).shuffle(earlier)
        assert draw_replay(iter(earlier + earlier[:50]), 400, seed="generation 3") == first
    assert len(first) == 100
    assert draw_replay(earlier, 400, seed="generation 4") != first


def test_answers_take_turns() -> None:
    few = [EarlierExample(id=f"few {n}", group="few") for n in range(3)]
    many = [EarlierExample(id=f"many {n}", group="many") for n in range(5000)]
    chosen = draw_replay(many + few, 40)
    assert len(chosen) == 10
    assert sum(name.startswith("few") for name in chosen) == 3
    spread = draw_replay(examples(300, 20), 400)
    assert len({name.partition("/")[0] for name in spread}) == 100


def test_discarding_candidates_early_changes_nothing() -> None:
    """The pool is cut while reading; what is left is what sorting everything would give."""
    earlier = examples(40, 300) + examples(3000, 1)
    whole = draw_replay(earlier, 800, 0.2)
    assert whole == draw_replay(earlier[::-1], 800, 0.2)
    assert set(draw_replay(earlier, 400, 0.2)) < set(whole), "a smaller draw is the beginning of a larger one"


def test_held_out_and_new_examples_are_never_drawn() -> None:
    earlier = examples(10, 4)
    held = {"0/0", "o1/1"}
    chosen = draw_replay(earlier, 400, 0.5, new_ids={"2/2"}, held_out=held)
    assert set(chosen) == {one.id for one in earlier} - {"0/0", "1/1", "2/2"}


def test_an_empty_history_gives_no_replay() -> None:
    assert draw_replay([], 100) == ()
    assert draw_replay(examples(3, 3), 0) == ()


def test_the_share_rises_after_a_fall_of_the_guard_and_sinks_slowly() -> None:
    assert share_after(SHARE, None, None) == SHARE
    assert share_after(SHARE, 0.02, -0.01) == SHARE
    assert share_after(SHARE, -0.01, -0.05) == pytest.approx(0.3)
    assert share_after(SHARE, -0.08, -0.2) == pytest.approx(0.4)
    assert share_after(0.4, 0.0, -0.02) == pytest.approx(0.35)
    assert share_after(0.4, None, None) == 0.4


@given(st.floats(0, 1), st.none() | st.floats(-1, 1), st.none() | st.floats(-1, 1), st.floats(0, MAX_SHARE))
def test_the_share_stays_within_its_bounds(
    previous: float, difference: float | None, low: float | None, normal: float
) -> None:
    share = share_after(previous, difference, low, normal=normal)
    assert normal <= share <= MAX_SHARE
    assert replay_count(100, share) >= 0
    if difference is not None and difference < 0:
        assert share >= min(MAX_SHARE, previous)
