"""Graders: what is right scores 1, what is wrong less, and no answer makes one fail but in words."""

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


def made(grader: str, **fields: Any) -> Grader:
    """A grader as a line of a suite makes it."""
    return GRADERS.validate_python({"grader": grader, **fields})


def score(grader: Grader, answer: str) -> float:
    return grader.scores(answer, None)["score"]


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    found = find_sandbox(limits=Limits(seconds=1, cpu_seconds=1))
    if isinstance(found, Unavailable):
        pytest.skip(f"no sandbox: {found.because}")
    return found


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
def test_exact_is_the_same_text_but_for_white_space(answer: str, right: int) -> None:
    assert score(made("exact", reference="git push"), answer) == right


# Patterns


@pytest.mark.parametrize(("answer", "right"), [("It is 12.", 1), ("12", 1), ("112", 0), ("120", 0), ("twelve", 0)])
def test_a_pattern_is_found_anywhere_in_the_answer(answer: str, right: int) -> None:
    assert score(made("regex", pattern=r"(?<!\d)12(?!\d)", example="12"), answer) == right


def test_a_pattern_that_does_not_end_is_told_within_its_time() -> None:
    grader = made("regex", pattern=r"(?:a|aa)+$", example="a")
    began = time.process_time()
    with pytest.raises(ExaminationError, match=r"did not end within 1 s on an answer\. Write it without nested"):
        grader.scores("a" * 200 + "!", None)
    assert time.process_time() - began < PATTERN_SECONDS + 0.5


