"""Graders of user suites: each is a record from a line of JSON, with one function that scores an answer.

{"grader": "exact", "reference": "..."}                     the same text, ignoring white space
{"grader": "regex", "pattern": "..."}                       matches anywhere in the answer, within a second
{"grader": "json", "fields": {"a.b": 1}}                    the share of fields with these values
{"grader": "tool call", "tool": "...", "arguments": {...}}  half for the tool, half for the share of its arguments
{"grader": "unit test", "function": "f", "cases": [...]}    all cases pass in the sandbox
{"grader": "similarity", "reference": "...", "least": 0.9}  similarity by edits, from 0 to 1; below `least` it is 0
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal

import orjson
import regex
from pydantic import Field, model_validator
from rapidfuzz.distance import Indel

from academy.arena.sandbox import Call, Sandbox, Value
from academy.arena.scores import same_text
from academy.errors import ExaminationError
from academy.records import Record

PATTERN_SECONDS = 1.0
MOST_COMPARED = 20_000
"""Characters of an answer that are compared; no correct answer is longer."""
_FENCE = re.compile(r"```(?:[\w+-]*)\n(.*?)(?:```|\Z)", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


class Case(Record):
    """A call and the JSON value that it must return."""

    args: tuple[Any, ...] = ()
    result: Any


class Exact(Record):
    """The same text, ignoring white space."""

    grader: Literal["exact"] = "exact"
    reference: str

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`."""
        return {"score": float(same_text(answer, self.reference))}

    def example(self) -> str:
        """A correct answer."""
        return self.reference


class Pattern(Record):
    """A regular expression; `example` is a matching answer, for the self-check."""

    grader: Literal["regex"]
    pattern: str
    example_: str = Field(alias="example")

    @model_validator(mode="after")
    def _compiles(self) -> Pattern:
        try:
            match = regex.search(self.pattern, self.example_, timeout=PATTERN_SECONDS)
        except regex.error as problem:
            msg = f"the pattern is invalid ({problem})"
            raise ValueError(msg) from None
        except RecursionError:
            msg = "the pattern is nested too deeply"
            raise ValueError(msg) from None
        except TimeoutError:
            msg = f"the pattern takes more than {PATTERN_SECONDS:.0f} s on its example"
            raise ValueError(msg) from None
        if not match:
            msg = "the example does not match the pattern"
            raise ValueError(msg)
        return self

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`. Raises ExaminationError where the pattern takes too long."""
        try:
            match = regex.search(self.pattern, answer[:MOST_COMPARED], timeout=PATTERN_SECONDS)
        except TimeoutError:
            raise ExaminationError(
                f"The pattern {self.pattern[:60]} took more than {PATTERN_SECONDS:.0f} s on an answer.",
                "Write it without nested repetitions.",
            ) from None
        return {"score": float(match is not None)}

    def example(self) -> str:
        """A correct answer."""
        return self.example_


class Fields(Record):
    """Values that a JSON answer must have, by dotted path."""

    grader: Literal["json"]
    fields: dict[str, Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_met(self) -> Fields:
        try:
            consistent = self.scores(self.example(), None)["score"] == 1
        except (TypeError, AttributeError):
            consistent = False
        if not consistent:
            msg = "one of the fields is inside another one; name each value once"
            raise ValueError(msg)
        return self

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`: the share of correct fields; `valid`: whether the answer is JSON."""
        data = as_json(answer)
        if data is None:
            return {"score": 0.0, "valid": 0.0}
        right = sum(same_data(_at(data, path), value) for path, value in self.fields.items())
        return {"score": right / len(self.fields), "valid": 1.0}

    def example(self) -> str:
        """A correct answer."""
        answer: dict[str, Any] = {}
        for path, value in self.fields.items():
            *parents, last = path.split(".")
            parent = answer
            for name in parents:
                parent = parent.setdefault(name, {})
            parent[last] = deepcopy(value)  # another field may change it
        return orjson.dumps(answer).decode()


class ToolCall(Record):
    """A tool to call with arguments."""

    grader: Literal["tool call"]
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`, `tool`, `arguments`; additional arguments and calls lower the score."""
        calls = _calls_in(answer)
        if len(calls) != 1 or not isinstance(calls[0], dict):
            return {"score": 0.0, "tool": 0.0, "arguments": 0.0}
        call = calls[0]["function"] if isinstance(calls[0].get("function"), dict) else calls[0]
        arguments = call.get("arguments", call.get("parameters"))
        if isinstance(arguments, str) and (data := as_json(arguments)) is not None:
            arguments = data  # a text that is not JSON stays a text, which counts as wrong arguments
        arguments = {} if arguments in (None, "") else arguments
        tool = float((call.get("name") or call.get("tool")) == self.tool)
        share = tool * self._share_of(arguments)
        return {"score": (tool + share) / 2, "tool": tool, "arguments": share}

    def _share_of(self, arguments: Any) -> float:
        """The share of correct arguments among all expected and all actual ones."""
        if not isinstance(arguments, dict):
            return 0.0
        names = self.arguments.keys() | arguments.keys()
        right = sum(same_data(_at(arguments, name), self.arguments.get(name, _MISSING)) for name in names)
        return right / len(names) if names else 1.0

    def example(self) -> str:
        """A correct answer."""
        return orjson.dumps({"name": self.tool, "arguments": self.arguments}).decode()


