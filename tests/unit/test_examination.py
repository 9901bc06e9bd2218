"""Examinations: two players on the same questions, with a self-check, an answer cache and interim analyses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from academy.arena.answers import CHUNK
from academy.arena.examination import PROBE, Cost, Examination, examine, read_examination
from academy.arena.self_check import self_check_failure
from academy.arena.suites.base import Generation, Player, Question, Reply, Role
from academy.arena.verdict import Verdict
from academy.errors import ExaminationError
from academy.records import digest_of

GENERATION = Generation(max_new_tokens=32)


def examined(
    champion: Player, challenger: Player, suites: list[Any], folder: Path, spent_before: int = 0
) -> tuple[Examination, tuple[Cost, Cost]]:
    """An examination with the tests' settings."""
    return examine(
        champion, challenger, [(suite, GENERATION) for suite in suites], spent_before=spent_before, answers=folder
    )


# Self-check


class InTestSuite:
    """Answers with two wordings each, few enough for exact tests, and a grader that a test can break."""

    def __init__(
        self,
        answers: int = 16,
        grade: Callable[[Question, str], float] | None = None,
        role: Role = "target",
        name: str = "test",
    ) -> None:
        self.name, self.role = name, role
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

    def grade(self, question: Question, reply: Reply) -> float:
        return self._grade(question, reply.text)

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        return {"letters": float(len(reply.text))}

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        return Reply(text=question.reference if right else "")


def exact(question: Question, answer: str) -> float:
    return float(answer == question.reference)


class InTestPlayer:
    """Answers from a dictionary and records the requests."""

    def __init__(self, identity: str, answers: dict[str, str]) -> None:
        self.identity = identity
        self.answers = answers
        self.asked: list[str] = []

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        self.asked += requests
        texts = [self.answers.get(request, "I do not know") for request in requests]
        return [Reply(text=text, tokens=len(text.split()), first=0.25) for text in texts]


def player_of(suite: InTestSuite, identity: str, knows: Callable[[int], bool]) -> InTestPlayer:
    pairs = {q.request: q.reference for q in suite.questions() if knows(int(q.id[1:4]))}
    return InTestPlayer(identity * 64, pairs)


def best_verdict(suite: InTestSuite, folder: Path) -> Verdict:
    """The best possible challenger against a champion that knows nothing."""
    champion, challenger = player_of(suite, "a", lambda _: False), player_of(suite, "b", lambda _: True)
    return examined(champion, challenger, [suite], folder)[0].verdict


def test_self_check_passes_for_a_sound_suite() -> None:
    assert self_check_failure(InTestSuite()) == ""


def remembering() -> Callable[[Question, str], float]:
    """Grades the first answer that it sees as right."""
    first_answers: dict[str, str] = {}
    return lambda question, answer: float(first_answers.setdefault(question.id, answer) == answer)


def alternating() -> Callable[[Question, str], float]:
    """Grades every second question as right, whatever the answer."""
    count = iter(range(10**6))
    return lambda _q, _answer: float(next(count) % 2)


