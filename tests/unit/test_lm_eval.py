"""Tasks of lm-eval as suites: questions, grading, and errors."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from academy.arena.examination import examine
from academy.arena.sandbox import Unavailable
from academy.arena.suites.base import Generation, Reply
from academy.arena.suites.lm_eval import LmEvalSuite, lm_eval_suite
from academy.arena.suites.table import create_suite
from academy.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore")  # of the library

WRITTEN = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "What is the capital of {{{{land}}}}?"
doc_to_target: "{{{{capital}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 40, do_sample: false}}
filter_list:
  - name: bare
    filter:
      - {{function: regex, regex_pattern: "([A-Z][a-z]+)"}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""
CHOSEN = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{land}}}}\\nAnswer:"
doc_to_choice: ["Paris", "Rome", "Madrid"]
doc_to_target: "{{{{number}}}}"
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
LANDS = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid")]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library, with its caches in a folder of the test."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_task(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"land": land, "capital": capital, "number": n} for n, (land, capital) in enumerate(LANDS * 8)]
    rows = [row | {"number": n % 3} for n, row in enumerate(rows)]
    (folder / "data.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    path = folder / "task.yaml"
    path.write_text(text.format(data=folder / "data.jsonl"), encoding="utf-8")
    return path


def suite_of(path: Path) -> LmEvalSuite:
    suite = lm_eval_suite(str(path))
    assert isinstance(suite, LmEvalSuite), suite
    return suite


@pytest.mark.usefixtures("library")
def test_task_with_generated_answers_is_asked_and_graded(tmp_path: Path) -> None:
    suite = suite_of(write_task(tmp_path / "task", WRITTEN))
    first = suite.questions()[0]
    assert (suite.name, suite.role, len(suite.questions())) == ("lm-eval:capitals", "informational", 24)
    assert (first.request, first.reference, first.choices) == ("What is the capital of France?", "Paris", ())
    assert suite.max_new_tokens == 40
    graded = {text: suite.grade(first, Reply(text=text)) for text in ("Paris", "it is paris", "It: Paris", "Rome", "")}
    assert graded == {"Paris": 1.0, "it is paris": 0.0, "It: Paris": 0.0, "Rome": 0.0, "": 0.0}
    assert suite.grade(first, Reply(text="Paris.\nRome")) == 1.0  # the filter finds the name, the stop text ends it
    assert suite.digest == suite_of(tmp_path / "task").digest  # a folder with one task names it too


@pytest.mark.usefixtures("library")
def test_task_with_choices_is_asked_and_graded(tmp_path: Path) -> None:
    suite = suite_of(write_task(tmp_path / "task", CHOSEN))
    first = suite.questions()[1]
    assert (first.reference, first.choices) == ("Rome", ("Paris", "Rome", "Madrid"))
    assert [suite.grade(first, Reply(text=text)) for text in (*first.choices, "no choice")] == [0.0, 1.0, 0.0, 0.0]
    assert suite.details(first, Reply(text="Rome")) == {"acc_norm": 1.0}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("text", [WRITTEN, CHOSEN])
def test_control_answers_are_graded_correctly(tmp_path: Path, text: str) -> None:
    suite = suite_of(write_task(tmp_path / "task", text))
    for right in (True, False):
        assert {suite.grade(q, suite.control_answer(q, right=right)) for q in suite.questions()} == {float(right)}


@pytest.mark.usefixtures("library")
def test_task_is_informational_in_an_examination(tmp_path: Path) -> None:
    suite = suite_of(write_task(tmp_path / "task", CHOSEN))

    class Chooser:
        def __init__(self, identity: str, takes: int) -> None:
            self.identity, self.takes = identity, takes

        def choose(self, asked: Any) -> list[Reply]:
            return [Reply(text=choices[self.takes]) for _, choices in asked]

    players: Any = (Chooser("a" * 64, 0), Chooser("b" * 64, 1))
    examination, _ = examine(
        *players, [(suite, Generation(max_new_tokens=32))], spent_before=0, answers=tmp_path / "answers"
    )
    (result,) = examination.results
    assert result.role == "informational"
    assert {a.score for a in result.champion} == {0.0, 1.0}


REJECTED = {
    "another kind": (CHOSEN.replace("multiple_choice", "loglikelihood"), "is of the kind loglikelihood"),
    "unsafe": (WRITTEN + "unsafe_code: true\n", "outside the sandbox"),
    "no name": (WRITTEN.replace("task: capitals", ""), "contains 0 lm-eval tasks"),
    "no metric": (
        WRITTEN.replace("exact_match", "bleu").replace("ignore_case: true", "").replace("true, }}", "true}}"),
        "has no metric",
    ),
}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", REJECTED)
def test_unsupported_task_is_rejected(tmp_path: Path, name: str) -> None:
    text, message = REJECTED[name]
    with pytest.raises(InputError, match=message) as error:
        lm_eval_suite(str(write_task(tmp_path / "task", text)))
    assert error.value.remedy


@pytest.mark.usefixtures("library")
def test_task_without_data_is_unavailable(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", WRITTEN)
    (tmp_path / "task" / "data.jsonl").unlink()
    suite = lm_eval_suite(str(path))
    assert isinstance(suite, Unavailable)
    assert "could not be loaded" in suite.because


@pytest.mark.usefixtures("library")
def test_unknown_task_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    own = partial(tasks.TaskManager, include_defaults=False)  # reading all tasks of the library takes ten seconds
    monkeypatch.setattr(tasks, "TaskManager", own)
    with pytest.raises(InputError, match=r"The lm-eval task .* does not exist"):
        lm_eval_suite(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(InputError, match="lm-eval has no task academy_nowhere"):
        lm_eval_suite("academy_nowhere")


@pytest.mark.usefixtures("library")
def test_group_of_tasks_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    write_task(tmp_path / "task", WRITTEN)
    (tmp_path / "task" / "other.yaml").write_text("include: task.yaml\ntask: again\n", encoding="utf-8")
    (tmp_path / "task" / "both.yaml").write_text("group: both\ntask: [capitals, again]\n", encoding="utf-8")
    own = partial(tasks.TaskManager, include_path=str(tmp_path / "task"), include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", own)
    with pytest.raises(InputError, match="both is a group of 2 lm-eval tasks") as error:
        lm_eval_suite("both")
    assert error.value.remedy == "Choose one: again, capitals."
    with pytest.raises(InputError, match="contains 2 lm-eval tasks"):
        lm_eval_suite(str(tmp_path / "task"))


@pytest.mark.usefixtures("library")
def test_task_with_failing_code_is_unavailable(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", WRITTEN.replace("{{{{land}}}}?", "{{{{ land.nowhere.at_all }}}}?"))
    suite = lm_eval_suite(str(path))
    assert isinstance(suite, Unavailable)
    assert "UndefinedError" in suite.because


@pytest.mark.usefixtures("library")
def test_invalid_yaml_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("task: [unclosed", encoding="utf-8")
    with pytest.raises(InputError):
        lm_eval_suite(str(path))


@pytest.mark.usefixtures("library")
def test_task_is_created_by_its_name(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", WRITTEN)
    context: Any = SimpleNamespace(trusted=frozenset())  # a task needs no more of its context
    assert isinstance(create_suite(f"lm-eval:{path}", context), LmEvalSuite)


def test_task_without_the_library_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    suite = lm_eval_suite("gsm8k")
    assert isinstance(suite, Unavailable)
    assert "-m pip install" in suite.because