class UnitTest(Record):
    """A function to write; its cases run in the sandbox, and their results are compared outside."""

    grader: Literal["unit test"]
    function: str = Field(pattern=r"^[A-Za-z_]\w*$")
    cases: tuple[Case, ...] = Field(min_length=1)
    solution: str

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:
        """`score`: 1 where every case is correct; `cases`: the share. Raises ExaminationError without a sandbox."""
        if sandbox is None:
            raise ExaminationError(
                "Code that a model wrote needs a sandbox, and none is available.", "Install bubblewrap or Docker."
            )
        run = sandbox.run(program_in(answer), [Call(function=self.function, args=case.args) for case in self.cases])
        right = sum(_is(value, case.result) for value, case in zip(run.values, self.cases, strict=False))
        complete = run.ended == "done" and len(run.values) == len(self.cases) == right
        return {"score": float(complete), "cases": right / len(self.cases) if run.ended == "done" else 0.0}

    def example(self) -> str:
        """A correct answer."""
        return f"```python\n{self.solution}\n```"


class Similarity(Record):
    """Similarity by insertions and deletions of characters."""

    grader: Literal["similarity"]
    reference: str
    least: float = Field(0.0, ge=0, le=1)

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`."""
        similarity = Indel.normalized_similarity(answer[:MOST_COMPARED].strip(), self.reference.strip())
        return {"score": similarity if similarity >= self.least else 0.0}

    def example(self) -> str:
        """A correct answer."""
        return self.reference


Grader = Annotated[Exact | Pattern | Fields | ToolCall | UnitTest | Similarity, Field(discriminator="grader")]

_MISSING = object()


def program_in(answer: str) -> str:
    """The code of an answer: its fenced blocks, or the whole answer."""
    blocks: Sequence[str] = _FENCE.findall(answer)
    return "\n\n".join(blocks) if blocks else answer


def as_json(text: str) -> Any:
    """The JSON of an answer: all of it, a fenced block, or the text between the outer braces; None without any."""
    content = text.strip()
    begin, end = content.find("{"), content.rfind("}")
    for candidate in (content, *(block.strip() for block in _FENCE.findall(content)), content[begin : end + 1]):
        try:
            return orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
    return None


def _calls_in(answer: str) -> list[Any]:
    """The calls of an answer: marked ones, a list of calls, an object with such a list, or one object."""
    blocks = _TOOL_CALL.findall(answer)
    if blocks:
        return [as_json(block) for block in blocks]
    data = as_json(answer)
    if isinstance(data, dict) and isinstance(data.get("tool_calls"), list):
        data = data["tool_calls"]
    return data if isinstance(data, list) else [data]


def same_data(actual: Any, expected: Any) -> bool:
    """Equal by value and type: True is not 1, and 1 is not 1.0."""
    if type(actual) is not type(expected):
        return False
    if isinstance(actual, dict):
        return actual.keys() == expected.keys() and all(same_data(actual[key], expected[key]) for key in actual)
    if isinstance(actual, list):
        return len(actual) == len(expected) and all(map(same_data, actual, expected))
    return bool(actual == expected)


def _is(value: Value, expected: Any) -> bool:
    return value.kind == "value" and same_data(value.value, expected)


def _at(data: Any, path: str) -> Any:
    """The value at a dotted path. A key that contains dots itself works too."""
    if isinstance(data, dict) and path in data:
        return data[path]
    for name in path.split("."):
        if isinstance(data, dict) and name in data:
            data = data[name]
        elif isinstance(data, list) and name.isdecimal() and int(name) < len(data):
            data = data[int(name)]
        else:
            return _MISSING
    return data