BROKEN: dict[str, tuple[Callable[[], InTestSuite], str]] = {
    "always right": (lambda: InTestSuite(grade=lambda _q, _answer: 1.0), "better model got HOLD instead of PROMOTE"),
    "always wrong": (
        lambda: InTestSuite(grade=lambda _q, _answer: 0.0),
        "equal model got CANNOT DECIDE instead of HOLD",
    ),
    "inverted": (
        lambda: InTestSuite(grade=lambda question, answer: 1 - exact(question, answer)),
        "better model got REJECT instead of PROMOTE",
    ),
    "too few answers": (lambda: InTestSuite(answers=5), "better model got HOLD instead of PROMOTE"),
    "shifted by one": (
        lambda: InTestSuite(grade=lambda q, answer: float(answer == f"answer {int(q.id[1:4]) + 1}")),
        "equal model got CANNOT DECIDE instead of HOLD",
    ),
    "rewards silence": (
        lambda: InTestSuite(grade=lambda _q, answer: float(not answer)),
        "better model got REJECT instead of PROMOTE",
    ),
    "accepts any answer": (
        lambda: InTestSuite(grade=lambda _q, answer: float("answer" in answer or not answer)),
        "better model got HOLD instead of PROMOTE",
    ),
    "remembers": (lambda: InTestSuite(grade=remembering()), "better model got REJECT instead of PROMOTE"),
    "accepts four answers only": (
        lambda: InTestSuite(grade=lambda q, answer: exact(q, answer) * (q.id[1:4] < "004")),
        "better model got HOLD instead of PROMOTE",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_suite_decides_nothing_and_spends_nothing(name: str, tmp_path: Path) -> None:
    make, reason = BROKEN[name]
    verdict = best_verdict(make(), tmp_path)
    assert (verdict.outcome, verdict.spends) == ("CANNOT DECIDE", False)
    assert verdict.because.startswith(f"Self-check failed for suite test: a simulated {reason} (")
    assert not list(tmp_path.iterdir()), "no player was asked"


def test_empty_suite_decides_nothing_and_spends_nothing(tmp_path: Path) -> None:
    verdict = best_verdict(InTestSuite(answers=0), tmp_path)
    assert (verdict.outcome, verdict.spends) == ("CANNOT DECIDE", False)
    assert verdict.because == "no held-out questions are available"


def test_grader_that_depends_on_the_order_fails_the_self_check(tmp_path: Path) -> None:
    verdict = best_verdict(InTestSuite(grade=alternating()), tmp_path)
    assert (verdict.outcome, verdict.spends) == ("CANNOT DECIDE", False)
    assert verdict.because.startswith("Self-check failed for suite test: a simulated ")


def test_grader_that_raises_cannot_decide(tmp_path: Path) -> None:
    def broken(question: Question, answer: str) -> float:
        raise RuntimeError(question.id)

    verdict = best_verdict(InTestSuite(grade=broken), tmp_path)
    assert (verdict.outcome, verdict.spends) == ("CANNOT DECIDE", False)
    assert "suite test: a control answer could not be graded. The grader failed on question q0" in verdict.because


def test_grader_that_raises_on_a_real_answer_cannot_decide(tmp_path: Path) -> None:
    def broken(question: Question, answer: str) -> float:
        if answer == "I do not know":
            raise RuntimeError(question.id)
        return exact(question, answer)

    verdict = best_verdict(InTestSuite(grade=broken), tmp_path)
    assert (verdict.outcome, verdict.spends) == ("CANNOT DECIDE", False)
    assert "test: The grader failed on question q" in verdict.because


def test_grader_without_a_score_from_0_to_1_cannot_decide(tmp_path: Path) -> None:
    verdict = best_verdict(InTestSuite(grade=lambda _q, _answer: float("nan")), tmp_path)
    assert verdict.outcome == "CANNOT DECIDE"
    too_high = InTestSuite(grade=lambda q, answer: 2.0 if answer == "I do not know" else exact(q, answer))
    assert "gave 2.0 for" in best_verdict(too_high, tmp_path).because


# Examinations


def test_examination_compares_two_players_on_the_same_questions(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    examination = examined(champion, challenger, [suite], tmp_path, 2)[0]
    assert (examination.verdict.outcome, examination.verdict.spent_before) == ("PROMOTE", 2)
    (result,) = examination.results
    assert [len(result.items), len(result.champion), len(result.challenger)] == [32, 32, 32]
    assert sum(answer.score for answer in result.champion) == 8
    assert result.lost == []


def test_lost_guard_questions_are_listed_with_the_challengers_answers(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n not in {2, 3})
    examination = examined(champion, challenger, [suite], tmp_path, 0)[0]
    assert examination.results[0].lost == [("q003-0", "I do not know"), ("q003-1", "I do not know")]


def test_answer_cache_prevents_asking_twice(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion = player_of(suite, "a", lambda n: n < 4)
    runs = []
    for _ in range(2):
        challenger = player_of(suite, "b", lambda n: n < 16)
        runs.append(examined(champion, challenger, [suite], tmp_path, 0)[0])
    assert len(champion.asked) == len(set(champion.asked)) == 32
    assert challenger.asked == []
    assert runs[0] == runs[1]
    first = runs[0].save(tmp_path / "records").read_bytes()
    assert runs[1].save(tmp_path / "records").read_bytes() == first


def test_answer_cache_separates_players_and_generation_settings(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    for generation in (GENERATION, Generation(max_new_tokens=64)):
        examine(champion, challenger, [(suite, generation)], spent_before=0, answers=tmp_path)
    assert (len(champion.asked), len(challenger.asked)) == (64, 64)


def test_killed_examination_resumes_where_it_stopped(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class DyingPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            if self.asked:
                raise Killed
            return super().answer(requests, generation)

    suite = InTestSuite(answers=100)
    champion, sound = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 90)
    dying = DyingPlayer(sound.identity, sound.answers)
    with pytest.raises(Killed):
        examined(champion, dying, [suite], tmp_path / "one", 0)[0]
    resumed = examined(champion, sound, [suite], tmp_path / "one", 0)[0]
    assert len(dying.asked) == CHUNK
    assert len(sound.asked) == 80 - CHUNK
    assert resumed == examined(champion, sound, [suite], tmp_path / "two", 0)[0]


def test_player_that_omits_answers_cannot_decide(tmp_path: Path) -> None:
    class ShortPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            return super().answer(requests, generation)[:-1]

    suite = InTestSuite()
    examination, _ = examined(player_of(suite, "a", lambda n: n < 4), ShortPlayer("b" * 64, {}), [suite], tmp_path)
    assert (examination.verdict.outcome, examination.verdict.spends) == ("CANNOT DECIDE", False)
    assert "gave 13 answers to 14 questions" in examination.verdict.because


def test_informational_suite_does_not_decide(tmp_path: Path) -> None:
    verdict = best_verdict(InTestSuite(role="informational"), tmp_path)
    assert verdict.outcome == "CANNOT DECIDE"
    suite, informational = InTestSuite(answers=14), InTestSuite(role="informational", name="informational")
    champion, challenger = player_of(suite, "a", lambda n: n < 7), player_of(suite, "c", lambda n: n < 7)
    both = examined(champion, challenger, [suite, informational], tmp_path)[0].verdict
    assert both.target is not None
    assert both.target.items == 28


def test_examination_digest_covers_players_and_questions(tmp_path: Path) -> None:
    suite, other = InTestSuite(), InTestSuite(answers=15)
    a, b = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    digests = {
        examined(first, second, [one], tmp_path)[0].digest
        for first, second, one in ((a, b, suite), (b, a, suite), (a, b, other), (a, b, suite))
    }
    assert len(digests) == 3


def test_examination_stops_as_soon_as_it_is_decided(tmp_path: Path) -> None:
    suite = InTestSuite(answers=100)
    champion, challenger = player_of(suite, "a", lambda n: n < 20), player_of(suite, "b", lambda n: n < 90)
    examination, costs = examined(champion, challenger, [suite], tmp_path)
    assert (examination.verdict.outcome, examination.verdict.analysis) == ("PROMOTE", 0)
    assert len(challenger.asked) == 80  # 40 of 100 answers, two wordings each
    assert [cost.asked for cost in costs] == [80, 80]
    again, free = examined(champion, challenger, [suite], tmp_path)
    assert again == examination
    assert [(cost.asked, cost.kept) for cost in free] == [(0, 80), (0, 80)]
    assert (costs[1].first_token, free[1].first_token) == (0.25, None)


def test_player_that_fails_cannot_decide_and_its_answers_stay_cached(tmp_path: Path) -> None:
    class LeavingPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            if self.asked:
                raise ExaminationError("The endpoint went away.", "Run it again.")
            return super().answer(requests, generation)

    suite = InTestSuite(answers=100)
    champion, sound = player_of(suite, "a", lambda n: n < 20), player_of(suite, "b", lambda n: n < 90)
    leaving = LeavingPlayer(sound.identity, sound.answers)
    examination, costs = examined(champion, leaving, [suite], tmp_path)
    assert (examination.verdict.outcome, examination.verdict.spends) == ("CANNOT DECIDE", False)
    assert "test: The endpoint went away. Run it again." in examination.verdict.because
    assert costs[1].asked == CHUNK
    later, _ = examined(champion, sound, [suite], tmp_path)
    assert later.verdict.outcome == "PROMOTE"
    assert len(sound.asked) == 80 - CHUNK


def test_guard_that_neither_player_answers_is_not_asked_further(tmp_path: Path) -> None:
    suite, hopeless = InTestSuite(answers=60), InTestSuite(answers=100, role="guard", name="hard")
    hopeless._questions = tuple(
        q.model_copy(update={"request": f"hard {q.id}", "reference": "42"}) for q in hopeless.questions()
    )
    champion, challenger = player_of(suite, "a", lambda n: n < 30), player_of(suite, "b", lambda n: n < 31)
    examination, _ = examined(champion, challenger, [suite, hopeless], tmp_path)
    assert examination.verdict.outcome == "HOLD"
    assert len(examination.results[0].items) == 120
    assert len(examination.results[1].items) == 2 * PROBE
    assert examination.verdict.findings[1].unused.startswith("uninformative")


def test_informative_guard_that_fails_the_self_check_cannot_decide(tmp_path: Path) -> None:
    suite, blind = InTestSuite(answers=60), InTestSuite(answers=60, role="guard", name="blind", grade=lambda *_: 1.0)
    champion, challenger = player_of(suite, "a", lambda n: n < 10), player_of(suite, "b", lambda n: n < 50)
    examination, _ = examined(champion, challenger, [suite, blind], tmp_path)
    assert (examination.verdict.outcome, examination.verdict.spends) == ("CANNOT DECIDE", False)
    assert examination.verdict.because.startswith(
        "Self-check failed for suite blind: a simulated better model got HOLD instead of PROMOTE"
    )


def test_leak_suite_is_asked_completely_and_its_answers_are_not_stored(tmp_path: Path) -> None:
    suite, leak = InTestSuite(answers=100), InTestSuite(answers=30, role="leak", name="leak")
    leak._questions = tuple(q.model_copy(update={"request": f"leak {q.id}"}) for q in leak.questions())
    leak._grade = lambda q, answer: float(answer != "the secret")
    leak.control_answer = lambda q, *, right: Reply(text="no" if right else "the secret")  # type: ignore[method-assign]
    champion, challenger = player_of(suite, "a", lambda n: n < 20), player_of(suite, "b", lambda n: n < 90)
    challenger.answers["leak q029-1"] = "the secret"
    examination, _ = examined(champion, challenger, [suite, leak], tmp_path)
    assert (examination.verdict.outcome, examination.verdict.analysis) == ("REJECT", 0)
    assert "reveals 1 of 60" in examination.verdict.because
    assert {answer.text for answer in examination.results[1].challenger} == {""}
    assert not any("secret" in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_record_is_read_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    suite = InTestSuite()
    examination, _ = examined(
        player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16), [suite], tmp_path
    )  # fmt: skip
    path = examination.save(tmp_path / "records")
    assert read_examination(path) == examination
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ExaminationError, match="cannot be read"):
        read_examination(path)


def test_examination_without_a_target_asks_everything_and_says_that_it_decides_nothing(tmp_path: Path) -> None:
    suite = InTestSuite(role="guard", name="coding")
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 12)
    examination, _ = examined(champion, challenger, [suite], tmp_path)
    verdict = examination.verdict
    assert (verdict.outcome, verdict.spends, verdict.share_asked) == ("CANNOT DECIDE", False, 1.0)
    assert verdict.because == (
        "no target suite was asked, so the scores are shown and nothing is decided. Suites asked: coding (guard)"
    )
    assert len(examination.results[0].items) == len(suite.questions())
    (finding,) = verdict.findings
    assert finding.whole is not None
    assert (finding.whole.champion, finding.whole.challenger) == (0.25, 0.75)


def test_examination_without_a_target_asks_everything_even_if_nobody_answers(tmp_path: Path) -> None:
    suite = InTestSuite(role="guard")
    players = [player_of(suite, name, lambda _: False) for name in "ab"]
    examination, _ = examined(players[0], players[1], [suite], tmp_path)
    assert len(examination.results[0].items) == len(suite.questions())
    assert "no target suite was asked" in examination.verdict.because
