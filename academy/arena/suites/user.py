"""A suite from a JSONL file: questions of your own, each with its grader (academy/arena/graders.py).

    {"suite": "on call", "role": "target"}                       first line, optional: the name and what it decides
    {"id": "q1", "request": "...", "grader": "exact", "reference": "...", "group": "...", "tags": ["..."]}

Without a group each question stands alone. The role is `guard` unless the file says otherwise.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from academy.arena.graders import MOST_COMPARED, Exact, Grader, Similarity, UnitTest
from academy.arena.sandbox import Sandbox
from academy.arena.suites.base import Question, Reply, Role
from academy.errors import InputError
from academy.records import Record, digest_of

GRADER = "user suite, 1"


class Heading(Record):
    """The first line of a file."""

    suite: str = Field(pattern=r"^[\w .:-]{1,60}$")
    role: Literal["target", "guard", "told"] = "guard"


class _Line(Record):
    id: str = Field(min_length=1)
    request: str = Field(min_length=1)
    group: str = ""
    tags: tuple[str, ...] = ()


_GRADERS: TypeAdapter[Grader] = TypeAdapter(Grader)


class UserSuite:
    """Questions with a grader each."""

    def __init__(self, heading: Heading, lines: Sequence[tuple[Question, Grader]], sandbox: Sandbox | None) -> None:
        self.name = heading.suite
        self.role: Role = heading.role
        self._questions = tuple(question for question, _ in lines)
        self._graders = {question.id: grader for question, grader in lines}
        self._sandbox = sandbox

    @classmethod
    def read(cls, path: Path) -> UserSuite:
        """The suite of a file. Raises InputError, with the line, where it cannot be read."""
        heading, lines = Heading(suite=_name_of(path)), []
        numbers: dict[str, int] = {}
        rows = _rows(path)
        for number, row in rows:
            try:
                if number == rows[0][0] and "suite" in row:
                    heading = Heading.model_validate(row)
                    continue
                question, grader = _line(row)
                if heading.role == "target":  # its fall rejects as a whole; there is no older part to guard
                    question = question.model_copy(update={"slice": "new"})
            except ValidationError as problem:
                raise InputError(f"{path}, line {number}: {_words(problem)}.", "Correct the line.") from None
            except ValueError as problem:
                raise InputError(f"{path}, line {number}: {problem}.", "Correct the line.") from None
            if question.id in numbers:
                raise InputError(
                    f"{path}, line {number}: the id {question.id} stands in line {numbers[question.id]} already.",
                    "Give each question an id of its own.",
                )
            numbers[question.id] = number
            lines.append((question, grader))
        return cls(heading, lines, None)

    @property
    def digest(self) -> str:
        """Covers questions, graders, name and role."""
        graders = [self._graders[q.id].model_dump(mode="json") for q in self._questions]
        return digest_of([GRADER, self.name, self.role, [q.model_dump(mode="json") for q in self._questions], graders])

    def inside(self, sandbox: Sandbox) -> UserSuite:
        """The same suite with a sandbox for what runs code."""
        lines = [(question, self._graders[question.id]) for question in self._questions]
        return UserSuite(Heading.model_validate({"suite": self.name, "role": self.role}), lines, sandbox)

    @property
    def needs_sandbox(self) -> bool:
        """Whether a grader runs code."""
        return any(isinstance(grader, UnitTest) for grader in self._graders.values())

    @property
    def contained_by(self) -> str:
        """What runs the code, in words; empty where nothing runs any."""
        return f"{self._sandbox.name}: {', '.join(self._sandbox.limits_in_force)}" if self._sandbox else ""

    def questions(self) -> Sequence[Question]:
        """In the order of the file."""
        return self._questions

    def grader(self, question: Question) -> Grader:
        """What scores a question."""
        return self._graders[question.id]

    def grade(self, question: Question, reply: Reply) -> float:
        """As the question's grader says."""
        return self._graders[question.id].scores(reply.text, self._sandbox)["score"]

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """What the grader tells beside the score, where that costs nothing."""
        grader = self._graders[question.id]
        if isinstance(grader, UnitTest):
            return {}
        scores = grader.scores(reply.text, None)
        return {name: score for name, score in scores.items() if name != "score"}

    def planted(self, question: Question, *, right: bool) -> Reply:
        """The grader's own example, or nothing."""
        return Reply(text=self._graders[question.id].example() if right else "")


_TAGS = frozenset(("exact", "regex", "json", "tool call", "unit test", "similarity"))


def _name_of(path: Path) -> str:
    known = (sign if sign.isalpha() or sign.isdecimal() or sign in "._-" else "-" for sign in path.stem)
    return "".join(known)[:60] or "suite"


def _words(problem: ValidationError) -> str:
    """What is wrong first, and where."""
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _TAGS)
    return (where + ": " if where else "") + first["msg"].removeprefix("Value error, ")


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_bytes().removeprefix(BOM_UTF8).splitlines()
    except OSError as problem:
        raise InputError(f"The suite {path} cannot be read ({problem.strerror}).", "Check the path.") from problem
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as problem:
            raise InputError(f"{path}, line {number} is no JSON: {problem.msg}.", "Correct the line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is no JSON object.", "Correct the line.")
        rows.append((number, row))
    if not any("request" in row for _, row in rows):
        raise InputError(f"{path} has no questions.", "Write one JSON object a line.")
    return rows


def _line(row: dict[str, Any]) -> tuple[Question, Grader]:
    """The question of a line. Raises ValueError, also for one that its grader can tell nothing by."""
    line = _Line.model_validate({name: row[name] for name in ("id", "request", "group", "tags") if name in row})
    rest = {name: value for name, value in row.items() if name not in ("id", "request", "group", "tags")}
    grader = _GRADERS.validate_python({"grader": "exact", **rest})
    if not line.request.strip():
        msg = "the request is empty"
        raise ValueError(msg)
    if not isinstance(grader, UnitTest):  # those are proven in the sandbox, before anybody is asked
        if grader.scores("", None)["score"]:
            msg = "an answer of nothing would be right"
            raise ValueError(msg)
        if grader.scores(grader.example(), None)["score"] < 1:
            msg = f"its own right answer would be wrong; {MOST_COMPARED:,} characters of an answer are read"
            raise ValueError(msg)
    reference = grader.reference if isinstance(grader, Exact | Similarity) else grader.example()
    question = Question(
        id=line.id, request=line.request, reference=reference, group=line.group or line.id, slice="guard",
        tags=line.tags,
    )  # fmt: skip
    return question, grader
