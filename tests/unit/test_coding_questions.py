"""Every coding question is tested: its solution passes all hidden cases, and each of its mutants fails at least one.

Solutions and mutants were written for this project. All of them run in one process without the sandbox, for speed.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import academy.arena.suites
from academy.arena.sandbox import Unavailable

FILE = Path(academy.arena.suites.__file__).with_name("coding.jsonl")
KEYS = {"id", "tags", "request", "function", "cases", "solution", "mutants"}
LEVELS = {"easy", "medium", "hard"}
TOPICS = {
    *("strings", "lists", "dicts", "dates", "parsing", "math", "recursion", "intervals", "graphs", "text", "state"),
    *("sorting", "bits", "matrices"),
}
SECONDS = 30
"""For all programs of all questions together; they take less than one."""

HARNESS = """
import copy, json, sys

def same(actual, expected):
    if type(actual) is not type(expected):
        return False
    if isinstance(actual, dict):
        return actual.keys() == expected.keys() and all(same(actual[key], expected[key]) for key in actual)
    if isinstance(actual, list):
        return len(actual) == len(expected) and all(map(same, actual, expected))
    return actual == expected

def run(program, question):
    space = {"__name__": "answer"}
    exec(compile(program, question["id"], "exec"), space)
    for case in question["cases"]:
        arguments = copy.deepcopy(case["args"])
        try:
            result = space[question["function"]](*arguments)
        except Exception as error:
            yield "raised", repr(error)
        else:
            change = "" if arguments == case["args"] else ", arguments changed"
            yield "right" if same(result, case["result"]) else "wrong", repr(result) + change

json.dump(
    [[list(run(program, q)) for program in (q["solution"], *q["mutants"])] for q in json.load(sys.stdin)], sys.stdout
)
"""
"""Prints the outcome of every case, for each question and each of its four programs: [how, result]."""

Question = dict[str, Any]
Run = list[list[str]]

QUESTIONS: list[Question] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def run_all(questions: list[Question]) -> list[list[Run]]:
    """Solution and mutants of every question, over all its cases."""
    ended = subprocess.run(
        [sys.executable, "-I", "-c", HARNESS],
        input=json.dumps(questions),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    runs: list[list[Run]] = json.loads(ended.stdout)
    return runs


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Run]]:
    """By question: the outcomes of its solution, then of its three mutants."""
    return dict(zip((question["id"] for question in QUESTIONS), run_all(QUESTIONS), strict=True))


def failed(run: Run) -> set[int]:
    """The positions of the cases that a program did not pass."""
    return {place for place, (how, _) in enumerate(run) if how != "right"}


def test_questions_cover_each_kind() -> None:
    tags = Counter(tag for question in QUESTIONS for tag in question["tags"])
    assert len(QUESTIONS) >= 60
    assert tags["first-ten"] == 10
    assert tags["easy"] >= 20
    assert tags["medium"] >= 35
    assert tags["hard"] >= 15
    assert set(tags) == {"first-ten"} | LEVELS | TOPICS


@pytest.mark.parametrize("question", QUESTIONS, ids=[question["id"] for question in QUESTIONS])
def test_question_has_the_required_form(question: Question) -> None:
    assert set(question) == KEYS
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", question["id"])
    assert len(LEVELS & set(question["tags"])) == 1
    assert TOPICS & set(question["tags"])
    assert len(question["tags"]) == len(set(question["tags"]))
    assert f"`{question['function']}(" in question["request"]
    assert question["request"] == " ".join(question["request"].split())
    assert f"\ndef {question['function']}(" in "\n" + question["solution"]
    assert len(question["mutants"]) == 3
    assert len({question["solution"], *question["mutants"]}) == 4
    assert len(question["cases"]) >= 6
    assert all(set(case) == {"args", "result"} for case in question["cases"])
    arguments = [json.dumps(case["args"]) for case in question["cases"]]
    assert len(arguments) == len(set(arguments))


def test_questions_differ_from_each_other() -> None:
    for key in ("id", "request", "function", "solution"):
        assert len({question[key] for question in QUESTIONS}) == len(QUESTIONS), key
    runs_of_words = {}
    for question in QUESTIONS:
        words = re.findall(r"\w+", question["request"].lower())
        runs_of_words[question["id"]] = set(zip(words, words[1:], words[2:], strict=False))
    for (one, here), (other, there) in itertools.combinations(runs_of_words.items(), 2):
        assert len(here & there) < 0.2 * len(here | there), (one, other)


@pytest.mark.parametrize("question", QUESTIONS, ids=[question["id"] for question in QUESTIONS])
def test_hidden_cases_distinguish_the_solution_from_the_mutants(question: Question, runs: dict[str, list[Run]]) -> None:
    solution, *mutants = runs[question["id"]]
    cases = question["cases"]
    assert not failed(solution), [(cases[place]["args"], solution[place]) for place in failed(solution)]
    assert not any("arguments changed" in what for _, what in solution)
    for run in mutants:
        assert failed(run), "a wrong solution passes every case"
        assert len(failed(run)) < len(cases), "a mutant that is never right is not plausible"
        assert any(how == "wrong" for how, _ in run), "it only raises"
        assert len({what for _, what in run}) > 1, "it returns a constant"
    assert len({tuple(sorted(failed(run))) for run in mutants}) > 1
    assert len({json.dumps(run) for run in mutants}) == 3, "two mutants behave the same"


@pytest.mark.parametrize(
    ("program", "result", "how"),
    [
        ("return 1", 1, "right"),
        ("return True", 1, "wrong"),
        ("return 1", True, "wrong"),
        ("return 1.0", 1, "wrong"),
        ("return (1, 2)", [1, 2], "wrong"),
        ("return [1, True]", [1, 1], "wrong"),
        ("return {'a': [0]}", {"a": [False]}, "wrong"),
        ("return {'b': 1, 'a': 2}", {"a": 2, "b": 1}, "right"),
        ("return 1 // 0", 1, "raised"),
    ],
)
def test_result_comparison_includes_types(program: str, result: object, how: str) -> None:
    question = {"id": "q", "function": "f", "cases": [{"args": [], "result": result}], "mutants": []}
    [[[[came, _]]]] = run_all([{**question, "solution": f"def f():\n    {program}\n"}])
    assert came == how


def test_first_ten_questions_are_a_suite_of_their_own() -> None:
    from academy.arena.suites.table import create_suite, guarded_texts

    sandbox: Any = SimpleNamespace(name="none", active_limits=())
    context: Any = SimpleNamespace(sandbox=lambda: sandbox)
    whole, first = create_suite("coding", context), create_suite("coding#first-ten", context)
    assert not isinstance(whole, Unavailable)
    assert not isinstance(first, Unavailable)
    assert [q.id for q in first.questions()] == [q.id for q in whole.questions()][:10]
    assert (first.name, first.role) == ("coding#first-ten", "guard")
    assert len(guarded_texts(["coding#first-ten"])[0].texts) == 2 * len(QUESTIONS)
