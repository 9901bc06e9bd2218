"""Champion against challenger on suites, look by look, with a proof beforehand that the examination is alive.

Answers are kept by (player, generation settings, request): an examination that was killed goes on where it stopped,
and the champion answers each question once in its life. At each look the next groups of every suite are asked; the
examination ends as soon as the verdict can fall.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from academy.arena.answers import KeptAnswers
from academy.arena.self_check import scored, why_dead
from academy.arena.signflip import LOOKS, asked_until, place
from academy.arena.suites.base import Answer, Generation, Player, Question, Reply, Role, Suite
from academy.arena.verdict import FEWEST_GROUPS, Item, Paired, Verdict, cannot_decide, judge
from academy.errors import ExaminationError
from academy.records import Record, canonical, digest_of
from academy.store.files import write_file

PROBE = 16
"""Groups of a guard that are asked first: where neither player can do one of them, no more is asked. A player who can
do a fifth of such questions fails all of them once in 35 times."""


class Result(Record):
    """Both players on one suite, as far as it was asked. A leak suite's answers are not kept."""

    suite: str
    digest: str
    role: Role
    generation: Generation
    groups: int  # of the whole suite
    items: tuple[Item, ...]
    champion: tuple[Answer, ...]
    challenger: tuple[Answer, ...]

    @property
    def paired(self) -> Paired:
        """What the verdict is computed from."""
        return Paired(suite=self.suite, role=self.role, groups=self.groups, items=self.items)

    @property
    def lost(self) -> list[tuple[str, str]]:
        """Guard questions that the champion got right and the challenger got wrong: (question id, what it said)."""
        said = {answer.question: answer.text for answer in self.challenger}
        return [
            (item.question, said[item.question])
            for item in self.items
            if (item.slice == "guard" or self.role == "guard") and item.challenger < item.champion
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

    @property
    def record(self) -> str:
        """Names the record by all its bytes: another examination of the same players never takes its place."""
        return digest_of(self)[:16]

    def save(self, folder: Path) -> Path:
        """Write the record under its name."""
        return write_file(folder / f"{self.record}.json", canonical(self))


class Cost(Record):
    """What a player's answers cost. It depends on the machine, so it is no part of the record."""

    player: str
    asked: int = 0  # questions answered just now
    kept: int = 0  # answered in an earlier examination
    tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = None  # median seconds until the first token of an answer

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


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
) -> tuple[Examination, tuple[Cost, Cost]]:
    """Let both players answer until the verdict can fall; returns the record and what it cost.

    `answers` is the folder in which answers are kept. A broken grader, a player that goes away or an examination that
    cannot tell a better player from a worse one ends in CANNOT DECIDE.
    """
    sides = (_Side(champion, answers), _Side(challenger, answers))
    tables = [_Table(suite, generation) for suite, generation in suites]
    verdict = _until_decided(tables, sides, looks_before)
    results = tuple(table.result() for table in tables)
    held = Examination(
        champion=champion.identity, challenger=challenger.identity, results=results, verdict=verdict
    )  # fmt: skip
    return held, (sides[0].cost(), sides[1].cost())


def read_examination(path: Path) -> Examination:
    """A record that was saved. Raises ExaminationError where it is not there or damaged."""
    try:
        return Examination.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as problem:
        raise ExaminationError(f"The record {path} cannot be read.", "Hold the examination again.") from problem


def _until_decided(tables: Sequence[_Table], sides: tuple[_Side, _Side], looks_before: int) -> Verdict:
    for look in range(len(LOOKS)):
        for table in tables:
            if reason := table.go_on(sides, look):
                return cannot_decide(reason, looks_before)
        verdict = judge([table.paired() for table in tables], looks_before, look)
        if verdict.outcome != "GO ON":
            return verdict
    raise AssertionError("the last look always decides")


