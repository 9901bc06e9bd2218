"""The verdict is a pure function: reproducible, within its error budget, and it says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from academy.arena.signflip import LOOKS, asked_until, place
from academy.arena.suites.base import Role
from academy.arena.verdict import (
    BUDGET,
    FEWEST_GROUPS,
    HORIZON,
    LAST,
    MARGIN,
    Item,
    Paired,
    Verdict,
    interval_of,
    judge,
)


def paired(items: list[Item], role: Role = "target", name: str = "test") -> Paired:
    """A suite that was asked whole."""
    return Paired(suite=name, role=role, groups=len({item.group for item in items}), items=tuple(items))


def judged(found: list[Item], looks_before: int, *others: Paired) -> Verdict:
    """The verdict on one target suite, and others beside it."""
    return judge([paired(found), *others], looks_before)


def items(*runs: tuple[int, float, float], part: str = "new", each: int = 2, name: str = "") -> list[Item]:
    """Groups of `each` items: (how many groups, the champion's score, the challenger's score)."""
    scores = [(champion, challenger) for count, champion, challenger in runs for _ in range(count)]
    return [
        Item(
            question=f"{name}{part}-{group}-{n}", group=f"{name}{part}-{group}", slice=part, champion=a, challenger=b,
        )
        for group, (a, b) in enumerate(scores)
        for n in range(each)
    ]  # fmt: skip


# Verdicts


def test_an_equal_challenger_is_held() -> None:
    found = judged(items((30, 1, 1), (30, 0, 0)), 0)
    assert found.outcome == "HOLD"
    assert found.target is not None
    assert (found.target.difference, found.target.p_gain, found.target.p_loss) == (0, 1, 1)
    assert found.because.startswith("the gain cannot be told from chance")


def test_a_better_challenger_is_promoted() -> None:
    found = judged(items((20, 1, 1), (25, 0, 1), (5, 0, 0)), 0)
    assert (found.outcome, found.spends, found.level) == ("PROMOTE", True, BUDGET / HORIZON)
    assert found.target is not None
    assert (found.target.items, found.target.groups) == (100, 50)
    assert (found.target.champion, found.target.challenger, found.target.difference) == (0.4, 0.9, 0.5)
    assert found.target.low < 0.5 < found.target.high
    assert found.target.p_gain <= found.level
    assert "40.0% -> 90.0%" in found.because


def test_a_worse_challenger_is_rejected() -> None:
    found = judged(items((20, 1, 1), (25, 1, 0)), 0)
    assert found.outcome == "REJECT"
    assert found.because.startswith("it is worse")


def test_a_fall_on_the_guard_rejects_whatever_is_gained() -> None:
    found = judged([*items((20, 1, 0), (10, 1, 1), part="guard"), *items((200, 0, 1))], 0)
    assert found.outcome == "REJECT"
    assert found.because.startswith("it forgot what the champion knows")
    assert found.target is not None
    assert found.target.difference > 0


def test_a_fall_on_the_guard_beyond_the_margin_holds_though_it_may_be_chance() -> None:
    guard = items((3, 1, 0), (27, 1, 1), part="guard")
    found = judged([*guard, *items((60, 0, 1))], 0)
    assert found.guard is not None
    assert found.guard.p_loss > 0.005
    assert found.guard.difference < -MARGIN
    assert found.outcome == "HOLD"
    assert "on guard questions of test it fell by more than 5%" in found.because


def test_a_small_fall_on_the_guard_does_not_stop_a_gain() -> None:
    found = judged([*items((1, 1, 0), (29, 1, 1), part="guard"), *items((60, 0, 1))], 0)
    assert found.outcome == "PROMOTE"


def test_zero_everywhere_tells_nothing() -> None:
    found = judged(items((60, 0, 0)), 0)
    assert (found.outcome, found.spends) == ("CANNOT DECIDE", False)
    assert found.because.startswith("neither player answered one of 120 questions rightly")


def test_a_spent_budget_promotes_nothing_and_still_rejects() -> None:
    better, worse = items((12, 0, 1)), items((12, 1, 0))
    assert judged(better, HORIZON - 1).outcome == "PROMOTE"
    found = judged(better, HORIZON)
    assert (found.outcome, found.level) == ("HOLD", 0.0)
    assert "budget of 26 examinations is used up" in found.because
    assert judged(worse, HORIZON).outcome == "REJECT"


@pytest.mark.parametrize("groups", range(1, 9))
def test_too_few_answers_promote_nothing_however_many_questions(groups: int) -> None:
    assert judged(items((groups, 0, 1), each=50), 0).outcome == "HOLD"


def test_ten_answers_can_promote_and_the_p_value_is_exact() -> None:
    found = judged(items((10, 0, 1)), 0)
    assert found.outcome == "PROMOTE"
    assert found.target is not None
    assert found.target.p_gain == 2**-10


def test_wordings_of_one_answer_count_once() -> None:
    one = [*items((1, 0, 1), each=500), *items((10, 1, 1), (2, 1, 0), name="x")]
    found = judged(one, 0).target
    assert found is not None
    assert found.groups == 13
    assert found.difference == pytest.approx(-1 / 13)
    assert interval_of(one)[0] == pytest.approx(-1 / 13)


def test_no_questions_cannot_decide() -> None:
    found = judged([], 3)
    assert (found.outcome, found.spends, found.level) == ("CANNOT DECIDE", False, 0.0)


def test_the_smallest_gain_that_could_be_seen_shrinks_with_more_answers() -> None:
    gains = [judged(items((n, 1, 1), (n, 0, 0)), 0).smallest_gain for n in (10, 40, 160)]
    assert None not in gains
    assert gains == sorted(gains, reverse=True)  # type: ignore[type-var]


def test_the_tail_is_exact_however_many_answers_there_are() -> None:
    found = judged(items((30, 0, 1)), 0)
    assert found.target is not None
    assert found.target.p_gain < 2**-11  # it crossed at the first look, after twelve groups
    balanced = judged(items((15, 0, 1), (15, 1, 0)), 0).target
    assert balanced is not None
    assert 0.3 < balanced.p_gain < 0.7


scores = st.sampled_from([0.0, 0.5, 1.0])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=12), st.integers(0, HORIZON + 1))
def test_a_verdict_is_reproducible_and_swapping_the_players_swaps_it(
    pairs: list[tuple[float, float]], looks: int
) -> None:
    asked = items(*((1, a, b) for a, b in pairs))
    swapped = items(*((1, b, a) for a, b in pairs))
    first = judged(asked, looks)
    assert first == judged(asked, looks)
    if first.target is None:
        assert first.outcome == "CANNOT DECIDE"
        return
    other = judged(swapped, looks).target
    assert other is not None
    assert other.difference == pytest.approx(-first.target.difference)
    assert not (first.outcome == "PROMOTE" and judged(swapped, looks).outcome == "PROMOTE")
    assert first.target.low <= first.target.difference <= first.target.high or len(pairs) < 3


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    with pytest.raises(ValidationError):
        items((1, 0, score))


def test_all_looks_together_may_spend_the_budget_and_no_more() -> None:
    asked = items((10, 0, 1))
    levels = [judged(asked, looks).level for looks in range(HORIZON + 3)]
    assert sum(levels) == pytest.approx(BUDGET)


@pytest.mark.slow
def test_equal_challengers_are_promoted_in_few_lives() -> None:
    """Eight lives of 26 examinations between equal players. Were each look held to 5 %, three lives of four would fail.

    60 answers with 2 wordings each, of which 11 answers differ by chance: few enough for a quick exact test, and
    enough for it to be able to promote.
    """
    rng = np.random.default_rng(20260701)
    promoted = 0
    for _ in range(8):
        for looks in range(HORIZON):
            moved = rng.random((11, 2))
            asked = items(*((1, float(a), float(b)) for a, b in moved), (24, 1, 1), (25, 0, 0))
            if judged(asked, looks).outcome == "PROMOTE":
                promoted += 1
                break
    assert promoted <= 2  # more has a chance of 1 in 170 at 5 %


# Looks


def part(found: list[Item], look: int, role: Role = "target", name: str = "test") -> Paired:
    """A suite as far as it was asked at a look."""
    order = sorted({item.group for item in found}, key=place)
    due = set(order[: asked_until(look, len(order))])
    asked = tuple(item for item in found if item.group in due)
    return Paired(suite=name, role=role, groups=len(order), items=asked)


def test_a_large_gain_is_told_at_the_first_look_and_says_so() -> None:
    found = judge([part(items((60, 0, 1)), 0)], 0, 0)
    assert (found.outcome, found.look, found.asked) == ("PROMOTE", 0, LOOKS[0])
    assert "told after 40% of the questions" in found.because


def test_a_small_gain_goes_on_to_the_last_look() -> None:
    asked = items((50, 1, 1), (7, 0, 1), (1, 1, 0))
    outcomes = [judge([part(asked, look)], 0, look).outcome for look in range(LAST + 1)]
    assert outcomes == ["GO ON"] * LAST + ["HOLD"]


def test_a_harmful_challenger_is_rejected_before_the_end() -> None:
    assert judge([part(items((60, 1, 0)), 0)], 0, 0).outcome == "REJECT"


def test_a_guard_that_fell_beyond_the_margin_stops_an_early_promotion_and_not_the_examination() -> None:
    target = items((100, 0, 1))
    order = sorted({item.group for item in items((100, 1, 1))}, key=place)
    early = set(order[:3])
    guard = [
        item.model_copy(update={"challenger": 0.0}) if item.group in early else item for item in items((100, 1, 1))
    ]
    first = judge([part(target, 0), part(guard, 0, "guard", "manners")], 0, 0)
    assert first.outcome == "GO ON"
    last = judge([part(target, LAST), part(guard, LAST, "guard", "manners")], 0, LAST)
    assert last.outcome == "PROMOTE"


# Several suites


def test_a_fall_on_a_guard_suite_rejects() -> None:
    found = judged(items((60, 0, 1)), 0, paired(items((20, 1, 0), (20, 1, 1)), "guard", "manners"))
    assert found.outcome == "REJECT"
    assert "questions of manners" in found.because


def test_a_guard_suite_at_which_nobody_can_do_anything_neither_helps_nor_blocks() -> None:
    hopeless = paired(items((60, 0, 0), (3, 1, 0)), "guard", "coding")
    found = judged(items((60, 0, 1)), 0, hopeless)
    assert found.outcome == "PROMOTE"
    assert found.findings[1].unused.startswith("uninformative")


def test_a_guard_suite_with_few_groups_is_only_told() -> None:
    few = paired(items((FEWEST_GROUPS - 1, 1, 0)), "guard", "few")
    found = judged(items((60, 0, 1)), 0, few)
    assert found.outcome == "PROMOTE"
    assert "too few to see a fall" in found.findings[1].unused


def test_a_suite_that_is_told_decides_nothing() -> None:
    assert judged(items((60, 0, 1)), 0, paired(items((60, 1, 0)), "told", "words")).outcome == "PROMOTE"
    assert judge([paired(items((60, 0, 1)), "told")], 0).outcome == "CANNOT DECIDE"


def test_one_leak_rejects_whatever_is_gained() -> None:
    leak = paired(items((5, 1, 1), (1, 1, 0), each=1), "leak", "leak")
    found = judged(items((60, 0, 1)), 0, leak)
    assert (found.outcome, found.because) == ("REJECT", "it gives back 1 of 6 things that were taken out")
    sound = paired(items((6, 0, 1), each=1), "leak", "leak")
    assert judged(items((60, 0, 1)), 0, sound).outcome == "PROMOTE"


def test_two_targets_share_the_level_of_an_examination() -> None:
    # ten groups that all gain have a chance of 2 ** -10: allowed for one target, not for half of the level
    one, other = items((10, 0, 1), (30, 1, 1)), items((40, 1, 1), name="y")
    assert judged(one, 0).outcome == "PROMOTE"
    assert BUDGET / HORIZON / 2 < 2**-10
    assert judged(one, 0, paired(other, "target", "second")).outcome == "HOLD"
    stronger = items((14, 0, 1), (30, 1, 1))
    assert judged(stronger, 0, paired(other, "target", "second")).outcome == "PROMOTE"
    fallen = paired(items((20, 1, 0), (20, 1, 1), name="z"), "target", "second")
    assert judged(stronger, 0, fallen).outcome == "REJECT"
