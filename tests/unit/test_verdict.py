"""The verdict is a pure function: reproducible, within its error budget, and with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from academy.arena.signflip import INTERIM_SHARES, asking_position, groups_until
from academy.arena.suites.base import Role
from academy.arena.verdict import (
    BUDGET,
    FEWEST_GROUPS,
    HORIZON,
    LAST,
    MARGIN,
    Item,
    PairedResults,
    Verdict,
    compute_verdict,
    interval_of,
)


def paired(items: list[Item], role: Role = "target", name: str = "test") -> PairedResults:
    """A suite of which every question was asked."""
    return PairedResults(suite=name, role=role, groups=len({item.group for item in items}), items=tuple(items))


def judged(target: list[Item], spent_before: int, *others: PairedResults) -> Verdict:
    """The verdict on one target suite and on other suites."""
    return compute_verdict([paired(target), *others], spent_before)


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


def test_equal_challenger_is_held() -> None:
    verdict = judged(items((30, 1, 1), (30, 0, 0)), 0)
    assert verdict.outcome == "HOLD"
    assert verdict.target is not None
    assert (verdict.target.difference, verdict.target.p_gain, verdict.target.p_loss) == (0, 1, 1)
    assert verdict.because.startswith("the gain is not statistically significant")


def test_better_challenger_is_promoted() -> None:
    verdict = judged(items((20, 1, 1), (25, 0, 1), (5, 0, 0)), 0)
    assert (verdict.outcome, verdict.spends, verdict.level) == ("PROMOTE", True, BUDGET / HORIZON)
    assert verdict.target is not None
    assert (verdict.target.items, verdict.target.groups) == (100, 50)
    assert (verdict.target.champion, verdict.target.challenger, verdict.target.difference) == (0.4, 0.9, 0.5)
    assert verdict.target.low < 0.5 < verdict.target.high
    assert verdict.target.p_gain <= verdict.level
    assert "40.0% -> 90.0%" in verdict.because


def test_worse_challenger_is_rejected() -> None:
    verdict = judged(items((20, 1, 1), (25, 1, 0)), 0)
    assert verdict.outcome == "REJECT"
    assert verdict.because.startswith("it is worse")


def test_significant_guard_fall_rejects_despite_a_gain() -> None:
    verdict = judged([*items((20, 1, 0), (10, 1, 1), part="guard"), *items((200, 0, 1))], 0)
    assert verdict.outcome == "REJECT"
    assert verdict.because.startswith("it forgot what the champion knows")
    assert verdict.target is not None
    assert verdict.target.difference > 0


def test_guard_fall_beyond_the_margin_holds_without_significance() -> None:
    guard = items((3, 1, 0), (27, 1, 1), part="guard")
    verdict = judged([*guard, *items((60, 0, 1))], 0)
    assert verdict.guard is not None
    assert verdict.guard.p_loss > 0.005
    assert verdict.guard.difference < -MARGIN
    assert verdict.outcome == "HOLD"
    assert "on guard questions of test it fell by more than 5%" in verdict.because


def test_small_guard_fall_does_not_block_a_promotion() -> None:
    verdict = judged([*items((1, 1, 0), (29, 1, 1), part="guard"), *items((60, 0, 1))], 0)
    assert verdict.outcome == "PROMOTE"


def test_verdict_without_any_correct_answer_cannot_decide() -> None:
    verdict = judged(items((60, 0, 0)), 0)
    assert (verdict.outcome, verdict.spends) == ("CANNOT DECIDE", False)
    assert verdict.because.startswith("neither player answered any of 120 questions correctly")


def test_spent_budget_promotes_nothing_and_still_rejects() -> None:
    better, worse = items((12, 0, 1)), items((12, 1, 0))
    assert judged(better, HORIZON - 1).outcome == "PROMOTE"
    verdict = judged(better, HORIZON)
    assert (verdict.outcome, verdict.level) == ("HOLD", 0.0)
    assert "budget of 26 examinations is spent" in verdict.because
    assert judged(worse, HORIZON).outcome == "REJECT"


@pytest.mark.parametrize("groups", range(1, 9))
def test_too_few_groups_never_promote_however_many_questions(groups: int) -> None:
    assert judged(items((groups, 0, 1), each=50), 0).outcome == "HOLD"


def test_ten_groups_can_promote_and_the_p_value_is_exact() -> None:
    verdict = judged(items((10, 0, 1)), 0)
    assert verdict.outcome == "PROMOTE"
    assert verdict.target is not None
    assert verdict.target.p_gain == 2**-10


def test_wordings_of_one_answer_count_as_one_group() -> None:
    one = [*items((1, 0, 1), each=500), *items((10, 1, 1), (2, 1, 0), name="x")]
    verdict = judged(one, 0).target
    assert verdict is not None
    assert verdict.groups == 13
    assert verdict.difference == pytest.approx(-1 / 13)
    assert interval_of(one)[0] == pytest.approx(-1 / 13)


def test_verdict_without_questions_cannot_decide() -> None:
    verdict = judged([], 3)
    assert (verdict.outcome, verdict.spends, verdict.level) == ("CANNOT DECIDE", False, 0.0)


def test_smallest_detectable_gain_shrinks_with_more_groups() -> None:
    gains = [judged(items((n, 1, 1), (n, 0, 0)), 0).smallest_gain for n in (10, 40, 160)]
    assert [round(gain or 0, 3) for gain in gains] == sorted({round(gain or 0, 3) for gain in gains}, reverse=True)
    assert all(gains)


def test_p_value_is_exact_with_many_groups() -> None:
    verdict = judged(items((30, 0, 1)), 0)
    assert verdict.target is not None
    assert verdict.target.p_gain < 2**-11  # it crossed at the first analysis, after twelve groups
    balanced = judged(items((15, 0, 1), (15, 1, 0)), 0).target
    assert balanced is not None
    assert 0.3 < balanced.p_gain < 0.7


scores = st.sampled_from([0.0, 0.5, 1.0])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=12), st.integers(0, HORIZON + 1))
def test_verdict_is_reproducible_and_antisymmetric(pairs: list[tuple[float, float]], spent: int) -> None:
    asked = items(*((1, a, b) for a, b in pairs))
    swapped = items(*((1, b, a) for a, b in pairs))
    first = judged(asked, spent)
    assert first == judged(asked, spent)
    if first.target is None:
        assert first.outcome == "CANNOT DECIDE"
        return
    other = judged(swapped, spent).target
    assert other is not None
    assert other.difference == pytest.approx(-first.target.difference)
    assert not (first.outcome == "PROMOTE" and judged(swapped, spent).outcome == "PROMOTE")
    assert first.target.low <= first.target.difference <= first.target.high or len(pairs) < 3


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_item_refuses_a_score_that_is_not_finite(score: float) -> None:
    with pytest.raises(ValidationError):
        items((1, 0, score))


def test_levels_of_all_examinations_sum_to_the_budget() -> None:
    asked = items((10, 0, 1))
    levels = [judged(asked, spent).level for spent in range(HORIZON + 3)]
    assert sum(levels) == pytest.approx(BUDGET)


@pytest.mark.slow
def test_equal_challengers_are_promoted_in_few_series() -> None:
    """Eight series of 26 examinations between equal players. With 5 % for each one, three of four series would promote.

    60 answers with 2 wordings each, of which 11 answers differ by chance: few enough for a quick exact test, and
    enough for a promotion to be possible.
    """
    rng = np.random.default_rng(20260701)
    promoted = 0
    for _ in range(8):
        for spent in range(HORIZON):
            changes = rng.random((11, 2))
            asked = items(*((1, float(a), float(b)) for a, b in changes), (24, 1, 1), (25, 0, 0))
            if judged(asked, spent).outcome == "PROMOTE":
                promoted += 1
                break
    assert promoted <= 2  # more has a chance of 1 in 170 at 5 %


# Interim analyses


def part(results: list[Item], analysis: int, role: Role = "target", name: str = "test") -> PairedResults:
    """A suite as far as it was asked at an interim analysis."""
    order = sorted({item.group for item in results}, key=asking_position)
    due = set(order[: groups_until(analysis, len(order))])
    asked = tuple(item for item in results if item.group in due)
    return PairedResults(suite=name, role=role, groups=len(order), items=asked)


def test_large_gain_stops_the_examination_at_the_first_analysis() -> None:
    verdict = compute_verdict([part(items((60, 0, 1)), 0)], 0, 0)
    assert (verdict.outcome, verdict.analysis, verdict.share_asked) == ("PROMOTE", 0, INTERIM_SHARES[0])
    assert "stopped early after 40 % of the questions" in verdict.because


def test_small_gain_continues_to_the_final_analysis() -> None:
    asked = items((50, 1, 1), (7, 0, 1), (1, 1, 0))
    outcomes = [compute_verdict([part(asked, analysis)], 0, analysis).outcome for analysis in range(LAST + 1)]
    assert outcomes == ["CONTINUE"] * LAST + ["HOLD"]


def test_harmful_challenger_is_rejected_at_the_first_analysis() -> None:
    assert compute_verdict([part(items((60, 1, 0)), 0)], 0, 0).outcome == "REJECT"


def test_guard_fall_beyond_the_margin_delays_a_promotion_to_the_final_analysis() -> None:
    target = items((100, 0, 1))
    order = sorted({item.group for item in items((100, 1, 1))}, key=asking_position)
    early = set(order[:3])
    guard = [
        item.model_copy(update={"challenger": 0.0}) if item.group in early else item for item in items((100, 1, 1))
    ]
    first = compute_verdict([part(target, 0), part(guard, 0, "guard", "manners")], 0, 0)
    assert first.outcome == "CONTINUE"
    last = compute_verdict([part(target, LAST), part(guard, LAST, "guard", "manners")], 0, LAST)
    assert last.outcome == "PROMOTE"


# Several suites


def test_guard_suite_with_a_significant_fall_rejects() -> None:
    verdict = judged(items((60, 0, 1)), 0, paired(items((20, 1, 0), (20, 1, 1)), "guard", "manners"))
    assert verdict.outcome == "REJECT"
    assert "questions of manners" in verdict.because


def test_guard_suite_below_the_least_skill_has_no_effect() -> None:
    hopeless = paired(items((60, 0, 0), (3, 1, 0)), "guard", "coding")
    verdict = judged(items((60, 0, 1)), 0, hopeless)
    assert verdict.outcome == "PROMOTE"
    assert verdict.findings[1].unused.startswith("uninformative")


def test_guard_suite_with_few_groups_is_informational() -> None:
    few = paired(items((FEWEST_GROUPS - 1, 1, 0)), "guard", "few")
    verdict = judged(items((60, 0, 1)), 0, few)
    assert verdict.outcome == "PROMOTE"
    assert verdict.findings[1].unused == "informational: 19 independent groups (minimum 20)"
    assert FEWEST_GROUPS == 20


def test_informational_suite_has_no_effect() -> None:
    assert judged(items((60, 0, 1)), 0, paired(items((60, 1, 0)), "informational", "words")).outcome == "PROMOTE"
    assert compute_verdict([paired(items((60, 0, 1)), "informational")], 0).outcome == "CANNOT DECIDE"


def test_leak_suite_rejects_for_one_leak_despite_a_gain() -> None:
    leak = paired(items((5, 1, 1), (1, 1, 0), each=1), "leak", "leak")
    verdict = judged(items((60, 0, 1)), 0, leak)
    assert (verdict.outcome, verdict.because) == ("REJECT", "it reveals 1 of 6 items that curation removed")
    sound = paired(items((6, 0, 1), each=1), "leak", "leak")
    assert judged(items((60, 0, 1)), 0, sound).outcome == "PROMOTE"


def test_two_targets_share_the_level_of_one_examination() -> None:
    # ten groups that all gain have a chance of 2 ** -10: allowed for one target, not for half of the level
    one, other = items((10, 0, 1), (30, 1, 1)), items((40, 1, 1), name="y")
    assert judged(one, 0).outcome == "PROMOTE"
    assert BUDGET / HORIZON / 2 < 2**-10
    assert judged(one, 0, paired(other, "target", "second")).outcome == "HOLD"
    stronger = items((14, 0, 1), (30, 1, 1))
    assert judged(stronger, 0, paired(other, "target", "second")).outcome == "PROMOTE"
    fallen = paired(items((20, 1, 0), (20, 1, 1), name="z"), "target", "second")
    assert judged(stronger, 0, fallen).outcome == "REJECT"
