"""Graders of user suites: each a record that was read from a line of JSON, with one function that scores an answer.

{"grader": "exact", "reference": "..."}                     the same text, white space apart
{"grader": "regex", "pattern": "..."}                       found anywhere in the answer, within a second
{"grader": "json", "fields": {"a.b": 1}}                    the share of fields that have these values
{"grader": "tool call", "tool": "...", "arguments": {...}}  half for the tool, half for the share of arguments
{"grader": "unit test", "function": "f", "cases": [...]}    all cases pass, run in the sandbox
{"grader": "similarity", "reference": "...", "least": 0.9}  alike by edits, from 0 to 1; below `least` it is 0
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
"""Characters of an answer that are compared; no answer worth a point is longer."""
_FENCE = re.compile(r"```(?:[\w+-]*)\n(.*?)(?:```|\Z)", re.DOTALL)
_TOOL_CALL = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


class Case(Record):
    """A call and the plain data that it must return."""

    args: tuple[Any, ...] = ()
    result: Any


class Exact(Record):
    """The same text, white space apart."""

    grader: Literal["exact"] = "exact"
    reference: str

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`."""
        return {"score": float(same_text(answer, self.reference))}

    def example(self) -> str:
        """A right answer."""
        return self.reference


class Pattern(Record):
    """A regular expression; `example` is an answer that fits, for the liveness proof."""

    grader: Literal["regex"]
    pattern: str
    example_: str = Field(alias="example")

    @model_validator(mode="after")
    def _compiles(self) -> Pattern:
        try:
            fits = regex.search(self.pattern, self.example_, timeout=PATTERN_SECONDS)
        except regex.error as problem:
            msg = f"the pattern cannot be read ({problem})"
            raise ValueError(msg) from None
        except RecursionError:
            msg = "the pattern is nested too deeply"
            raise ValueError(msg) from None
        except TimeoutError:
            msg = "the pattern does not end on its example"
            raise ValueError(msg) from None
        if not fits:
            msg = "the example does not fit the pattern"
            raise ValueError(msg)
        return self

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`. Raises ExaminationError where the pattern does not end."""
        try:
            found = regex.search(self.pattern, answer[:MOST_COMPARED], timeout=PATTERN_SECONDS)
        except TimeoutError:
            raise ExaminationError(
                f"The pattern {self.pattern[:60]} did not end within {PATTERN_SECONDS:.0f} s on an answer.",
                "Write it without nested repetitions.",
            ) from None
        return {"score": float(found is not None)}

    def example(self) -> str:
        """A right answer."""
        return self.example_


class Fields(Record):
    """Values that an answer in JSON must have, by dotted path."""

    grader: Literal["json"]
    fields: dict[str, Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_met(self) -> Fields:
        try:
            met = self.scores(self.example(), None)["score"] == 1
        except (TypeError, AttributeError):
            met = False
        if not met:
            msg = "one of the fields lies inside another one; name each value once"
            raise ValueError(msg)
        return self

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`: the share of fields that are right; `valid`: whether it is JSON at all."""
        found = as_json(answer)
        if found is None:
            return {"score": 0.0, "valid": 0.0}
        right = sum(same_data(_at(found, path), wanted) for path, wanted in self.fields.items())
        return {"score": right / len(self.fields), "valid": 1.0}

    def example(self) -> str:
        """A right answer."""
        made: dict[str, Any] = {}
        for path, value in self.fields.items():
            *parents, last = path.split(".")
            place = made
            for name in parents:
                place = place.setdefault(name, {})
            place[last] = deepcopy(value)  # another field may be put inside it
        return orjson.dumps(made).decode()


class ToolCall(Record):
    """A tool to be called with arguments."""

    grader: Literal["tool call"]
    tool: str
    arguments: dict[str, Any] = Field(default_factory=dict)

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`, `tool`, `arguments`; arguments and calls that were not asked for count against it."""
        calls = _calls_in(answer)
        if len(calls) != 1 or not isinstance(calls[0], dict):
            return {"score": 0.0, "tool": 0.0, "arguments": 0.0}
        call = calls[0]["function"] if isinstance(calls[0].get("function"), dict) else calls[0]
        given = call.get("arguments", call.get("parameters"))
        if isinstance(given, str) and (read := as_json(given)) is not None:
            given = read  # what cannot be read stays a text, and a text is no arguments
        given = {} if given in (None, "") else given
        tool = float((call.get("name") or call.get("tool")) == self.tool)
        arguments = tool * self._share_of(given)
        return {"score": (tool + arguments) / 2, "tool": tool, "arguments": arguments}

    def _share_of(self, given: Any) -> float:
        """The share of arguments that are right, of those that were asked for and those that were given."""
        if not isinstance(given, dict):
            return 0.0
        names = self.arguments.keys() | given.keys()
        right = sum(same_data(_at(given, name), self.arguments.get(name, _MISSING)) for name in names)
        return right / len(names) if names else 1.0

    def example(self) -> str:
        """A right answer."""
        return orjson.dumps({"name": self.tool, "arguments": self.arguments}).decode()


