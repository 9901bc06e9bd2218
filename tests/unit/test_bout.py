"""Examinations: two players on the same questions, alive, kept, ended early, never promoted on partial results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from academy.arena.answers import CHUNK
from academy.arena.examination import PROBE, Cost, Examination, examine, read_examination
from academy.arena.self_check import why_dead
from academy.arena.suites.base import Generation, Player, Question, Reply, Role
from academy.arena.verdict import Verdict
from academy.errors import ExaminationError
from academy.records import digest_of

GENERATION = Generation(max_new_tokens=32)


def examined(
    champion: Player, challenger: Player, suites: list[Any], folder: Path, looks_before: int = 0
) -> tuple[Examination, tuple[Cost, Cost]]:
    """An examination with the tests' settings."""
    return examine(
        champion, challenger, [(suite, GENERATION) for suite in suites], looks_before=looks_before, answers=folder
    )


# Liveness


class InTestSuite:
    """Questions of answers with two wordings, few enough for exact tests, and a grader to be broken."""

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

    def planted(self, question: Question, *, right: bool) -> Reply:
        return Reply(text=question.reference if right else "")


def exact(question: Question, answer: str) -> float:
    return float(answer == question.reference)


class InTestPlayer:
    """Answers from a dictionary, and counts what it is asked."""

    def __init__(self, identity: str, known: dict[str, str]) -> None:
        self.identity = identity
        self.known = known
        self.asked: list[str] = []

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        self.asked += requests
        said = [self.known.get(request, "I do not know") for request in requests]
        return [Reply(text=text, tokens=len(text.split()), first=0.25) for text in said]


def player_of(suite: InTestSuite, identity: str, knows: Callable[[int], bool]) -> InTestPlayer:
    pairs = {q.request: q.reference for q in suite.questions() if knows(int(q.id[1:4]))}
    return InTestPlayer(identity * 64, pairs)


def held(suite: InTestSuite, folder: Path) -> Verdict:
    """The best possible challenger against a champion that knows nothing."""
    champion, challenger = player_of(suite, "a", lambda _: False), player_of(suite, "b", lambda _: True)
    return examined(champion, challenger, [suite], folder)[0].verdict


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

    found = held(InTestSuite(grade=broken), tmp_path)
    assert (found.outcome, found.spends) == ("CANNOT DECIDE", False)
    assert "test failed on a planted answer: The grader failed on q0" in found.because


def test_a_grader_that_raises_on_a_real_answer_leaves_no_verdict(tmp_path: Path) -> None:
    def broken(question: Question, answer: str) -> float:
        if answer == "I do not know":
            raise RuntimeError(question.id)
        return exact(question, answer)

    found = held(InTestSuite(grade=broken), tmp_path)
    assert (found.outcome, found.spends) == ("CANNOT DECIDE", False)
    assert "test: The grader failed on q" in found.because


def test_a_grader_that_gives_no_number_leaves_no_verdict(tmp_path: Path) -> None:
    found = held(InTestSuite(grade=lambda _q, _answer: float("nan")), tmp_path)
    assert found.outcome == "CANNOT DECIDE"
    rude = InTestSuite(grade=lambda q, answer: 2.0 if answer == "I do not know" else exact(q, answer))
    assert "gave 2.0 for" in held(rude, tmp_path).because


# Examinations


def test_an_examination_compares_two_players_on_the_same_questions(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    found = examined(champion, challenger, [suite], tmp_path, 2)[0]
    assert (found.verdict.outcome, found.verdict.looks_before) == ("PROMOTE", 2)
    (result,) = found.results
    assert [len(result.items), len(result.champion), len(result.challenger)] == [32, 32, 32]
    assert sum(answer.score for answer in result.champion) == 8
    assert result.lost == []


def test_what_was_lost_on_the_guard_is_told_with_what_was_said(tmp_path: Path) -> None:
    suite = InTestSuite()
    champion, challenger = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n not in {2, 3})
    found = examined(champion, challenger, [suite], tmp_path, 0)[0]
    assert found.results[0].lost == [("q003-0", "I do not know"), ("q003-1", "I do not know")]


def test_kept_answers_are_used_and_nothing_is_asked_twice(tmp_path: Path) -> None:
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
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            if self.asked:
                raise Killed
            return super().answer(requests, generation)

    suite = InTestSuite(answers=100)
    champion, sound = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 90)
    dying = DyingPlayer(sound.identity, sound.known)
    with pytest.raises(Killed):
        examined(champion, dying, [suite], tmp_path / "one", 0)[0]
    resumed = examined(champion, sound, [suite], tmp_path / "one", 0)[0]
    assert len(dying.asked) == CHUNK
    assert len(sound.asked) == 80 - CHUNK
    assert resumed == examined(champion, sound, [suite], tmp_path / "two", 0)[0]


def test_a_player_that_leaves_answers_out_leaves_no_verdict(tmp_path: Path) -> None:
    class ShortPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            return super().answer(requests, generation)[:-1]

    suite = InTestSuite()
    found, _ = examined(player_of(suite, "a", lambda n: n < 4), ShortPlayer("b" * 64, {}), [suite], tmp_path)
    assert (found.verdict.outcome, found.verdict.spends) == ("CANNOT DECIDE", False)
    assert "gave 13 answers to 14 questions" in found.verdict.because


