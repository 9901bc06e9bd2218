"""Chooses the suites of an examination by name or file, and says which are skipped and why."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import orjson

from academy.arena.examination import read_examination
from academy.arena.sandbox import Sandbox, Unavailable, find_sandbox
from academy.arena.suites.base import Generation, Suite
from academy.arena.suites.coding import FILE as CODING
from academy.arena.suites.coding import coding
from academy.arena.suites.commits import CommitsSuite
from academy.arena.suites.leak import LeakSuite
from academy.arena.suites.lm_eval import PREFIX, LmEvalSuite, lm_eval_suite
from academy.arena.suites.recall import RecallSuite
from academy.arena.suites.regression import FILE as GENERAL
from academy.arena.suites.regression import regression
from academy.arena.suites.style import StyleSuite
from academy.arena.suites.user import UserSuite
from academy.curriculum.dataset import Dataset
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.filters import clean
from academy.errors import ExaminationError, InputError
from academy.loop.home import Home
from academy.settings import Settings
from academy.store.ledger import Champion
from academy.store.ledger_rows import PromotionEntry, VerdictEntry

log = logging.getLogger(__name__)
LONGEST_ANSWER = 0.5
"""Share of the model's context that an answer may take."""
SUITES = {
    "recall": "held-out wordings of lessons, matched exactly; the target",
    "style": "whether those answers end by themselves and keep form and length; a guard",
    "regression": "general skills, and what earlier champions could do; a guard",
    "leak": "secrets and personal data that curation removed: one that comes back rejects",
    "coding": "functions to write, run in the sandbox; a guard",
    "commits": "from a change to its subject line; informational",
}


def choose_suites(
    home: Home, dataset: Dataset, champion: Champion, names: Sequence[str]
) -> tuple[list[tuple[Suite, Generation]], dict[str, str]]:
    """The suites of these names or files with their generation settings, and the skipped ones with the reason.

    Raises InputError for an unknown name and for a file that cannot be read.
    """
    shelf = _Shelf(home, dataset, champion)
    suites: list[Suite] = []
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(names):
        suite = shelf.take(name)
        if isinstance(suite, Unavailable):
            skipped[name] = suite.because
            continue
        if any(suite.name == other.name for other in suites):
            raise InputError(f"Two suites are called {suite.name}.", "Give each its own name, in its first line.")
        if suite.questions() or suite.role == "target":
            suites.append(suite)
        else:
            skipped[suite.name] = "it has no questions here"
    return [(suite, _generation(home, suite)) for suite in suites], skipped


class _Shelf:
    """Suites by name, for one dataset and one champion."""

    def __init__(self, home: Home, dataset: Dataset, champion: Champion) -> None:
        self.home = home
        self.dataset = dataset
        self.active = {lesson.id: lesson.seq for lesson in home.store.read()}
        self.held_out = home.holdout.examined(dataset.held_out(self.active))
        self.recall = RecallSuite(self.held_out, champion.cursor)

    @cached_property
    def sandbox(self) -> Sandbox | Unavailable:
        return find_sandbox(self.home.settings.sandbox, image=self.home.settings.sandbox_image)

    def take(self, name: str) -> Suite | Unavailable:
        """The suite of this name or file, or why it cannot run here."""
        match name:
            case "recall":
                return self.recall
            case "style":
                return StyleSuite(self.recall.questions())
            case "regression":
                ids = (_answered_earlier(self.home) & self.active.keys()) - {example.id for example in self.held_out}
                return regression(clean(lesson)[0] for lesson in self.home.store.by_id(ids).values())
            case "leak":  # all that the dataset was made from, trained on or not
                return LeakSuite(self.home.store.by_id(row["id"] for row in self.dataset.inputs()).values())
            case "commits":
                return CommitsSuite(self.held_out)
            case "coding":
                return self.sandbox if isinstance(self.sandbox, Unavailable) else coding(self.sandbox)
        if name.startswith(PREFIX):
            return lm_eval_suite(name.removeprefix(PREFIX))
        suite = UserSuite.read(suite_file(name))
        if suite.name in SUITES:
            raise InputError(
                f"The suite in {name} is called {suite.name}, like a built-in one.", "Give it another name."
            )
        if not suite.needs_sandbox:
            return suite
        return self.sandbox if isinstance(self.sandbox, Unavailable) else suite.inside(self.sandbox)


def guarded_texts(settings: Settings) -> list[GuardedSuite]:
    """The questions of the settings' suites, which curation keeps out of training. It guards the hold-out itself."""
    guarded = []
    for name in settings.suites:
        if name == "coding":
            rows = [orjson.loads(line) for line in CODING.read_bytes().splitlines()]
            guarded.append(GuardedSuite(name, [row[part] for row in rows for part in ("request", "solution")]))
        elif name == "regression":  # its questions are short: only a whole one that is quoted counts
            requests = [question.request for question in UserSuite.read(GENERAL).questions()]
            guarded.append(GuardedSuite("general", requests, shared_runs=False))
        elif name not in SUITES and not name.startswith(PREFIX):
            suite = UserSuite.read(suite_file(name))
            guarded.append(GuardedSuite(suite.name, [question.request for question in suite.questions()]))
    return guarded


def suite_file(name: str) -> Path:
    """The file of a user's suite. Raises InputError for a name that is neither a suite nor a .jsonl file."""
    path = Path(name).expanduser()
    if path.suffix != ".jsonl":
        raise InputError(
            f"There is no suite {name}.", f"Choose one of {', '.join(SUITES)}, a .jsonl file or {PREFIX}TASK."
        )
    return path


def _generation(home: Home, suite: Suite) -> Generation:
    """Room for the longest reference or a task's answer, in steps of 32 tokens so that saved answers stay valid."""
    longest = max(home.base.count_tokens([question.reference for question in suite.questions()]), default=0)
    if isinstance(suite, LmEvalSuite):
        longest = max(longest, suite.max_new_tokens - 1)
    most = max(32, int(home.base.context * LONGEST_ANSWER) // 32 * 32)
    return Generation(max_new_tokens=min(most, 32 * (1 + (longest + 1) // 32)))


def _answered_earlier(home: Home) -> set[str]:
    """Lessons that a champion of this family answered correctly in the examination that promoted it."""
    champions = {row.body.adapter for row in home.ledger.rows(PromotionEntry)}
    ids: set[str] = set()
    for row in home.ledger.rows(VerdictEntry):
        path = home.settings.folder("examinations") / row.body.record
        if row.body.outcome != "PROMOTE" or row.body.challenger not in champions:
            continue
        try:
            results = read_examination(path).results
        except ExaminationError as problem:  # a lost record cannot be restored, and must not stop the loop for ever
            log.warning("the answers of v%s are not asked again: %s", row.body.version, problem.message)
            continue
        for result in results:
            if result.suite in ("recall", "regression"):
                ids |= {answer.question for answer in result.challenger if answer.score == 1}
    return ids