class UnitTest(Record):
    """A function to be written; its cases are run in the sandbox and compared outside."""

    grader: Literal["unit test"]
    function: str = Field(pattern=r"^[A-Za-z_]\w*$")
    cases: tuple[Case, ...] = Field(min_length=1)
    solution: str

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:
        """`score`: 1 where every case is right; `cases`: the share. Raises ExaminationError without a sandbox."""
        if sandbox is None:
            raise ExaminationError(
                "Model-written code is run in a sandbox, and there is none here.", "Install bubblewrap or Docker."
            )
        ran = sandbox.run(program_in(answer), [Call(function=self.function, args=case.args) for case in self.cases])
        right = sum(_is(value, case.result) for value, case in zip(ran.values, self.cases, strict=False))
        whole = ran.ended == "done" and len(ran.values) == len(self.cases) == right
        return {"score": float(whole), "cases": right / len(self.cases) if ran.ended == "done" else 0.0}

    def example(self) -> str:
        """A right answer."""
        return f"```python\n{self.solution}\n```"


class Similarity(Record):
    """Alike by insertions and deletions of characters."""

    grader: Literal["similarity"]
    reference: str
    least: float = Field(0.0, ge=0, le=1)

    def scores(self, answer: str, sandbox: Sandbox | None) -> dict[str, float]:  # noqa: ARG002
        """`score`."""
        alike = Indel.normalized_similarity(answer[:MOST_COMPARED].strip(), self.reference.strip())
        return {"score": alike if alike >= self.least else 0.0}

    def example(self) -> str:
        """A right answer."""
        return self.reference


Grader = Annotated[Exact | Pattern | Fields | ToolCall | UnitTest | Similarity, Field(discriminator="grader")]

_MISSING = object()


def program_in(answer: str) -> str:
    """The code of an answer: its fenced blocks, or all of it."""
    blocks: Sequence[str] = _FENCE.findall(answer)
    return "\n\n".join(blocks) if blocks else answer


def as_json(text: str) -> Any:
    """The JSON of an answer: all of it, a fenced block, or what is between the outer braces; None without one."""
    stripped = text.strip()
    begin, end = stripped.find("{"), stripped.rfind("}")
    for candidate in (stripped, *(block.strip() for block in _FENCE.findall(stripped)), stripped[begin : end + 1]):
        try:
            return orjson.loads(candidate)
        except orjson.JSONDecodeError:
            continue
    return None


def _calls_in(answer: str) -> list[Any]:
    """The calls that an answer makes: marked ones, a list of them, an object that holds such a list, or one object."""
    marked = _TOOL_CALL.findall(answer)
    if marked:
        return [as_json(one) for one in marked]
    found = as_json(answer)
    if isinstance(found, dict) and isinstance(found.get("tool_calls"), list):
        found = found["tool_calls"]
    return found if isinstance(found, list) else [found]


def same_data(said: Any, wanted: Any) -> bool:
    """Equal by value and type: True is not 1, and 1 is not 1.0."""
    if type(said) is not type(wanted):
        return False
    if isinstance(said, dict):
        return said.keys() == wanted.keys() and all(same_data(said[key], wanted[key]) for key in said)
    if isinstance(said, list):
        return len(said) == len(wanted) and all(map(same_data, said, wanted))
    return bool(said == wanted)


def _is(value: Value, wanted: Any) -> bool:
    return value.kind == "value" and same_data(value.value, wanted)


def _at(found: Any, path: str) -> Any:
    """What stands at a dotted path; a name that has dots itself is found, too."""
    if isinstance(found, dict) and path in found:
        return found[path]
    for name in path.split("."):
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return _MISSING
    return found