@pytest.mark.parametrize(
    ("pattern", "example", "sentence"),
    [
        ("(", "(", "the pattern cannot be read"),
        ("[a", "a", "the pattern cannot be read"),
        ("a{5,2}", "a", "the pattern cannot be read"),
        ("(?<n>a)(?P=m)", "aa", "the pattern cannot be read"),
        ("a{99999999999999999999}", "a", "the pattern"),
        ("(" * 5000 + ")" * 5000, "a", "the pattern"),
        ("yes", "no", "the example does not fit the pattern"),
        (r"(?:a|aa)+$", "a" * 60 + "!", "the pattern does not end on its example"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_in_words(pattern: str, example: str, sentence: str) -> None:
    with pytest.raises(ValidationError) as refused:
        made("regex", pattern=pattern, example=example)
    assert sentence in refused.value.errors()[0]["msg"]


def test_a_pattern_needs_an_example() -> None:
    with pytest.raises(ValidationError, match="example"):
        made("regex", pattern="a")


# JSON

FIELDS = {"name": "Ada", "born.year": 1815, "tags.0": "first", "ok": True, "none": None, "list": [1, {"a": 2.5}]}
RIGHT = {
    "name": "Ada", "born": {"year": 1815}, "tags": ["first", "second"], "ok": True, "none": None,
    "list": [1, {"a": 2.5}], "more": "is allowed",
}  # fmt: skip


def test_json_is_read_by_paths_into_objects_and_lists() -> None:
    assert made("json", fields=FIELDS).scores(orjson.dumps(RIGHT).decode(), None) == {"score": 1.0, "valid": 1.0}


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
def test_a_field_of_another_value_or_type_is_wrong_and_only_that_one(wrong: dict[str, Any]) -> None:
    found = made("json", fields=FIELDS).scores(orjson.dumps(RIGHT | wrong).decode(), None)
    assert found == {"score": pytest.approx(5 / 6), "valid": 1.0}


def test_a_field_that_is_not_there_is_no_null() -> None:
    assert score(made("json", fields={"none": None}), '{"other": null}') == 0


def test_a_name_with_dots_of_its_own_is_found() -> None:
    assert score(made("json", fields={"a.b": 1}), '{"a.b": 1}') == 1
    assert score(made("json", fields={"a.b": 1}), '{"a": {"b": 1}}') == 1


@pytest.mark.parametrize("path", ["a.²", "a.-1", "a.1", "a.", "a.0x0"])
def test_a_path_that_leads_nowhere_in_a_list_is_only_wrong(path: str) -> None:
    assert score(made("json", fields={path: 1}), '{"a": [1]}') == 0


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
def test_json_is_found_in_fences_and_between_words(answer: str) -> None:
    assert made("json", fields={"a": 1}).scores(answer, None) == {"score": 1.0, "valid": 1.0}


@pytest.mark.parametrize("answer", ["", "a is 1", "{'a': 1}", '{"a": 1', "{", "}{", '{"a": NaN}', "```"])
def test_what_is_no_json_is_not_valid(answer: str) -> None:
    assert made("json", fields={"a": 1}).scores(answer, None) == {"score": 0.0, "valid": 0.0}


@pytest.mark.parametrize(
    ("said", "wanted", "same"),
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
def test_data_are_the_same_by_value_and_type(said: Any, wanted: Any, same: bool) -> None:
    assert same_data(said, wanted) is same


@pytest.mark.parametrize(
    "fields", [{"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}, {"a": {"b": 1}, "a.c": 2}, {"a.b": 1, "a.b.c": 1}]
)
def test_fields_of_which_one_lies_in_another_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="lies inside"):
        made("json", fields=fields)


def test_an_example_changes_nothing_in_the_grader() -> None:
    grader = made("json", fields={"a": {"b": [1]}, "c.d": 2, "c.e": {"f": None}})
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
def test_a_tool_call_is_read_in_the_forms_that_models_write(answer: str) -> None:
    grader = made("tool call", tool="search", arguments=CALL["arguments"])
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
def test_tool_and_arguments_are_scored_apart(answer: str, tool: float, arguments: float) -> None:
    found = made("tool call", tool="search", arguments=CALL["arguments"]).scores(answer, None)
    assert found == pytest.approx({"score": (tool + arguments) / 2, "tool": tool, "arguments": arguments})


@pytest.mark.parametrize("given", [{}, None, "", "{}"])
def test_a_tool_without_arguments_is_called_with_none(given: Any) -> None:
    grader = made("tool call", tool="now")
    assert grader.scores(orjson.dumps({"name": "now", "arguments": given}).decode(), None)["score"] == 1
    assert grader.scores('{"name": "now"}', None)["score"] == 1


@pytest.mark.parametrize("given", [{"zone": "UTC"}, "garbage", ["UTC"], 5])
def test_arguments_that_nobody_asked_for_count_against_a_call(given: Any) -> None:
    found = made("tool call", tool="now").scores(orjson.dumps({"name": "now", "arguments": given}).decode(), None)
    assert found == {"score": 0.5, "tool": 1.0, "arguments": 0.0}


def test_a_second_call_that_nobody_asked_for_is_wrong() -> None:
    grader = made("tool call", tool="search", arguments=CALL["arguments"])
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
def test_code_is_right_where_every_case_is(sandbox: Sandbox, answer: str, whole: int, share: float) -> None:
    grader = made("unit test", **DOUBLE, solution=SOLUTION)
    assert grader.scores(answer, sandbox) == {"score": whole, "cases": share}


def test_the_solution_of_a_unit_test_is_right(sandbox: Sandbox) -> None:
    grader = made("unit test", **DOUBLE, solution=SOLUTION)
    assert grader.scores(grader.example(), sandbox)["score"] == 1


def test_code_is_not_graded_without_a_sandbox() -> None:
    with pytest.raises(ExaminationError, match=r"there is none here\. Install bubblewrap or Docker"):
        made("unit test", **DOUBLE, solution=SOLUTION).scores(SOLUTION, None)


@pytest.mark.parametrize("name", ["", "a.b", "1a", "a()", "__import__('os').system", "a\n"])
def test_a_function_has_a_plain_name(name: str) -> None:
    with pytest.raises(ValidationError, match="function"):
        made("unit test", function=name, cases=[{"result": 1}], solution="pass")


def test_several_blocks_are_one_program() -> None:
    assert program_in("First\n```python\na = 1\n```\nthen\n```\nb = 2\n```") == "a = 1\n\n\nb = 2\n"
    assert program_in("a = 1") == "a = 1"


# Alike


def test_similarity_counts_insertions_and_deletions() -> None:
    grader = made("similarity", reference="abcd")
    assert score(grader, " abcd\n") == 1
    assert score(grader, "abc") == pytest.approx(2 * 3 / 7)  # three letters shared of four and three
    assert score(grader, "xyz") == 0


def test_what_is_less_alike_than_asked_is_wrong() -> None:
    grader = made("similarity", reference="abcd", least=0.9)
    assert (score(grader, "abcd"), score(grader, "abc")) == (1, 0)


def test_a_very_long_answer_costs_no_time() -> None:
    began = time.perf_counter()
    assert score(made("similarity", reference="abcd" * 100), "abcd" * 500_000) < 0.1
    assert score(made("regex", pattern="b+c", example="bc"), "ab" * 1_000_000) == 0
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("least", [-0.1, 1.1, "much"])
def test_least_is_a_share(least: Any) -> None:
    with pytest.raises(ValidationError, match="least"):
        made("similarity", reference="a", least=least)


# All of them

EXAMPLES: list[Grader] = [
    made("exact", reference="a b"),
    made("regex", pattern=r"(?i)\byes\b", example="Yes."),
    made("json", fields={"a.b": 1, "c": [True, None], "d.0": "x"}),
    made("tool call", tool="search", arguments={"q": "x", "a.b": 1}),
    made("tool call", tool="now"),
    made("similarity", reference="a b c", least=0.5),
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
def test_no_answer_makes_a_grader_fail(grader: Grader, answer: str) -> None:
    found = grader.scores(answer, None)
    assert all(0 <= value <= 1 for value in found.values())
    assert grader.scores(answer, None) == found


@pytest.mark.parametrize("grader", EXAMPLES, ids=lambda grader: grader.grader)
def test_strange_texts_make_no_grader_fail(grader: Grader) -> None:
    for answer in ("\ud800", "\x00", "[" * 5000, '{"a":' * 3000, "{" * 100_000, "<tool_call>" * 1000, "9" * 5000):
        assert grader.scores(answer, None)["score"] < 1


@pytest.mark.parametrize("grader", EXAMPLES, ids=lambda grader: grader.grader)
def test_its_own_example_scores_one_and_nothing_scores_none(grader: Grader) -> None:
    assert score(grader, grader.example()) == 1
    assert score(grader, "") == 0


PATHS = st.lists(st.text(st.characters(codec="utf-8"), max_size=4), min_size=1, max_size=3).map(".".join)
VALUES = PLAIN.filter(lambda value: orjson.loads(orjson.dumps(value)) == value)


@settings(max_examples=80, deadline=None)
@given(fields=st.dictionaries(PATHS, VALUES, min_size=1, max_size=4))
def test_the_example_of_any_fields_scores_one_or_they_are_refused(fields: dict[str, Any]) -> None:
    try:
        grader = made("json", fields=fields)
    except ValidationError as refused:
        assert "lies inside" in str(refused)  # noqa: PT017  the refusal is one of two right outcomes
        return
    assert score(grader, grader.example()) == 1


@settings(max_examples=80, deadline=None)
@given(arguments=st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), VALUES, max_size=4))
def test_the_example_of_any_tool_call_scores_one(arguments: dict[str, Any]) -> None:
    grader = made("tool call", tool="search", arguments=arguments)
    assert score(grader, grader.example()) == 1


@settings(max_examples=60, deadline=None)
@given(pattern=st.text(st.sampled_from("ab()[]{}|*+?^$\\.,<>=!:PV0129-&~#"), max_size=12))
def test_any_pattern_is_read_or_refused_in_words(pattern: str) -> None:
    try:
        grader = made("regex", pattern=pattern, example="ab")
    except ValidationError as refused:
        assert "the pattern" in str(refused)  # noqa: PT017
        return
    assert score(grader, "ab") == 1


def test_json_of_a_text_without_any() -> None:
    assert as_json("no braces") is None
