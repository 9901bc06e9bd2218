"""Coding: functions to write, tested by hidden cases in the sandbox.

The questions are in coding.jsonl, each with its cases, a reference solution and three wrong ones. They were written for
this project. The first ten are typical first questions.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from academy.arena.graders import UnitTest
from academy.arena.sandbox import Sandbox, Unavailable
from academy.arena.suites.base import Question
from academy.arena.suites.factory import SuiteContext, SuiteFactory
from academy.arena.suites.user import Heading, UserSuite
from academy.curriculum.decontamination import GuardedSuite

FILE = Path(__file__).with_name("coding.jsonl")
FIRST_TEN = "coding#first-ten"


def coding(sandbox: Sandbox, name: str = "coding", most: int | None = None) -> UserSuite:
    """The suite, or its first questions under another name; its code runs in `sandbox`."""
    lines = []
    for row in map(orjson.loads, FILE.read_bytes().splitlines()[:most]):
        grader = UnitTest(grader="unit test", function=row["function"], cases=row["cases"], solution=row["solution"])
        question = Question(
            id=row["id"], request=row["request"], reference=grader.example(), group=row["id"], slice="guard",
            tags=tuple(row["tags"]),
        )  # fmt: skip
        lines.append((question, grader))
    return UserSuite(Heading(suite=name, role="guard"), lines, sandbox)


class CodingFactory(SuiteFactory):
    """Creates the suite where a sandbox is available."""

    description = "functions to write, run in the sandbox; a guard"
    needs_sandbox = True

    def create(self, context: SuiteContext) -> UserSuite | Unavailable:
        """The suite, or why no sandbox runs here."""
        sandbox = context.sandbox()
        return sandbox if isinstance(sandbox, Unavailable) else coding(sandbox)

    def guarded(self) -> GuardedSuite:
        """Requests and reference solutions of all questions."""
        rows = [orjson.loads(line) for line in FILE.read_bytes().splitlines()]
        return GuardedSuite("coding", [row[part] for row in rows for part in ("request", "solution")])


class FirstTenFactory(CodingFactory):
    """Creates the suite of the first ten questions, for a quick comparison."""

    description = "the first ten questions of coding; a guard"

    def create(self, context: SuiteContext) -> UserSuite | Unavailable:
        """The suite, or why no sandbox runs here."""
        sandbox = context.sandbox()
        return sandbox if isinstance(sandbox, Unavailable) else coding(sandbox, FIRST_TEN, 10)
