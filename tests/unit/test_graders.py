"""Graders: a correct answer scores 1, a wrong one less, and no answer raises an unexpected error."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from academy.arena.graders import PATTERN_SECONDS, Grader, as_json, program_in, same_data
from academy.arena.sandbox import Limits, Sandbox, Unavailable, find_sandbox
from academy.errors import ExaminationError

GRADERS: TypeAdapter[Grader] = TypeAdapter(Grader)


def grader_of(grader: str, **fields: Any) -> Grader:
    """A grader from a line of a suite."""
    return GRADERS.validate_python({"grader": grader, **fields})


def score(grader: Grader, answer: str) -> float:
    return grader.scores(answer, None)["score"]


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    sandbox = find_sandbox(limits=Limits(seconds=1, cpu_seconds=1))
    if isinstance(sandbox, Unavailable):
        pytest.skip(f"no sandbox: {sandbox.because}")
    return sandbox


# The same text


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("git push", 1),
        ("  git\n  push\t", 1),
        ("git\u00a0push", 1),
        ("Git push", 0),
        ("git push.", 0),
        ("gitpush", 0),
        ("git push git push", 0),
        ("", 0),
    ],
)
def test_exact_ignores_white_space_only(answer: str, right: int) -> None:
    assert score(grader_of("exact", reference="git push"), answer) == right


# Patterns


@pytest.mark.parametrize(("answer", "right"), [("It is 12.", 1), ("12", 1), ("112", 0), ("120", 0), ("twelve", 0)])
def test_pattern_matches_anywhere_in_the_answer(answer: str, right: int) -> None:
    assert score(grader_of("regex", pattern=r"(?<!\d)12(?!\d)", example="12"), answer) == right


def test_pattern_that_takes_too_long_is_stopped() -> None:
    grader = grader_of("regex", pattern=r"(?:a|aa)+$", example="a")
    began = time.process_time()
    with pytest.raises(ExaminationError, match=r"took more than 1 s on an answer\. Write it without nested"):
        grader.scores("a" * 200 + "!", None)
    assert time.process_time() - began < PATTERN_SECONDS + 0.5


@pytest.mark.parametrize(
    ("pattern", "example", "sentence"),
    [
        ("(", "(", "the pattern is invalid"),
        ("[a", "a", "the pattern is invalid"),
        ("a{5,2}", "a", "the pattern is invalid"),
        ("(?<n>a)(?P=m)", "aa", "the pattern is invalid"),
        ("a{99999999999999999999}", "a", "the pattern"),
        ("(" * 5000 + ")" * 5000, "a", "the pattern"),
        ("yes", "no", "the example does not match the pattern"),
        (r"(?:a|aa)+$", "a" * 60 + "!", "the pattern takes more than 1 s on its example"),
    ],
)
def test_invalid_pattern_is_rejected_with_the_reason(pattern: str, example: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        grader_of("regex", pattern=pattern, example=example)
    assert sentence in error.value.errors()[0]["msg"]


def test_pattern_needs_an_example() -> None:
    with pytest.raises(ValidationError, match="example"):
        grader_of("regex", pattern="a")


# JSON

FIELDS = {"name": "Ada", "born.year": 1815, "tags.0": "first", "ok": True, "none": None, "list": [1, {"a": 2.5}]}
RIGHT = {
    "name": "Ada", "born": {"year": 1815}, "tags": ["first", "second"], "ok": True, "none": None,
    "list": [1, {"a": 2.5}], "more": "is allowed",
}  # fmt: skip


def test_json_fields_are_paths_into_objects_and_lists() -> None:
    assert grader_of("json", fields=FIELDS).scores(orjson.dumps(RIGHT).decode(), None) == {"score": 1.0, "valid": 1.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"ok": 1},
        {"ok": "true"},
        {"name": "ada"},
        {"name": ["Ada"]},
        {"born": {"year": 1815.0}},
        {"born": {"year": "1815"}},
        {"born": 1815},
        {"tags": []},
        {"tags": "first"},
        {"none": False},
        {"none": 0},
        {"list": [1, {"a": 2.5}, 3]},
        {"list": [{"a": 2.5}, 1]},
        {"list": [1, {"a": 2.5, "b": 1}]},
    ],
)
def test_json_field_with_another_value_or_type_is_wrong(wrong: dict[str, Any]) -> None:
    scores = grader_of("json", fields=FIELDS).scores(orjson.dumps(RIGHT | wrong).decode(), None)
    assert scores == {"score": pytest.approx(5 / 6), "valid": 1.0}


def test_json_field_that_is_missing_differs_from_null() -> None:
    assert score(grader_of("json", fields={"none": None}), '{"other": null}') == 0


def test_json_key_with_dots_is_supported() -> None:
    assert score(grader_of("json", fields={"a.b": 1}), '{"a.b": 1}') == 1
    assert score(grader_of("json", fields={"a.b": 1}), '{"a": {"b": 1}}') == 1


@pytest.mark.parametrize("path", ["a.²", "a.-1", "a.1", "a.", "a.0x0"])
def test_json_path_without_a_list_item_is_wrong(path: str) -> None:
    assert score(grader_of("json", fields={path: 1}), '{"a": [1]}') == 0


@pytest.mark.parametrize(
    "answer",
    [
        '{"a": 1}',
        '\n  {"a": 1}  \n',
        '```json\n{"a": 1}\n```',
        '```\n{"a": 1}\n```',
        '```json\n{"a": 1}',
        'Here it is:\n```json\n{"a": 1}\n```\nAnything else?',
        'Here it is: {"a": 1}. Anything else?',
        '```json {"a": 1} ```',
    ],
)
def test_json_is_read_from_fences_and_surrounding_text(answer: str) -> None:
    assert grader_of("json", fields={"a": 1}).scores(answer, None) == {"score": 1.0, "valid": 1.0}


@pytest.mark.parametrize("answer", ["", "a is 1", "{'a': 1}", '{"a": 1', "{", "}{", '{"a": NaN}', "```"])
def test_answer_without_json_is_not_valid(answer: str) -> None:
    assert grader_of("json", fields={"a": 1}).scores(answer, None) == {"score": 0.0, "valid": 0.0}


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        (True, 1, False),
        (1, True, False),
        (1, 1.0, False),
        (0, False, False),
        (None, False, False),
        ("1", 1, False),
        ([], {}, False),
        ([True], [1], False),
        ({"a": {"b": True}}, {"a": {"b": 1}}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ([1, [2.5, None]], [1, [2.5, None]], True),
    ],
)
def test_same_data_compares_value_and_type(actual: Any, expected: Any, same: bool) -> None:
    assert same_data(actual, expected) is same


@pytest.mark.parametrize(
    "fields", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a": {"b": 1}, "a.c": 2}, {"a.b": 1, "a.b.c": 1}]
)
def test_json_fields_inside_each_other_are_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="is inside"):
        grader_of("json", fields=fields)


def test_example_does_not_change_the_grader() -> None:
    grader = grader_of("json", fields={"a": {"b": [1]}, "c.d": 2, "c.e": {"f": None}})
    before = grader.model_dump_json()
    assert score(grader, grader.example()) == 1
    assert grader.model_dump_json() == before


# Tool calls

CALL = {"name": "search", "arguments": {"query": "lights", "limit": 3}}


def called(**changes: Any) -> str:
    return orjson.dumps(CALL | changes).decode()


@pytest.mark.parametrize(
    "answer",
    [
        called(),
        f"```json\n{called()}\n```",
        f"<tool_call>\n{called()}\n</tool_call>",
        f"I will look.\n<tool_call>{called()}</tool_call> Then I will tell.",
        f"<tool_call>{called()}",
        f"<tool_call>\n```json\n{called()}\n```\n</tool_call>",
        called(arguments=orjson.dumps(CALL["arguments"]).decode()),
        orjson.dumps({"tool": "search", "parameters": CALL["arguments"]}).decode(),
        orjson.dumps({"type": "function", "function": CALL}).decode(),
        orjson.dumps(
            {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"limit":3,"query":"lights"}'}}
        ).decode(),
        orjson.dumps({"tool_calls": [{"type": "function", "function": CALL}]}).decode(),
        f"[{called()}]",
    ],
)  # fmt: skip
def test_tool_call_is_read_in_common_formats(answer: str) -> None:
    grader = grader_of("tool call", tool="search", arguments=CALL["arguments"])
    assert grader.scores(answer, None) == {"score": 1.0, "tool": 1.0, "arguments": 1.0}


@pytest.mark.parametrize(
    ("answer", "tool", "arguments"),
    [
        (called(name="find"), 0, 0),
        (called(name=["search"]), 0, 0),
        (called(arguments={"query": "lights"}), 1, 1 / 2),
        (called(arguments={"query": "lights", "limit": 3, "page": 1}), 1, 2 / 3),
        (called(arguments={"query": "lights", "limit": "3"}), 1, 1 / 2),
        (called(arguments={"query": "lights", "limit": 3.0}), 1, 1 / 2),
        (called(arguments={"q": "lights"}), 1, 0),
        (called(arguments={}), 1, 0),
        (called(arguments=None), 1, 0),
        (called(arguments="lights, 3"), 1, 0),
        (called(arguments=["lights", 3]), 1, 0),
        (called(arguments="["), 1, 0),
        ("{}", 0, 0),
        ("search(query='lights', limit=3)", 0, 0),
        ("", 0, 0),
        ("[]", 0, 0),
        ("null", 0, 0),
        ('"search"', 0, 0),
    ],
)
def test_tool_call_scores_tool_and_arguments_separately(answer: str, tool: float, arguments: float) -> None:
    scores = grader_of("tool call", tool="search", arguments=CALL["arguments"]).scores(answer, None)
    assert scores == pytest.approx({"score": (tool + arguments) / 2, "tool": tool, "arguments": arguments})


@pytest.mark.parametrize("given", [{}, None, "", "{}"])
def test_tool_call_without_arguments_accepts_empty_ones(given: Any) -> None:
    grader = grader_of("tool call", tool="now")
    assert grader.scores(orjson.dumps({"name": "now", "arguments": given}).decode(), None)["score"] == 1
    assert grader.scores('{"name": "now"}', None)["score"] == 1


@pytest.mark.parametrize("given", [{"zone": "UTC"}, "garbage", ["UTC"], 5])
def test_tool_call_with_additional_arguments_scores_less(given: Any) -> None:
    scores = grader_of("tool call", tool="now").scores(orjson.dumps({"name": "now", "arguments": given}).decode(), None)
    assert scores == {"score": 0.5, "tool": 1.0, "arguments": 0.0}


def test_tool_call_with_an_additional_call_is_wrong() -> None:
    grader = grader_of("tool call", tool="search", arguments=CALL["arguments"])
    deletion = '{"name": "delete", "arguments": {}}'
    for answer in (
        f"<tool_call>{called()}</tool_call><tool_call>{deletion}</tool_call>",
        f"[{called()}, {deletion}]",
        f'{{"tool_calls": [{called()}, {deletion}]}}',
    ):
        assert score(grader, answer) == 0


# Code

DOUBLE = {"function": "double", "cases": [{"args": [2], "result": 4}, {"args": ["a"], "result": "aa"}]}
SOLUTION = "def double(x):\n    return x + x"


@pytest.mark.parametrize(
    ("answer", "whole", "share"),
    [
        (f"```python\n{SOLUTION}\n```", 1, 1),
        (SOLUTION, 1, 1),
        (f"Sure!\n```python\n{SOLUTION}\n```\nIt adds.", 1, 1),
        ("def double(x):\n    return 2 * int(x)", 0, 1 / 2),
        ("def double(x):\n    return 4.0 if x == 2 else 'aa'", 0, 1 / 2),
        ("def double(x):\n    return True", 0, 0),
        ("def twice(x):\n    return x + x", 0, 0),
        ("def double(x:", 0, 0),
        ("I would rather not.", 0, 0),
        ("", 0, 0),
        ("def double(x):\n    while True: pass", 0, 0),
    ],
)
def test_code_is_correct_where_every_case_is(sandbox: Sandbox, answer: str, whole: int, share: float) -> None:
    grader = grader_of("unit test", **DOUBLE, solution=SOLUTION)
    assert grader.scores(answer, sandbox) == {"score": whole, "cases": share}


def test_solution_of_a_unit_test_is_correct(sandbox: Sandbox) -> None:
    grader = grader_of("unit test", **DOUBLE, solution=SOLUTION)
    assert grader.scores(grader.example(), sandbox)["score"] == 1


def test_code_without_a_sandbox_raises() -> None:
    with pytest.raises(ExaminationError, match=r"none is available\. Install bubblewrap or Docker"):
        grader_of("unit test", **DOUBLE, solution=SOLUTION).scores(SOLUTION, None)


@pytest.mark.parametrize("name", ["", "a.b", "1a", "a()", "__import__('os').system", "a\n"])
def test_unit_test_function_needs_a_plain_name(name: str) -> None:
    with pytest.raises(ValidationError, match="function"):
        grader_of("unit test", function=name, cases=[{"result": 1}], solution="pass")


def test_program_joins_several_code_blocks() -> None:
    assert program_in("First\n```python\na = 1\n```\nthen\n```\nb = 2\n```") == "a = 1\n\n\nb = 2\n"
    assert program_in("a = 1") == "a = 1"


# Similarity


def test_similarity_counts_insertions_and_deletions() -> None:
    grader = grader_of("similarity", reference="abcd")
    assert score(grader, " abcd\n") == 1
    assert score(grader, "abc") == pytest.approx(2 * 3 / 7)  # three letters shared of four and three
    assert score(grader, "xyz") == 0


def test_similarity_below_the_minimum_is_wrong() -> None:
    grader = grader_of("similarity", reference="abcd", least=0.9)
    assert (score(grader, "abcd"), score(grader, "abc")) == (1, 0)


def test_very_long_answers_are_graded_quickly() -> None:
    began = time.perf_counter()
    assert score(grader_of("similarity", reference="abcd" * 100), "abcd" * 500_000) < 0.1
    assert score(grader_of("regex", pattern="b+c", example="bc"), "ab" * 1_000_000) == 0
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("least", [-0.1, 1.1, "much"])
def test_similarity_minimum_is_a_share(least: Any) -> None:
    with pytest.raises(ValidationError, match="least"):
        grader_of("similarity", reference="a", least=least)


# All of them

EXAMPLES: list[Grader] = [
    grader_of("exact", reference="a b"),
    grader_of("regex", pattern=r"(?i)\byes\b", example="Yes."),
    grader_of("json", fields={"a.b": 1, "c": [True, None], "d.0": "x"}),
    grader_of("tool call", tool="search", arguments={"q": "x", "a.b": 1}),
    grader_of("tool call", tool="now"),
    grader_of("similarity", reference="a b c", least=0.5),
]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
NAMED = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "name", "tool", "function", "arguments", "parameters", "tool_calls", "q"]),
    PLAIN | st.just("search"),
)
ANSWERS = (
    st.text()
    | st.text(st.characters(), max_size=30)
    | st.builds(lambda value: orjson.dumps(value).decode(), PLAIN | NAMED | st.lists(NAMED, max_size=2))
    | st.builds(lambda value: f"<tool_call>{orjson.dumps(value).decode()}</tool_call>", NAMED)
    | st.builds(lambda value: f'{{"function": {orjson.dumps(value).decode()}}}', NAMED)
)


@pytest.mark.parametrize("grader", EXAMPLES, ids=lambda grader: grader.grader)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answer=ANSWERS)
def test_grader_accepts_any_answer(grader: Grader, answer: str) -> None:
    scores = grader.scores(answer, None)
    assert all(0 <= value <= 1 for value in scores.values())
    assert grader.scores(answer, None) == scores


@pytest.mark.parametrize("grader", EXAMPLES, ids=lambda grader: grader.grader)
def test_grader_accepts_strange_texts(grader: Grader) -> None:
    for answer in ("\ud800", "\x00", "[" * 5000, '{"a":' * 3000, "{" * 100_000, "<tool_call>" * 1000, "9" * 5000):
        assert grader.scores(answer, None)["score"] < 1


@pytest.mark.parametrize("grader", EXAMPLES, ids=lambda grader: grader.grader)
def test_grader_scores_its_example_one_and_an_empty_answer_zero(grader: Grader) -> None:
    assert score(grader, grader.example()) == 1
    assert score(grader, "") == 0


PATHS = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=1, max_size=3).map(".".join)
VALUES = PLAIN.filter(lambda value: orjson.loads(orjson.dumps(value)) == value)


@settings(max_examples=80, deadline=None)
@given(fields=st.dictionaries(PATHS, VALUES, min_size=1, max_size=4))
def test_example_of_json_fields_scores_one_or_the_fields_are_rejected(fields: dict[str, Any]) -> None:
    try:
        grader = grader_of("json", fields=fields)
    except ValidationError as error:
        assert "is inside" in str(error)  # noqa: PT017  the error is one of two correct outcomes
        return
    assert score(grader, grader.example()) == 1


@settings(max_examples=80, deadline=None)
@given(arguments=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), VALUES, max_size=4))
def test_tool_call_example_scores_one(arguments: dict[str, Any]) -> None:
    grader = grader_of("tool call", tool="search", arguments=arguments)
    assert score(grader, grader.example()) == 1


@settings(max_examples=60, deadline=None)
@given(pattern=st.text(st.sampled_from("ab()[]{}|*+?^$\\.,<>=!:PV0129-&~#"), max_size=12))
def test_pattern_is_valid_or_rejected_with_a_reason(pattern: str) -> None:
    try:
        grader = grader_of("regex", pattern=pattern, example="ab")
    except ValidationError as error:
        assert "the pattern" in str(error)  # noqa: PT017
        return
    assert score(grader, "ab") == 1


def test_json_of_a_text_without_json_is_none() -> None:
    assert as_json("no braces") is None
