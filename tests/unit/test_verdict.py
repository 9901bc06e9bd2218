"""The verdict is reproducible, keeps within its error budget, and a dead examination decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from academy.arena.bout import CHUNK, examine, why_dead
from academy.arena.suite import Generation, Question
from academy.arena.verdict import BUDGET, FLIPS, GUARD_MARGIN, HORIZON, Item, Verdict, estimate, judge
from academy.artifacts import digest_of
from academy.errors import AcademyError

GENERATION = Generation(max_new_tokens=32)


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
    found = judge(items((30, 1, 1), (30, 0, 0)), 0)
    assert found.outcome == "HOLD"
    assert found.target is not None
    assert (found.target.difference, found.target.p_gain, found.target.p_loss) == (0, 1, 1)
    assert found.because.startswith("the gain cannot be told from chance")


def test_a_better_challenger_is_promoted() -> None:
    found = judge(items((20, 1, 1), (25, 0, 1), (5, 0, 0)), 0)
    assert (found.outcome, found.spends, found.level) == ("PROMOTE", True, BUDGET / HORIZON)
    assert found.target is not None
    assert (found.target.items, found.target.groups) == (100, 50)
    assert (found.target.champion, found.target.challenger, found.target.difference) == (0.4, 0.9, 0.5)
    assert found.target.low < 0.5 < found.target.high
    assert found.target.p_gain <= found.level
    assert "40.0% -> 90.0%" in found.because


def test_a_worse_challenger_is_rejected() -> None:
    found = judge(items((20, 1, 1), (25, 1, 0)), 0)
    assert found.outcome == "REJECT"
    assert found.because.startswith("it is worse")


def test_a_fall_on_the_guard_rejects_whatever_is_gained() -> None:
    found = judge([*items((20, 1, 0), (10, 1, 1), part="guard"), *items((200, 0, 1))], 0)
    assert found.outcome == "REJECT"
    assert found.because.startswith("it forgot what the champion knows")
    assert found.target is not None
    assert found.target.difference > 0


def test_a_fall_on_the_guard_beyond_the_margin_holds_though_it_may_be_chance() -> None:
    guard = items((3, 1, 0), (27, 1, 1), part="guard")
    found = judge([*guard, *items((60, 0, 1))], 0)
    assert found.guard is not None
    assert found.guard.p_loss > 0.01
    assert found.guard.difference < -GUARD_MARGIN
    assert found.outcome == "HOLD"
    assert "on the guard questions it fell by more than 5%" in found.because


def test_a_small_fall_on_the_guard_does_not_stop_a_gain() -> None:
    found = judge([*items((1, 1, 0), (29, 1, 1), part="guard"), *items((60, 0, 1))], 0)
    assert found.outcome == "PROMOTE"


def test_zero_everywhere_tells_nothing() -> None:
    found = judge(items((60, 0, 0)), 0)
    assert found.outcome == "HOLD"
    assert found.because.startswith("neither player answered one of 120 questions rightly")


def test_a_spent_budget_promotes_nothing_and_still_rejects() -> None:
    better, worse = items((12, 0, 1)), items((12, 1, 0))
    assert judge(better, HORIZON - 1).outcome == "PROMOTE"
    found = judge(better, HORIZON)
    assert (found.outcome, found.level) == ("HOLD", 0.0)
    assert "budget of 26 examinations is used up" in found.because
    assert judge(worse, HORIZON).outcome == "REJECT"


@pytest.mark.parametrize("groups", range(1, 9))
def test_too_few_answers_promote_nothing_however_many_questions(groups: int) -> None:
    assert judge(items((groups, 0, 1), each=50), 0).outcome == "HOLD"


def test_ten_answers_can_promote_and_the_p_value_is_exact() -> None:
    found = judge(items((10, 0, 1)), 0)
    assert found.outcome == "PROMOTE"
    assert found.target is not None
    assert found.target.p_gain == 2**-10


def test_wordings_of_one_answer_count_once() -> None:
    one = [*items((1, 0, 1), each=500), *items((10, 1, 1), (2, 1, 0), name="x")]
    found = estimate(one)
    assert found.groups == 13
    assert found.difference == pytest.approx(-1 / 13)


def test_no_questions_cannot_decide() -> None:
    found = judge([], 3)
    assert (found.outcome, found.spends, found.level) == ("CANNOT DECIDE", False, 0.0)


def test_the_smallest_gain_that_could_be_seen_shrinks_with_more_answers() -> None:
    gains = [judge(items((n, 1, 1), (n, 0, 0)), 0).smallest_gain for n in (10, 40, 160)]
    assert None not in gains
    assert gains == sorted(gains, reverse=True)  # type: ignore[type-var]


def test_many_answers_are_judged_by_sampled_flips_never_below_their_resolution() -> None:
    found = judge(items((30, 0, 1)), 0)
    assert found.target is not None
    assert found.target.p_gain == 1 / (FLIPS + 1)
    balanced = estimate(items((15, 0, 1), (15, 1, 0)))
    assert 0.45 < balanced.p_gain < 0.65


scores = st.sampled_from([0.0, 0.5, 1.0])


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=12), st.integers(0, HORIZON + 1))
def test_a_verdict_is_reproducible_and_swapping_the_players_swaps_it(
    pairs: list[tuple[float, float]], looks: int
) -> None:
    asked = items(*((1, a, b) for a, b in pairs))
    swapped = items(*((1, b, a) for a, b in pairs))
    first = judge(asked, looks)
    assert first == judge(asked, looks)
    assert first.target is not None
    other = estimate(swapped)
    assert other.p_gain == pytest.approx(first.target.p_loss)
    assert other.difference == pytest.approx(-first.target.difference)
    assert not (first.outcome == "PROMOTE" and judge(swapped, looks).outcome == "PROMOTE")
    assert first.target.low <= first.target.difference <= first.target.high or len(pairs) < 3


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(score: float) -> None:
    with pytest.raises(ValidationError):
        items((1, 0, score))


def test_all_looks_together_may_spend_the_budget_and_no_more() -> None:
    asked = items((10, 0, 1))
    levels = [judge(asked, looks).level for looks in range(HORIZON + 3)]
    assert sum(levels) == pytest.approx(BUDGET)


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
            if judge(asked, looks).outcome == "PROMOTE":
                promoted += 1
                break
    assert promoted <= 2  # more has a chance of 1 in 170 at 5 %


# Liveness


class InTestSuite:
    """Questions of answers with two wordings, few enough for exact tests, and a grader to be broken."""

    name = "test"
    decisive = True

    def __init__(self, answers: int = 16, grade: Callable[[Question, str], float] | None = None) -> None:
        self._grade = grade or exact
        self._questions = tuple(
            Question(
                id=f"q{n:03}-{wording}", request=f"request {n} in wording {wording}", reference=f"answer {n}",
                group=f"answer {n}", slice="guard" if n % 2 else "new",
            )
            for n in range(answers)
            for wording in range(2)
        )  # fmt: skip

    @property
    def digest(self) -> str:
        return digest_of([q.model_dump(mode="json") for q in self._questions])

    def questions(self) -> Sequence[Question]:
        return self._questions

    def grade(self, question: Question, answer: str) -> float:
        return self._grade(question, answer)


def exact(question: Question, answer: str) -> float:
    return float(answer == question.reference)


class InTestPlayer:
    """Answers from a dictionary, and counts what it is asked."""

    def __init__(self, identity: str, known: dict[str, str]) -> None:
        self.identity = identity
        self.known = known
        self.asked: list[str] = []

    def answer(self, requests: Sequence[str], generation: Generation) -> list[str]:
        self.asked += requests
        return [self.known.get(request, "I do not know") for request in requests]


def player_of(suite: InTestSuite, identity: str, knows: Callable[[int], bool]) -> InTestPlayer:
    pairs = {q.request: q.reference for q in suite.questions() if knows(int(q.id[1:4]))}
    return InTestPlayer(identity * 64, pairs)


def held(suite: InTestSuite, folder: Path) -> Verdict:
    """The best possible challenger against a champion that knows nothing."""
    champion, challenger = player_of(suite, "a", lambda _: False), player_of(suite, "b", lambda _: True)
    return examine(champion, challenger, [(suite, GENERATION)], looks_before=0, answers=folder).verdict


def test_a_sound_suite_is_alive() -> None:
    assert why_dead(InTestSuite()) == ""


def remembering() -> Callable[[Question, str], float]:
    """Takes whatever it saw first for right."""
    seen: dict[str, str] = {}
    return lambda question, answer: float(seen.setdefault(question.id, answer) == answer)


def alternating() -> Callable[[Question, str], float]:
    """Grades every second question as right, whatever the answer."""
    count = iter(range(10**6))
    return lambda _q, _answer: float(next(count) % 2)


DEAD: dict[str, Callable[[], InTestSuite]] = {
    "always right": lambda: InTestSuite(grade=lambda _q, _answer: 1.0),
    "always wrong": lambda: InTestSuite(grade=lambda _q, _answer: 0.0),
    "inverted": lambda: InTestSuite(grade=lambda question, answer: 1 - exact(question, answer)),
    "empty suite": lambda: InTestSuite(answers=0),
    "too few answers": lambda: InTestSuite(answers=5),
    "shifted by one": lambda: InTestSuite(grade=lambda q, answer: float(answer == f"answer {int(q.id[1:4]) + 1}")),
    "rewards silence": lambda: InTestSuite(grade=lambda _q, answer: float(not answer)),
    "takes anything that is said": lambda: InTestSuite(
        grade=lambda _q, answer: float("answer" in answer or not answer)
    ),
    "remembers": lambda: InTestSuite(grade=remembering()),
    "alternates": lambda: InTestSuite(grade=alternating()),
    "hardly tells": lambda: InTestSuite(grade=lambda q, answer: exact(q, answer) * (q.id[1:4] < "004")),
}


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_examination_decides_nothing_and_spends_nothing(name: str, tmp_path: Path) -> None:
    found = held(DEAD[name](), tmp_path)
    assert found.outcome == "CANNOT DECIDE"
    assert not found.spends
    assert "not alive" in found.because or "no held-out questions" in found.because


def test_a_grader_that_raises_leaves_no_verdict(tmp_path: Path) -> None:
    def broken(question: Question, answer: str) -> float:
        raise RuntimeError(question.id)

    with pytest.raises((RuntimeError, AcademyError)):
        held(InTestSuite(grade=broken), tmp_path)


def test_a_grader_that_gives_no_number_leaves_no_verdict(tmp_path: Path) -> None:
    with pytest.raises((ValidationError, AcademyError)):
        held(InTestSuite(grade=lambda _q, _answer: float("nan")), tmp_path)


# Examinations


def test_an_examination_compares_two_players_on_the_same_questions(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    found = examine(champion, challenger, [(suite, GENERATION)], looks_before=2, answers=tmp_path)
    assert (found.verdict.outcome, found.verdict.looks_before) == ("PROMOTE", 2)
    (result,) = found.results
    assert [len(result.items), len(result.champion), len(result.challenger)] == [32, 32, 32]
    assert sum(answer.score for answer in result.champion) == 8
    assert result.lost == []


def test_what_was_lost_on_the_guard_is_told_with_what_was_said(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n not in {2, 3})
    found = examine(champion, challenger, [(suite, GENERATION)], looks_before=0, answers=tmp_path)
    assert found.results[0].lost == [("q003-0", "I do not know"), ("q003-1", "I do not know")]


def test_kept_answers_are_used_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion = player_of(suite, "a", lambda n: n < 4)
    runs = []
    for _ in range(2):
        challenger = player_of(suite, "b", lambda n: n < 16)
        runs.append(examine(champion, challenger, [(suite, GENERATION)], looks_before=0, answers=tmp_path))
    assert len(champion.asked) == len(set(champion.asked)) == 32
    assert challenger.asked == []
    assert runs[0] == runs[1]
    first = runs[0].save(tmp_path / "records").read_bytes()
    assert runs[1].save(tmp_path / "records").read_bytes() == first


def test_other_settings_and_other_players_have_answers_of_their_own(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    for generation in (GENERATION, Generation(max_new_tokens=64)):
        examine(champion, challenger, [(suite, generation)], looks_before=0, answers=tmp_path)
    assert (len(champion.asked), len(challenger.asked)) == (64, 64)


def test_a_killed_examination_goes_on_where_it_stopped(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class DyingPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[str]:
            if self.asked:
                raise Killed
            return super().answer(requests, generation)

    suite = InTestSuite(answers=33)
    champion, sound = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    dying = DyingPlayer(sound.identity, sound.known)
    with pytest.raises(Killed):
        examine(champion, dying, [(suite, GENERATION)], looks_before=0, answers=tmp_path / "one")
    resumed = examine(champion, sound, [(suite, GENERATION)], looks_before=0, answers=tmp_path / "one")
    assert len(dying.asked) == CHUNK
    assert len(sound.asked) == 66 - CHUNK
    assert resumed == examine(champion, sound, [(suite, GENERATION)], looks_before=0, answers=tmp_path / "two")


def test_a_player_that_leaves_answers_out_leaves_no_verdict(tmp_path: Path) -> None:
    class ShortPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[str]:
            return super().answer(requests, generation)[:-1]

    suite = InTestSuite()
    with pytest.raises(ValueError, match="zip"):
        examine(
            player_of(suite, "a", lambda n: n < 4), ShortPlayer("b" * 64, {}), [(suite, GENERATION)],
            looks_before=0, answers=tmp_path,
        )  # fmt: skip


def test_a_suite_that_is_only_told_does_not_decide(tmp_path: Path) -> None:
    told: Any = InTestSuite()
    told.decisive = False
    found = held(told, tmp_path)
    assert found.outcome == "CANNOT DECIDE"
    suite = InTestSuite(answers=14)
    champion, challenger = player_of(suite, "a", lambda n: n < 7), player_of(suite, "c", lambda n: n < 7)
    both = examine(
        champion, challenger, [(suite, GENERATION), (told, GENERATION)], looks_before=0, answers=tmp_path
    ).verdict
    assert both.target is not None
    assert both.target.items == 28


def test_an_examination_is_named_by_its_players_and_questions(tmp_path: Path) -> None:
    suite, other = InTestSuite(), InTestSuite(answers=15)
    a, b = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    digests = {
        examine(first, second, [(one, GENERATION)], looks_before=0, answers=tmp_path).digest
        for first, second, one in ((a, b, suite), (b, a, suite), (a, b, other), (a, b, suite))
    }
    assert len(digests) == 3
