"""The suites that an examination can ask, and those that it asks in this home."""

from __future__ import annotations

from academy.arena.sandbox import Unavailable, find_sandbox
from academy.arena.suites.coding import FILE as CODING
from academy.arena.suites.lm_eval import PREFIX, missing_library
from academy.arena.suites.table import describe_suites
from academy.records import Record
from academy.settings import Settings


class SuiteStatus(Record):
    """A suite: whether it is asked in every examination, what it asks, and why it cannot be asked here, if so."""

    suite: str
    asked: bool
    what: str
    left_out: str


class SuiteList(Record):
    """All suites, the sandbox for those that run programs, and the size of the coding suite."""

    suites: tuple[SuiteStatus, ...]
    sandbox: str | None
    coding_questions: int


def list_suites(settings: Settings) -> SuiteList:
    """All registered suites, then the files and tasks of the settings."""
    sandbox = find_sandbox(settings.sandbox, image=settings.sandbox_image)
    problem = sandbox.because if isinstance(sandbox, Unavailable) else ""
    suites = [
        SuiteStatus(
            suite=suite.name, asked=suite.selected, what=suite.description,
            left_out=problem if suite.needs_sandbox else missing_library() if suite.name.startswith(PREFIX) else "",
        )
        for suite in describe_suites(settings.suites)
    ]  # fmt: skip
    return SuiteList(
        suites=tuple(suites),
        sandbox=None if isinstance(sandbox, Unavailable) else sandbox.name,
        coding_questions=len(CODING.read_bytes().splitlines()),
    )
