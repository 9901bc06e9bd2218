"""Champion against challenger on suites, with interim analyses, after a self-check of the examination itself.

Answers are cached by (player, generation settings, request): a killed examination resumes where it stopped, and the
champion answers each question once. Before each interim analysis the next groups of every suite are asked; the
examination ends as soon as the verdict is certain.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from academy.arena.answers import AnswerCache
from academy.arena.self_check import checked_score, self_check_failure
from academy.arena.signflip import INTERIM_SHARES, asking_position, groups_until
from academy.arena.suites.base import Answer, Generation, Player, Question, Reply, Role, Suite
from academy.arena.verdict import FEWEST_GROUPS, Item, PairedResults, Verdict, cannot_decide, compute_verdict
from academy.errors import ExaminationError
from academy.records import Record, canonical, digest_of
from academy.store.files import write_file

PROBE = 16
"""Groups of a guard that are asked first. If neither player answers any of them, the rest is not asked. A player that
answers a fifth of such questions fails all of these once in 35 times."""


class Result(Record):
    """The answers and scores of both players on one suite so far. The answers to a leak suite are not stored."""

    suite: str
    digest: str
    role: Role
    generation: Generation
    groups: int  # of the whole suite
    items: tuple[Item, ...]
    champion: tuple[Answer, ...]
    challenger: tuple[Answer, ...]

    @property
    def paired(self) -> PairedResults:
        """The input of the verdict."""
        return PairedResults(suite=self.suite, role=self.role, groups=self.groups, items=self.items)

    @property
    def lost(self) -> list[tuple[str, str]]:
        """Guard questions, and those of suspects, on which the challenger scored below the champion.

        Each is the question's id and the challenger's answer.
        """
        answers = {answer.question: answer.text for answer in self.challenger}
        return [
            (item.question, answers[item.question])
            for item in self.items
            if (item.slice == "guard" or self.role in ("guard", "suspect")) and item.challenger < item.champion
        ]


class Examination(Record):
    """Everything that a verdict was computed from. The same players and questions give the same bytes."""

    champion: str
    challenger: str
    results: tuple[Result, ...]
    verdict: Verdict

    @property
    def digest(self) -> str:
        """Identifies the examination by players and questions."""
        return examination_digest(self.champion, self.challenger, [result.digest for result in self.results])

    @property
    def record(self) -> str:
        """Identifies the record by all its bytes, so that no other examination of the same players replaces it."""
        return digest_of(self)[:16]

    def save(self, folder: Path) -> Path:
        """Write the record to a file that is named after its digest."""
        return write_file(folder / f"{self.record}.json", canonical(self))


class Cost(Record):
    """The cost of a player's answers. It depends on the machine, so the record does not include it."""

    player: str
    asked: int = 0  # questions answered in this examination
    kept: int = 0  # answers from the cache
    tokens: int = 0
    seconds: float = 0.0
    first_token: float | None = None  # median seconds until the first token of an answer

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0


def examination_digest(champion: str, challenger: str, suites: Sequence[str]) -> str:
    """The digest of an examination: the same players and suites give the same one."""
    return digest_of([champion, challenger, list(suites)])


def examine(
    champion: Player,
    challenger: Player,
    suites: Sequence[tuple[Suite, Generation]],
    *,
    spent_before: int,
    answers: Path,
) -> tuple[Examination, tuple[Cost, Cost]]:
    """Ask both players until the verdict is certain; returns the record and the costs.

    `spent_before` is the number of examinations that spent from the error budget, and `answers` the folder of the
    answer cache. A broken grader, a player that stops answering and a failed self-check end in CANNOT DECIDE.
    """
    players = (_PlayerSession(champion, answers), _PlayerSession(challenger, answers))
    runs = [_SuiteRun(suite, generation) for suite, generation in suites]
    verdict = _run_until_decided(runs, players, spent_before)
    results = tuple(run.result() for run in runs)
    examination = Examination(
        champion=champion.identity, challenger=challenger.identity, results=results, verdict=verdict
    )  # fmt: skip
    return examination, (players[0].cost(), players[1].cost())