def test_a_suite_that_is_only_told_does_not_decide(tmp_path: Path) -> None:
    found = held(InTestSuite(role="told"), tmp_path)
    assert found.outcome == "CANNOT DECIDE"
    suite, told = InTestSuite(answers=14), InTestSuite(role="told", name="told")
    champion, challenger = player_of(suite, "a", lambda n: n < 7), player_of(suite, "c", lambda n: n < 7)
    both = examined(champion, challenger, [suite, told], tmp_path)[0].verdict
    assert both.target is not None
    assert both.target.items == 28


def test_an_examination_is_named_by_its_players_and_questions(tmp_path: Path) -> None:
    suite, other = InTestSuite(), InTestSuite(answers=15)
    a, b = player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16)
    digests = {
        examined(first, second, [one], tmp_path)[0].digest
        for first, second, one in ((a, b, suite), (b, a, suite), (a, b, other), (a, b, suite))
    }
    assert len(digests) == 3


def test_an_examination_ends_as_soon_as_it_is_decided(tmp_path: Path) -> None:
    suite = InTestSuite(answers=100)
    champion, challenger = player_of(suite, "a", lambda n: n < 20), player_of(suite, "b", lambda n: n < 90)
    found, costs = examined(champion, challenger, [suite], tmp_path)
    assert (found.verdict.outcome, found.verdict.look) == ("PROMOTE", 0)
    assert len(challenger.asked) == 80  # 40 of 100 answers, two wordings each
    assert [cost.asked for cost in costs] == [80, 80]
    again, free = examined(champion, challenger, [suite], tmp_path)
    assert again == found
    assert [(cost.asked, cost.kept) for cost in free] == [(0, 80), (0, 80)]
    assert (costs[1].first_token, free[1].first_token) == (0.25, None)


def test_a_player_that_goes_away_leaves_no_verdict_and_its_answers_are_kept(tmp_path: Path) -> None:
    class LeavingPlayer(InTestPlayer):
        def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
            if self.asked:
                raise ExaminationError("The endpoint went away.", "Run it again.")
            return super().answer(requests, generation)

    suite = InTestSuite(answers=100)
    champion, sound = player_of(suite, "a", lambda n: n < 20), player_of(suite, "b", lambda n: n < 90)
    leaving = LeavingPlayer(sound.identity, sound.known)
    found, costs = examined(champion, leaving, [suite], tmp_path)
    assert (found.verdict.outcome, found.verdict.spends) == ("CANNOT DECIDE", False)
    assert "test: The endpoint went away. Run it again." in found.verdict.because
    assert costs[1].asked == CHUNK
    later, _ = examined(champion, sound, [suite], tmp_path)
    assert later.verdict.outcome == "PROMOTE"
    assert len(sound.asked) == 80 - CHUNK


def test_a_guard_that_nobody_can_do_is_asked_no_further(tmp_path: Path) -> None:
    suite, hopeless = InTestSuite(answers=60), InTestSuite(answers=100, role="guard", name="hard")
    hopeless._questions = tuple(
        q.model_copy(update={"request": f"hard {q.id}", "reference": "42"}) for q in hopeless.questions()
    )
    champion, challenger = player_of(suite, "a", lambda n: n < 30), player_of(suite, "b", lambda n: n < 31)
    found, _ = examined(champion, challenger, [suite, hopeless], tmp_path)
    assert found.verdict.outcome == "HOLD"
    assert len(found.results[0].items) == 120
    assert len(found.results[1].items) == 2 * PROBE
    assert found.verdict.findings[1].unused.startswith("uninformative")


def test_a_dead_guard_that_has_something_to_guard_decides_nothing(tmp_path: Path) -> None:
    suite, dead = InTestSuite(answers=60), InTestSuite(answers=60, role="guard", name="blind", grade=lambda *_: 1.0)
    champion, challenger = player_of(suite, "a", lambda n: n < 10), player_of(suite, "b", lambda n: n < 50)
    found, _ = examined(champion, challenger, [suite, dead], tmp_path)
    assert (found.verdict.outcome, found.verdict.spends) == ("CANNOT DECIDE", False)
    assert found.verdict.because.startswith("blind is not alive")


def test_a_leak_is_asked_whole_told_without_its_text_and_never_kept(tmp_path: Path) -> None:
    suite, leak = InTestSuite(answers=100), InTestSuite(answers=30, role="leak", name="leak")
    leak._questions = tuple(q.model_copy(update={"request": f"leak {q.id}"}) for q in leak.questions())
    leak._grade = lambda q, answer: float(answer != "the secret")
    leak.planted = lambda q, *, right: Reply(text="no" if right else "the secret")  # type: ignore[method-assign]
    champion, challenger = player_of(suite, "a", lambda n: n < 20), player_of(suite, "b", lambda n: n < 90)
    challenger.known["leak q029-1"] = "the secret"
    found, _ = examined(champion, challenger, [suite, leak], tmp_path)
    assert (found.verdict.outcome, found.verdict.look) == ("REJECT", 0)
    assert "gives back 1 of 60" in found.verdict.because
    assert {answer.text for answer in found.results[1].challenger} == {""}
    assert not any("secret" in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_record_is_read_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    suite = InTestSuite()
    found, _ = examined(
        player_of(suite, "a", lambda n: n < 4), player_of(suite, "b", lambda n: n < 16), [suite], tmp_path
    )  # fmt: skip
    path = found.save(tmp_path / "records")
    assert read_examination(path) == found
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ExaminationError, match="cannot be read"):
        read_examination(path)
