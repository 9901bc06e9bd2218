"""A suite from a JSONL file: questions of your own, each with its grader (academy/arena/graders.py).

    {"suite": "on call", "role": "target"}                       first line, optional: the name and the role
    {"id": "q1", "request": "...", "grader": "exact", "reference": "...", "group": "...", "tags": ["..."]}

A question without a group is a group of its own. The default role is `guard`.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from academy.arena.graders import MOST_COMPARED, Exact, Grader, Similarity, UnitTest
from academy.arena.sandbox import Sandbox
from academy.arena.suites.base import Question, Reply, Role, current_role, role_in_digests
from academy.errors import InputError
from academy.records import Record, digest_of, expectation

GRADER = "user suite, 1"


class Heading(Record):
    """The first line of a file."""

    suite: str = Field(pattern=r"^[\w .:#-]{1,60}$")
    role: Annotated[Literal["target", "guard", "informational"], BeforeValidator(current_role)] = "guard"


class _Line(Record):
    id: str = Field(min_length=1)
    request: str = Field(min_length=1)
    group: str = ""
    tags: tuple[str, ...] = ()


_GRADERS: TypeAdapter[Grader] = TypeAdapter(Grader)


class UserSuite:
    """Questions, each with its own grader."""

    def __init__(self, heading: Heading, lines: Sequence[tuple[Question, Grader]], sandbox: Sandbox | None) -> None:
        self.name = heading.suite
        self.role: Role = heading.role
        self._questions = tuple(question for question, _ in lines)
        self._graders = {question.id: grader for question, grader in lines}
        self._sandbox = sandbox

    @classmethod
    def read(cls, path: Path) -> UserSuite:
        """Read a file. Raises InputError with the line number where it is invalid."""
        heading, lines = Heading(suite=_name_of(path)), []
        numbers: dict[str, int] = {}
        rows = _rows(path)
        for number, row in rows:
            try:
                if number == rows[0][0] and "suite" in row:
                    heading = Heading.model_validate(row)
                    continue
                question, grader = _line(row)
                if heading.role == "target":  # a fall of the whole suite rejects; it has no older part
                    question = question.model_copy(update={"slice": "new"})
            except ValidationError as problem:
                raise InputError(f"{path}, line {number}: {_words(problem)}.", "Correct this line.") from None
            except ValueError as problem:
                raise InputError(f"{path}, line {number}: {problem}.", "Correct this line.") from None
            if question.id in numbers:
                raise InputError(
                    f"{path}, line {number}: the id {question.id} is already used in line {numbers[question.id]}.",
                    "Give each question a different id.",
                )
            numbers[question.id] = number
            lines.append((question, grader))
        return cls(heading, lines, None)

    @property
    def digest(self) -> str:
        """Covers questions, graders, name and role."""
        graders = [self._graders[q.id].model_dump(mode="json") for q in self._questions]
        role = role_in_digests(self.role)
        return digest_of([GRADER, self.name, role, [q.model_dump(mode="json") for q in self._questions], graders])

    def inside(self, sandbox: Sandbox) -> UserSuite:
        """The same suite, with a sandbox for graders that run code."""
        lines = [(question, self._graders[question.id]) for question in self._questions]
        return UserSuite(Heading.model_validate({"suite": self.name, "role": self.role}), lines, sandbox)

    @property
    def needs_sandbox(self) -> bool:
        """Whether a grader runs code."""
        return any(isinstance(grader, UnitTest) for grader in self._graders.values())

    @property
    def contained_by(self) -> str:
        """The sandbox in words; empty without one."""
        return f"{self._sandbox.name}: {', '.join(self._sandbox.active_limits)}" if self._sandbox else ""

    def questions(self) -> Sequence[Question]:
        """In the order of the file."""
        return self._questions

    def grader(self, question: Question) -> Grader:
        """The grader of a question."""
        return self._graders[question.id]

    def grade(self, question: Question, reply: Reply) -> float:
        """The score of the question's grader."""
        return self._graders[question.id].scores(reply.text, self._sandbox)["score"]

    def details(self, question: Question, reply: Reply) -> dict[str, float]:
        """The grader's finer scores, except for code, which would have to run again."""
        grader = self._graders[question.id]
        if isinstance(grader, UnitTest):
            return {}
        scores = grader.scores(reply.text, None)
        return {name: score for name, score in scores.items() if name != "score"}

    def control_answer(self, question: Question, *, right: bool) -> Reply:
        """The grader's example, or an empty answer."""
        return Reply(text=self._graders[question.id].example() if right else "")


_TAGS = frozenset(("exact", "regex", "json", "tool call", "unit test", "similarity"))


def _name_of(path: Path) -> str:
    letters = (sign if sign.isalpha() or sign.isdecimal() or sign in "._-" else "-" for sign in path.stem)
    return "".join(letters)[:60] or "suite"


def _words(problem: ValidationError) -> str:
    """The first error in words, with its field."""
    first = problem.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _TAGS)
    return (where + ": " if where else "") + expectation(first)


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
            raise InputError(f"{path}, line {number} is not valid JSON: {problem.msg}.", "Correct this line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is not a JSON object.", "Correct this line.")
        rows.append((number, row))
    if not any("request" in row for _, row in rows):
        raise InputError(f"{path} has no questions.", "Write one JSON object per line.")
    return rows


def _line(row: dict[str, Any]) -> tuple[Question, Grader]:
    """The question and grader of a line. Raises ValueError, also for a grader that cannot tell right from wrong."""
    line = _Line.model_validate({name: row[name] for name in ("id", "request", "group", "tags") if name in row})
    rest = {name: value for name, value in row.items() if name not in ("id", "request", "group", "tags")}
    grader = _GRADERS.validate_python({"grader": "exact", **rest})
    if not line.request.strip():
        msg = "the request is empty"
        raise ValueError(msg)
    if not isinstance(grader, UnitTest):  # the self-check tests those in the sandbox
        if grader.scores("", None)["score"]:
            msg = "an empty answer would be correct"
            raise ValueError(msg)
        if grader.scores(grader.example(), None)["score"] < 1:
            msg = f"its own reference would be incorrect; a grader reads {MOST_COMPARED:,} characters of an answer"
            raise ValueError(msg)
    reference = grader.reference if isinstance(grader, Exact | Similarity) else grader.example()
    question = Question(
        id=line.id, request=line.request, reference=reference, group=line.group or line.id, slice="guard",
        tags=line.tags,
    )  # fmt: skip
    return question, grader
