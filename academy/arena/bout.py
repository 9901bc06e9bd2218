"""Champion against challenger on suites, with a proof beforehand that the examination is alive.

Answers are kept by (player, generation settings, request): an examination that was killed goes on where it stopped,
and the champion answers each question once in its life.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from academy.arena.suite import Answer, Generation, Player, Question, Suite
from academy.arena.verdict import Item, Verdict, cannot_decide, judge
from academy.artifacts import Record, canonical, digest_of, stable_fraction, write_file

CHUNK = 64
"""Questions answered between two savings of the answers."""


class Result(Record):
    """Both players on one suite."""

    suite: str
    digest: str
    decisive: bool
    generation: Generation
    items: tuple[Item, ...]
    champion: tuple[Answer, ...]
    challenger: tuple[Answer, ...]

    @property
    def lost(self) -> list[tuple[str, str]]:
        """Guard questions that the champion got right and the challenger got wrong: (question id, what it said)."""
        said = {answer.question: answer.text for answer in self.challenger}
        return [
            (item.question, said[item.question])
            for item in self.items
            if item.slice == "guard" and item.challenger < item.champion
        ]


class Examination(Record):
    """Everything a verdict was computed from. The same players and questions give the same bytes."""

    champion: str
    challenger: str
    results: tuple[Result, ...]
    verdict: Verdict

    @property
    def digest(self) -> str:
        """Names the examination by players and questions."""
        return examination_digest(self.champion, self.challenger, [result.digest for result in self.results])

    def save(self, folder: Path) -> Path:
        """Write the record under its digest."""
        return write_file(folder / f"{self.digest[:16]}.json", canonical(self))


def examination_digest(champion: str, challenger: str, suites: Sequence[str]) -> str:
    """What makes an examination the same one."""
    return digest_of([champion, challenger, list(suites)])


def examine(
    champion: Player,
    challenger: Player,
    suites: Sequence[tuple[Suite, Generation]],
    *,
    looks_before: int,
    answers: Path,
) -> Examination:
    """Let both players answer every suite and judge the decisive ones together.

    `answers` is the folder in which answers are kept. A broken grader or an examination that cannot tell a better
    player from a worse one ends in CANNOT DECIDE.
    """
    results = tuple(_play(champion, challenger, suite, generation, answers) for suite, generation in suites)
    items = [item for result in results if result.decisive for item in result.items]
    broken = next((reason for suite, _ in suites if suite.decisive and (reason := why_dead(suite))), "")
    verdict = cannot_decide(broken, looks_before) if broken else judge(items, looks_before)
    return Examination(champion=champion.identity, challenger=challenger.identity, results=results, verdict=verdict)


def why_dead(suite: Suite) -> str:
    """Liveness: why a suite cannot tell players apart; empty where it can.

    A stand-in champion that answers a seeded half of the questions rightly must hold against itself, lose against a
    player that answers all of them, and win against one that answers none: through the same grader and verdict.
    """
    questions = suite.questions()
    if not questions:
        return "there are no held-out questions"
    half = {q.id for q in questions if stable_fraction("stand-in", q.id) < 0.5}

    def scores(right: set[str]) -> list[float]:
        return [suite.grade(q, q.reference if q.id in right else "") for q in questions]

    stand_in, best, worst = scores(half), scores({q.id for q in questions}), scores(set())
    for name, other, wanted in (
        ("an equal", stand_in, "HOLD"),
        ("a better", best, "PROMOTE"),
        ("a worse", worst, "REJECT"),
    ):
        found = judge(_pair(questions, stand_in, other), 0).outcome
        if found != wanted:
            groups = len({q.group for q in questions})
            return (
                f"the examination is not alive: {name} stand-in gave {found} where {wanted} was due "
                f"({len(questions)} questions on {groups} answers)"
            )
    return ""


def _play(champion: Player, challenger: Player, suite: Suite, generation: Generation, folder: Path) -> Result:
    questions = suite.questions()
    first_texts = _answers(champion, questions, generation, folder)
    second_texts = _answers(challenger, questions, generation, folder)
    first = [suite.grade(q, text) for q, text in zip(questions, first_texts, strict=True)]
    second = [suite.grade(q, text) for q, text in zip(questions, second_texts, strict=True)]
    return Result(
        suite=suite.name,
        digest=suite.digest,
        decisive=suite.decisive,
        generation=generation,
        items=tuple(_pair(questions, first, second)),
        champion=_told(questions, first_texts, first),
        challenger=_told(questions, second_texts, second),
    )


def _answers(player: Player, questions: Sequence[Question], generation: Generation, folder: Path) -> list[str]:
    """The player's answers, from the folder where they are known."""
    path = folder / f"{player.identity[:16]}-{generation.digest}.json"
    known: dict[str, str] = orjson.loads(path.read_bytes()) if path.is_file() else {}
    # asked in an order that does not depend on what is known already, so that batches are the same every time
    missing = sorted({q.request for q in questions} - known.keys(), key=lambda text: (len(text), text))
    for start in range(0, len(missing), CHUNK):
        asked = missing[start : start + CHUNK]
        known.update(zip(asked, player.answer(asked, generation), strict=True))
        write_file(path, canonical(known))
    return [known[q.request] for q in questions]


def _pair(questions: Sequence[Question], champion: Sequence[float], challenger: Sequence[float]) -> list[Item]:
    return [
        Item(question=q.id, group=q.group, slice=q.slice, champion=a, challenger=b)
        for q, a, b in zip(questions, champion, challenger, strict=True)
    ]


def _told(questions: Sequence[Question], texts: Sequence[str], scores: Sequence[float]) -> tuple[Answer, ...]:
    return tuple(Answer(question=q.id, text=t, score=s) for q, t, s in zip(questions, texts, scores, strict=True))
