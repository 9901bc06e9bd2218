"""Coding: functions to be written, proved by hidden cases in the sandbox.

The questions, their cases, a reference solution and three wrong ones each lie in coding.jsonl. They were written for
this project. The first ten are what anybody would ask first.
"""

from __future__ import annotations

from pathlib import Path

import orjson

from academy.arena.graders import UnitTest
from academy.arena.sandbox import Sandbox
from academy.arena.suites.base import Question
from academy.arena.suites.user import Heading, UserSuite

FILE = Path(__file__).with_name("coding.jsonl")


def coding(sandbox: Sandbox) -> UserSuite:
    """The suite, run in a sandbox."""
    lines = []
    for row in map(orjson.loads, FILE.read_bytes().splitlines()):
        grader = UnitTest(grader="unit test", function=row["function"], cases=row["cases"], solution=row["solution"])
        question = Question(
            id=row["id"], request=row["request"], reference=grader.example(), group=row["id"], slice="guard",
            tags=tuple(row["tags"]),
        )  # fmt: skip
        lines.append((question, grader))
    return UserSuite(Heading(suite="coding", role="guard"), lines, sandbox)