class _Side:
    """A player, its kept answers, and what it costs."""

    def __init__(self, player: Player, folder: Path) -> None:
        self.player = player
        self.folder = folder
        self.asked = self.kept = self.tokens = 0
        self.seconds = 0.0
        self.first: list[float] = []

    def replies(self, questions: Sequence[Question], generation: Generation, *, keep: bool) -> list[Reply]:
        """The player's replies, from the folder where they are known."""
        kept = KeptAnswers(self.folder if keep else None, self.player.identity, generation)
        asked = {q.key: q for q in questions}
        missing = kept.missing(list(asked))
        self.kept += len(asked) - len(missing)
        written, chosen = ([key for key in missing if bool(asked[key].choices) is among] for among in (False, True))
        for chunk in (*kept.chunks(written), *kept.chunks(chosen)):
            began = time.perf_counter()
            found = self._found([asked[key] for key in chunk], generation)
            self.seconds += time.perf_counter() - began
            if len(found) != len(chunk):
                raise ExaminationError(
                    f"The player {self.player.identity[:12]} gave {len(found)} answers to {len(chunk)} questions.",
                    "Hold the examination again; what was answered is kept.",
                )
            self.asked += len(chunk)
            self.tokens += sum(reply.tokens for reply in found)
            self.first += [reply.first for reply in found if reply.first is not None]
            kept.add(chunk, found)
        return [kept[q.key] for q in questions]

    def _found(self, questions: Sequence[Question], generation: Generation) -> list[Reply]:
        if questions[0].choices:
            return self.player.choose([(q.request, q.choices) for q in questions])
        return self.player.answer([q.request for q in questions], generation)

    def cost(self) -> Cost:
        """What was spent so far."""
        return Cost(
            player=self.player.identity, asked=self.asked, kept=self.kept, tokens=self.tokens, seconds=self.seconds,
            first_token=statistics.median(self.first) if self.first else None,
        )  # fmt: skip


class _Table:
    """One suite and what was answered to it so far."""

    def __init__(self, suite: Suite, generation: Generation) -> None:
        self.suite = suite
        self.generation = generation
        self.questions = suite.questions()
        self.order = sorted({q.group for q in self.questions}, key=lambda group: (place(group), group))
        self.scores: tuple[dict[str, Answer], dict[str, Answer]] = ({}, {})
        self.proven = False

    def go_on(self, sides: tuple[_Side, _Side], look: int) -> str:
        """Ask what is due at a look. Returns why nothing can be decided, or nothing.

        What can move the champion is proven alive before anybody is asked; a guard once it has something to guard.
        """
        role = self.suite.role
        if role in ("target", "leak") and (reason := self._prove()):
            return reason
        try:
            self._ask(sides, look)
        except ExaminationError as problem:
            return f"{self.suite.name}: {problem}"
        guards = role == "guard" and len(self.order) >= FEWEST_GROUPS and self.paired().informative
        return self._prove() if guards else ""

    def _prove(self) -> str:
        if self.proven:
            return ""
        self.proven = True
        return why_dead(self.suite)

    def _ask(self, sides: tuple[_Side, _Side], look: int) -> None:
        due = self._due(look)
        if not look and self.suite.role == "guard" and len(due) > PROBE:
            self._let_answer(sides, set(self.order[:PROBE]))
            if not any(answer.score for scores in self.scores for answer in scores.values()):
                return
        self._let_answer(sides, due)

    def _let_answer(self, sides: tuple[_Side, _Side], groups: set[str]) -> None:
        fresh = [q for q in self.questions if q.group in groups and q.id not in self.scores[0]]
        keep = self.suite.role != "leak"
        for side, scores in zip(sides, self.scores, strict=True):
            replies = side.replies(fresh, self.generation, keep=keep)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                graded = pool.map(self._graded, fresh, replies)
                scores.update({answer.question: answer for answer in graded})

    def _due(self, look: int) -> set[str]:
        if self.suite.role == "leak":
            return set(self.order)
        if look and self.suite.role in ("guard", "told") and not self.paired().informative:
            return set()  # neither player could do it: asking more would tell nothing
        return set(self.order[: asked_until(look, len(self.order))])

    def _graded(self, question: Question, reply: Reply) -> Answer:
        score = scored(self.suite, question, reply)
        shown = "" if self.suite.role == "leak" else reply.text
        return Answer(question=question.id, text=shown, score=score, details=self.suite.details(question, reply))

    def paired(self) -> Paired:
        """What was scored so far, for the verdict."""
        return Paired(suite=self.suite.name, role=self.suite.role, groups=len(self.order), items=self._items())

    def result(self) -> Result:
        """What was answered so far, for the record."""
        both = self._both()
        first, second = (tuple(side[q.id] for q in both) for side in self.scores)
        return Result(
            suite=self.suite.name, digest=self.suite.digest, role=self.suite.role, generation=self.generation,
            groups=len(self.order), items=self._items(), champion=first, challenger=second,
        )  # fmt: skip

    def _items(self) -> tuple[Item, ...]:
        first, second = self.scores
        return tuple(
            Item(
                question=q.id, group=q.group, slice=q.slice,
                champion=first[q.id].score, challenger=second[q.id].score,
            )
            for q in self._both()
        )  # fmt: skip

    def _both(self) -> list[Question]:
        """What both have answered: where a player went away, one of them is ahead."""
        return [q for q in self.questions if q.id in self.scores[0] and q.id in self.scores[1]]