def read_examination(path: Path) -> Examination:
    """Read a saved record. Raises ExaminationError where it is missing or damaged."""
    try:
        return Examination.model_validate(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as problem:
        raise ExaminationError(
            f"The examination record {path} cannot be read.", "Run the examination again."
        ) from problem


def _run_until_decided(
    runs: Sequence[_SuiteRun], players: tuple[_PlayerSession, _PlayerSession], spent_before: int
) -> Verdict:
    if not any(run.suite.role == "target" for run in runs):
        return _run_without_targets(runs, players, spent_before)
    for analysis in range(len(INTERIM_SHARES)):
        for run in runs:
            if reason := run.advance(players, analysis):
                return cannot_decide(reason, spent_before)
        verdict = compute_verdict([run.paired() for run in runs], spent_before, analysis)
        if verdict.outcome != "CONTINUE":
            return verdict
    raise AssertionError("the final analysis always decides")


def _run_without_targets(
    runs: Sequence[_SuiteRun], players: tuple[_PlayerSession, _PlayerSession], spent_before: int
) -> Verdict:
    """Ask everything: without a target no gain can promote, so there is nothing to stop early for."""
    for run in runs:
        if reason := run.ask_all(players):
            return cannot_decide(reason, spent_before)
    return compute_verdict([run.paired() for run in runs], spent_before)


class _PlayerSession:
    """A player with its answer cache and its costs."""

    def __init__(self, player: Player, folder: Path) -> None:
        self.player = player
        self.folder = folder
        self.asked = self.cached = self.tokens = 0
        self.seconds = 0.0
        self.first_tokens: list[float] = []

    def replies(self, questions: Sequence[Question], generation: Generation, *, keep: bool) -> list[Reply]:
        """The player's replies, from the cache where possible. Without `keep` nothing is read from it or stored."""
        cache = AnswerCache(self.folder if keep else None, self.player.identity, generation)
        by_key = {q.key: q for q in questions}
        missing = cache.missing(list(by_key))
        self.cached += len(by_key) - len(missing)
        open_keys, choice_keys = (
            [key for key in missing if bool(by_key[key].choices) is has_choices] for has_choices in (False, True)
        )
        for chunk in (*cache.chunks(open_keys), *cache.chunks(choice_keys)):
            start = time.perf_counter()
            replies = self._ask([by_key[key] for key in chunk], generation)
            self.seconds += time.perf_counter() - start
            if len(replies) != len(chunk):
                raise ExaminationError(
                    f"The player {self.player.identity[:12]} gave {len(replies)} answers to {len(chunk)} questions.",
                    "Run the examination again; earlier answers are kept.",
                )
            self.asked += len(chunk)
            self.tokens += sum(reply.tokens for reply in replies)
            self.first_tokens += [reply.first for reply in replies if reply.first is not None]
            cache.add(chunk, replies)
        return [cache[q.key] for q in questions]

    def _ask(self, questions: Sequence[Question], generation: Generation) -> list[Reply]:
        if questions[0].choices:
            return self.player.choose([(q.request, q.choices) for q in questions])
        return self.player.answer([q.prompt for q in questions], generation)

    def cost(self) -> Cost:
        """The costs so far."""
        return Cost(
            player=self.player.identity, asked=self.asked, kept=self.cached, tokens=self.tokens, seconds=self.seconds,
            first_token=statistics.median(self.first_tokens) if self.first_tokens else None,
        )  # fmt: skip


class _SuiteRun:
    """One suite and the scored answers to it so far."""

    def __init__(self, suite: Suite, generation: Generation) -> None:
        self.suite = suite
        self.generation = generation
        self.questions = suite.questions()
        self.order = sorted({q.group for q in self.questions}, key=lambda group: (asking_position(group), group))
        self.scores: tuple[dict[str, Answer], dict[str, Answer]] = ({}, {})
        self.checked = False

    def advance(self, players: tuple[_PlayerSession, _PlayerSession], analysis: int) -> str:
        """Ask the questions that are due before an analysis. Returns why no decision is possible, or an empty text.

        A target, a leak suite and suspects pass the self-check before any question is asked; a guard once it is
        informative.
        """
        role = self.suite.role
        if role in ("target", "leak", "suspect") and (reason := self._self_check()):
            return reason
        try:
            self._ask(players, analysis)
        except ExaminationError as problem:
            return f"{self.suite.name}: {problem}"
        guards = role == "guard" and len(self.order) >= FEWEST_GROUPS and self.paired().informative
        return self._self_check() if guards else ""

    def ask_all(self, players: tuple[_PlayerSession, _PlayerSession]) -> str:
        """Ask every question. Returns why the scores mean nothing, or an empty text."""
        try:
            self._collect(players, set(self.order))
        except ExaminationError as problem:
            return f"{self.suite.name}: {problem}"
        return self._self_check() if len(self.order) >= FEWEST_GROUPS and self.paired().informative else ""

    def _self_check(self) -> str:
        if self.checked:
            return ""
        self.checked = True
        return self_check_failure(self.suite)

    def _ask(self, players: tuple[_PlayerSession, _PlayerSession], analysis: int) -> None:
        due = self._due(analysis)
        if not analysis and self.suite.role == "guard" and len(due) > PROBE:
            self._collect(players, set(self.order[:PROBE]))
            if not any(answer.score for scores in self.scores for answer in scores.values()):
                return
        self._collect(players, due)

    def _collect(self, players: tuple[_PlayerSession, _PlayerSession], groups: set[str]) -> None:
        fresh = [q for q in self.questions if q.group in groups and q.id not in self.scores[0]]
        keep = self.suite.role != "leak"
        for player, scores in zip(players, self.scores, strict=True):
            replies = player.replies(fresh, self.generation, keep=keep)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                answers = pool.map(self._grade, fresh, replies)
                scores.update({answer.question: answer for answer in answers})

    def _due(self, analysis: int) -> set[str]:
        if self.suite.role in ("leak", "suspect"):
            return set(self.order)
        if analysis and self.suite.role in ("guard", "informational") and not self.paired().informative:
            return set()  # neither player scores on it, so more questions would add no information
        return set(self.order[: groups_until(analysis, len(self.order))])

    def _grade(self, question: Question, reply: Reply) -> Answer:
        score = checked_score(self.suite, question, reply)
        details = self.suite.details(question, reply)
        if self.suite.role == "leak":
            return Answer(question=question.id, text="", score=score, details=details)
        return Answer(question=question.id, text=reply.text, score=score, details=details, raw=reply.raw)

    def paired(self) -> PairedResults:
        """The scores so far, for the verdict."""
        return PairedResults(suite=self.suite.name, role=self.suite.role, groups=len(self.order), items=self._items())

    def result(self) -> Result:
        """The answers so far, for the record."""
        questions = self._answered_by_both()
        champion, challenger = (tuple(scores[q.id] for q in questions) for scores in self.scores)
        return Result(
            suite=self.suite.name, digest=self.suite.digest, role=self.suite.role, generation=self.generation,
            groups=len(self.order), items=self._items(), champion=champion, challenger=challenger,
        )  # fmt: skip

    def _items(self) -> tuple[Item, ...]:
        champion, challenger = self.scores
        return tuple(
            Item(
                question=q.id, group=q.group, slice=q.slice,
                champion=champion[q.id].score, challenger=challenger[q.id].score,
            )
            for q in self._answered_by_both()
        )  # fmt: skip

    def _answered_by_both(self) -> list[Question]:
        """Questions with two answers: after a player failed, the other one has more."""
        return [q for q in self.questions if q.id in self.scores[0] and q.id in self.scores[1]]
