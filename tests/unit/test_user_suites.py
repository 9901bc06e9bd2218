"""Suites from files, their error messages with line numbers, and the general questions of the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from academy.arena.sandbox import Unavailable, find_sandbox
from academy.arena.self_check import self_check_failure
from academy.arena.suites.base import Reply
from academy.arena.suites.regression import FILE, regression
from academy.arena.suites.user import UserSuite
from academy.errors import ExaminationError, InputError
from academy.experience.experience import Experience
from tests.refusals import raises_refusal

ONE = {"id": "q1", "request": "Which lights?", "reference": "The red ones."}
HEADING = {"suite": "on call", "role": "target"}


def written(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.jsonl"


def refusal_of(path: Path) -> str:
    """The error message and remedy for a file."""
    with raises_refusal(InputError) as problem:
        UserSuite.read(path)
    assert problem.value.message.endswith(".")
    assert "Value error" not in str(problem.value)
    return str(problem.value)


# Reading


def test_file_without_a_heading_is_a_guard_named_after_the_file(file: Path) -> None:
    suite = UserSuite.read(written(file, ONE, "", {**ONE, "id": "q2", "group": "lights", "tags": ["a", "b"]}))
    assert (suite.name, suite.role) == ("mine", "guard")
    first, second = suite.questions()
    assert (first.id, first.request, first.reference, first.group, first.slice, first.tags) == (
        "q1", "Which lights?", "The red ones.", "q1", "guard", (),
    )  # fmt: skip
    assert (second.group, second.tags) == ("lights", ("a", "b"))


def test_heading_sets_name_and_role(file: Path) -> None:
    suite = UserSuite.read(written(file, HEADING, ONE))
    assert (suite.name, suite.role, len(suite.questions())) == ("on call", "target", 1)


def test_heading_may_follow_empty_lines(file: Path) -> None:
    assert UserSuite.read(written(file, "", "  ", HEADING, ONE)).name == "on call"


def test_file_with_byte_order_mark_and_carriage_returns_is_read(file: Path) -> None:
    """The last line has no line end."""
    lines = [json.dumps(row).encode() for row in (HEADING, ONE)]
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert UserSuite.read(file).name == "on call"


@pytest.mark.parametrize("name", ["Fragen für Anna.jsonl", "m².jsonl", "½.jsonl", "a" * 200 + ".jsonl", "(1).jsonl"])
def test_any_file_name_gives_a_valid_suite_name(tmp_path: Path, name: str) -> None:
    assert len(UserSuite.read(written(tmp_path / name, ONE)).questions()) == 1


def test_file_may_mix_all_kinds_of_graders(file: Path) -> None:
    rows = [
        {"id": "1", "request": "a", "grader": "exact", "reference": "x"},
        {"id": "2", "request": "b", "grader": "regex", "pattern": "x+", "example": "xx"},
        {"id": "3", "request": "c", "grader": "json", "fields": {"x": 1}},
        {"id": "4", "request": "d", "grader": "tool call", "tool": "x", "arguments": {"y": 1}},
        {"id": "5", "request": "e", "grader": "similarity", "reference": "xyz", "least": 0.5},
    ]
    suite = UserSuite.read(written(file, *rows))
    assert not suite.needs_sandbox
    for question in suite.questions():
        right = suite.control_answer(question, right=True)
        assert suite.grade(question, right) == 1, question.id
        assert suite.grade(question, suite.control_answer(question, right=False)) == 0, question.id
    assert [sorted(suite.details(q, Reply(text="{}"))) for q in suite.questions()] == [
        [], [], ["valid"], ["arguments", "tool"], [],
    ]  # fmt: skip


def test_suite_with_unit_tests_needs_a_sandbox(file: Path) -> None:
    code = {"id": "1", "request": "Write f.", "grader": "unit test", "function": "f", "cases": [{"result": 7}],
            "solution": "def f():\n    return 7"}  # fmt: skip
    suite = UserSuite.read(written(file, HEADING, ONE, code))
    assert suite.needs_sandbox
    question = suite.questions()[1]
    assert suite.details(question, Reply(text="")) == {}
    with pytest.raises(ExaminationError, match="none is available"):
        suite.grade(question, suite.control_answer(question, right=True))
    sandbox = find_sandbox()
    if isinstance(sandbox, Unavailable):
        pytest.skip(f"no sandbox: {sandbox.because}")
    inside = suite.inside(sandbox)
    assert (inside.name, inside.role, inside.digest) == (suite.name, suite.role, suite.digest)
    assert inside.grade(question, suite.control_answer(question, right=True)) == 1


# Errors


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not valid JSON"),
        ('{"id": "\ud800"}'.encode("utf-8", "surrogatepass").decode("latin-1"), "line 2"),
        ("[]", "line 2 is not a JSON object"),
        ('"q2"', "line 2 is not a JSON object"),
        ("7", "line 2 is not a JSON object"),
        ('{"request": "a", "reference": "b"}', "line 2: id: it is missing"),
        ('{"id": "q2", "reference": "b"}', "line 2: request: it is missing"),
        ('{"id": "q2", "request": "a"}', "line 2: reference: it is missing"),
        ('{"id": "", "request": "a", "reference": "b"}', "line 2: id: it must not be empty"),
        ('{"id": "q2", "request": "", "reference": "b"}', "line 2: request: it must not be empty"),
        ('{"id": "q2", "request": " ", "reference": "b"}', "line 2: the request is empty"),
        ('{"id": 2, "request": "a", "reference": "b"}', "line 2: id: it must be text"),
        ('{"id": "q2", "request": "a", "reference": "b", "tags": "x"}', "line 2: tags: it must be a list"),
        ('{"id": "q2", "request": "a", "reference": "b", "tags": [1]}', "line 2: tags.0: it must be text"),
        ('{"id": "q2", "request": "a", "reference": 7}', "line 2: reference: it must be text"),
        ('{"id": "q2", "request": "a", "reference": ""}', "line 2: an empty answer would be correct"),
        ('{"id": "q2", "request": "a", "reference": " "}', "line 2: an empty answer would be correct"),
        ('{"id": "q2", "request": "a", "answer": "b"}', "line 2: reference: it is missing"),
        (
            '{"id": "q2", "request": "a", "reference": "b", "weight": 2}',
            "line 2: weight: it is unknown",
        ),
        ('{"id": "q2", "request": "a", "grader": "magic"}', "'magic'"),
        ('{"id": "q2", "request": "a", "grader": 1}', "line 2:"),
        ('{"id": "q2", "request": "a", "grader": null}', "line 2:"),
        ('{"id": "q2", "request": "a", "grader": "regex", "pattern": "(", "example": "b"}', "pattern is invalid"),
        ('{"id": "q2", "request": "a", "grader": "regex", "pattern": "c", "example": "b"}', "example does not match"),
        ('{"id": "q2", "request": "a", "grader": "regex", "pattern": "b?", "example": "b"}', "an empty answer"),
        ('{"id": "q2", "request": "a", "grader": "regex", "pattern": "b"}', "line 2: example: it is missing"),
        ('{"id": "q2", "request": "a", "grader": "json", "fields": {}}', "line 2: fields: it must not be empty"),
        ('{"id": "q2", "request": "a", "grader": "json", "fields": {"a": 1, "a.b": 1}}', "is inside another one"),
        ('{"id": "q2", "request": "a", "grader": "tool call"}', "line 2: tool: it is missing"),
        (
            '{"id": "q2", "request": "a", "grader": "similarity", "reference": "b", "least": 2}',
            "line 2: least: it must be at most 1",
        ),
        ('{"id": "q2", "request": "a", "grader": "similarity", "reference": ""}', "an empty answer would be"),
        (
            '{"id": "q2", "request": "a", "grader": "unit test", "function": "f()", "cases": [{"result": 1}], '
            '"solution": "x"}',
            "line 2: function: it must be text that matches",
        ),
        (
            '{"id": "q2", "request": "a", "grader": "unit test", "function": "f", "cases": [{"args": [1]}], '
            '"solution": "x"}',
            "line 2: cases.0.result: it is missing",
        ),
        ('{"suite": "again", "role": "guard"}', "line 2: id: it is missing"),
    ],
)  # fmt: skip
def test_invalid_line_is_reported_with_its_number_and_error(file: Path, line: str, sentence: str) -> None:
    message = refusal_of(written(file, ONE, line))
    assert str(file) in message
    assert "line 2" in message
    assert sentence in message


@pytest.mark.parametrize(
    ("heading", "sentence"),
    [
        ({"suite": "on call", "role": "boss"}, "line 1: role: it must be 'target', 'guard' or 'informational'"),
        ({"suite": "on call", "role": "leak"}, "line 1: role: it must be 'target', 'guard' or 'informational'"),
        ({"suite": "", "role": "guard"}, "line 1: suite: it must be text that matches"),
        ({"suite": "a|b<script>"}, "line 1: suite: it must be text that matches"),
        ({"suite": "a\nb"}, "line 1: suite: it must be text that matches"),
        ({"suite": "a" * 61}, "line 1: suite: it must be text that matches"),
        ({"suite": 7}, "line 1: suite: it must be text"),
        ({"suite": "on call", "version": 2}, "line 1: version: it is unknown"),
    ],
)
def test_invalid_heading_is_reported(file: Path, heading: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal_of(written(file, heading, ONE))


def test_duplicate_id_is_reported_with_both_lines(file: Path) -> None:
    message = refusal_of(written(file, HEADING, ONE, "", {**ONE, "request": "Other?"}))
    assert f"{file}, line 4: the id q1 is already used in line 2." in message


def test_reference_beyond_the_compared_length_is_rejected(file: Path) -> None:
    rows = {"id": "q2", "request": "a", "grader": "similarity", "reference": "word " * 5000}
    assert "its own reference would be incorrect; a grader reads 20,000 characters" in refusal_of(
        written(file, ONE, rows)
    )


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", json.dumps(HEADING).encode()])
def test_file_without_questions_is_rejected(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert refusal_of(file) == f"{file} has no questions. Write one JSON object per line."


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory). Check the path." in refusal_of(tmp_path / "none.jsonl")
    assert "cannot be read (Is a directory)" in refusal_of(tmp_path)


@pytest.mark.parametrize("content", [b'{"id": "\xff\xfe"}\n', json.dumps(ONE).encode("utf-16")])
def test_file_that_is_not_utf8_is_rejected_with_its_line(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert "line 1 is not valid JSON" in refusal_of(file)


def test_huge_line_is_read(file: Path) -> None:
    suite = UserSuite.read(written(file, {**ONE, "request": "word " * 1_000_000}))
    assert len(suite.questions()[0].request) == 5_000_000


def test_deeply_nested_line_is_rejected(file: Path) -> None:
    assert "line 2 is not valid JSON" in refusal_of(written(file, ONE, '{"a":' * 100_000))


# Digests


BASE: tuple[dict[str, Any], ...] = (HEADING, ONE, {"id": "q2", "request": "b", "grader": "json", "fields": {"x": 1}})


def test_digest_covers_the_content_and_not_the_path(file: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    first = UserSuite.read(written(file, *BASE))
    other = UserSuite.read(written(tmp_path / "sub" / "other.jsonl", "", *BASE))
    assert first.digest == other.digest == UserSuite.read(file).digest


@pytest.mark.parametrize(
    "rows",
    [
        ({**HEADING, "suite": "on call 2"}, *BASE[1:]),
        ({**HEADING, "role": "guard"}, *BASE[1:]),
        (HEADING, {**ONE, "request": "Which lights then?"}, BASE[2]),
        (HEADING, {**ONE, "reference": "The green ones."}, BASE[2]),
        (HEADING, {**ONE, "group": "lights"}, BASE[2]),
        (HEADING, {**ONE, "grader": "similarity"}, BASE[2]),
        (
            HEADING,
            {"id": "q1", "request": "Which lights?", "grader": "regex", "pattern": "red", "example": "red"},
            BASE[2],
        ),
        (HEADING, {**ONE, "id": "q3"}, BASE[2]),
        (HEADING, ONE, {**BASE[2], "fields": {"x": True}}),
        (HEADING, ONE),
        (HEADING, BASE[2], ONE),
    ],
)
def test_digest_changes_with_any_question_grader_or_role(file: Path, rows: tuple[Any, ...]) -> None:
    before = UserSuite.read(written(file, *BASE)).digest
    assert UserSuite.read(written(file, *rows)).digest != before


# The general questions


GENERAL = UserSuite.read(FILE)
ASKED = {question.id: question for question in GENERAL.questions()}


def graded(name: str, answer: str) -> float:
    return GENERAL.grade(ASKED[name], Reply(text=answer))


def test_general_questions_are_62_with_unique_ids_and_requests() -> None:
    assert len(ASKED) == len(GENERAL.questions()) == len({q.request for q in GENERAL.questions()}) == 62


@pytest.mark.parametrize("name", ASKED)
def test_general_question_distinguishes_right_from_wrong(name: str) -> None:
    question = ASKED[name]
    assert graded(name, GENERAL.grader(question).example()) == 1
    for wrong in ("", question.request, "I do not know", "yes or no", " ".join(map(str, range(1000)))):
        assert graded(name, wrong) == 0, wrong


def test_answer_to_one_general_question_fits_few_others() -> None:
    """An answer that fits many questions would be a way to score without skill."""
    for question in GENERAL.questions():
        answer = GENERAL.grader(question).example()
        assert sum(graded(name, answer) == 1 for name in ASKED) <= 3, question.id


@pytest.mark.parametrize(
    ("name", "answer", "right"),
    [
        ("add-1", "7 + 5 = 12", 1),
        ("add-1", "The answer is **12**.", 1),
        ("add-1", "12.5", 0),
        ("add-1", "-12", 0),
        ("add-1", "1,012", 0),
        ("add-1", "12 or 13", 0),
        ("add-1", "It is 12, or perhaps 13.", 0),
        ("subtract-4", "71 - 70 = 1", 1),
        ("subtract-4", "1.5", 0),
        ("count-1", "The letter a occurs 3 times.", 1),
        ("sort-1", "apple,fig,pear", 1),
        ("sort-1", "Apple, fig, pear.", 1),
        ("sort-1", "apple, pear, fig", 0),
        ("sort-1", "pear, apple, fig, pear", 0),
        ("opposite-2", "Shut.", 1),
        ("opposite-2", "disclosed", 0),
        ("fact-month-after", "may", 1),
        ("fact-month-after", "It is May.", 1),
        ("fact-month-after", "It may be June.", 0),
        ("fact-water", "100 °C", 1),
        ("fact-water", "one hundred degrees", 1),
        ("fact-water", "two hundred", 0),
        ("fact-water", "1000", 0),
        ("fact-legs", "It has eight legs.", 1),
        ("fact-legs", "eighty", 0),
        ("fact-minutes-hour", "1 hour has 60 minutes.", 1),
        ("fact-minutes-hour", "60 minutes, which is 3600 seconds", 1),
        ("fact-minutes-hour", "sixty-one", 0),
        ("json-1", '```json\n{"age": 36, "name": "Ada"}\n```', 1),
        ("json-1", '{"name": "Ada", "age": "36"}', 0.5),
        ("json-2", '{"ok": "true"}', 0),
        ("json-3", '{"ports": ["80", "443"]}', 0),
        ("json-6", '{"page": 3}', 0.5),
        ("form-1", "Yes.", 1),
        ("form-1", "Yesterday", 0),
        ("form-2", "No, it is a day.", 1),
        ("form-2", "Not at all, yes", 0),
        ("form-5", "- apple\n- pear\n- fig\n", 1),
        ("form-5", "-apple\n-pear\n-fig", 1),
        ("form-5", "- apple\n- pear\n- fig\n- plum", 0),
        ("form-5", "Here you are:\n- apple\n- pear\n- fig", 0),
        ("form-5", "-\n-\n-", 0),
        ("form-5", "- apple\n- pear", 0),
        ("form-6", "STOP\n", 1),
        ("form-6", "STOP it", 0),
        ("form-6", "stop", 0),
        ("form-7", "Sunday and Saturday", 1),
        ("form-7", "Saturday, Sunday", 0),
        ("form-8", "12", 1),
        ("form-8", "12 is twelve", 0),
    ],
)
def test_general_questions_are_graded_as_a_person_would(name: str, answer: str, right: float) -> None:
    assert graded(name, answer) == right


def test_general_questions_pass_the_self_check() -> None:
    assert self_check_failure(GENERAL) == ""


def test_general_questions_are_tagged_with_their_skill() -> None:
    assert {tag for q in GENERAL.questions() for tag in q.tags} == {
        "copy", "arithmetic", "order", "count", "words", "facts", "format",
    }  # fmt: skip


# Lessons of earlier champions


def lesson(number: int, answer: str) -> Experience:
    return Experience(
        id=f"{number:064}", kind="lesson", request=f"How about {number}?", answer=answer, outcome="success",
        tags=("ops",), provenance={},
    )  # fmt: skip


def test_regression_adds_lessons_that_an_earlier_champion_knew() -> None:
    suite = regression([lesson(2, "Switch it off."), lesson(1, "Switch it off."), lesson(3, "Call Ana.")])
    assert (suite.name, suite.role, len(suite.questions())) == ("regression", "guard", 65)
    known = suite.questions()[62:]
    assert [q.id for q in known] == [f"{n:064}" for n in (1, 2, 3)]
    assert known[0].group == known[1].group != known[2].group
    assert {q.tags for q in known} == {("earlier champion", "ops")}
    assert suite.grade(known[0], Reply(text="Switch  it off.")) == 1
    assert suite.grade(known[0], Reply(text="Switch it on.")) == 0
    assert (
        suite.digest
        == regression([lesson(1, "Switch it off."), lesson(3, "Call Ana."), lesson(2, "Switch it off.")]).digest
    )
    assert suite.digest != regression([lesson(1, "Switch it off.")]).digest


def test_user_suite_is_all_new_as_a_target_and_all_guard_as_a_guard(tmp_path: Path) -> None:
    line = '{"id": "q1", "request": "say one", "reference": "one"}\n'
    for role, part in (("target", "new"), ("guard", "guard")):
        path = tmp_path / f"{role}.jsonl"
        path.write_text(f'{{"suite": "own", "role": "{role}"}}\n{line}', encoding="utf-8")
        assert {question.slice for question in UserSuite.read(path).questions()} == {part}


FORMER_DIGEST = "4999dbc69d9620742434887530dab61337a89fe69de43f3cc98fbc07a1272681"
"""The digest of the suite below before the role `told` was renamed."""


def test_former_role_name_is_read_and_keeps_the_digest(tmp_path: Path) -> None:
    suites = []
    for role in ("told", "informational"):
        path = tmp_path / f"{role}.jsonl"
        path.write_text(f'{{"suite": "own", "role": "{role}"}}\n{json.dumps(ONE)}\n', encoding="utf-8")
        suites.append(UserSuite.read(path))
    assert [suite.role for suite in suites] == ["informational", "informational"]
    assert {suite.digest for suite in suites} == {FORMER_DIGEST}
