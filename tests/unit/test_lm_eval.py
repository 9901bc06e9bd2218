"""Tasks of lm-eval as suites: what is asked, how it is graded, and what is refused with a sentence."""

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
from academy.errors import InputError
from academy.loop.choose_suites import _Shelf

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's, not ours

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
    """The library, with its caches in a folder of the test's own."""
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
    found = lm_eval_suite(str(path))
    assert isinstance(found, LmEvalSuite), found
    return found


@pytest.mark.usefixtures("library")
def test_a_task_of_written_answers(tmp_path: Path) -> None:
    suite = suite_of(write_task(tmp_path / "task", WRITTEN))
    first = suite.questions()[0]
    assert (suite.name, suite.role, len(suite.questions())) == ("lm-eval:capitals", "told", 24)
    assert (first.request, first.reference, first.choices) == ("What is the capital of France?", "Paris", ())
    assert suite.max_new_tokens == 40
    graded = {said: suite.grade(first, Reply(text=said)) for said in ("Paris", "it is paris", "It: Paris", "Rome", "")}
    assert graded == {"Paris": 1.0, "it is paris": 0.0, "It: Paris": 0.0, "Rome": 0.0, "": 0.0}
    assert suite.grade(first, Reply(text="Paris.\nRome")) == 1.0  # the filter takes the name, the stop ends the answer
    assert suite.digest == suite_of(tmp_path / "task").digest  # a folder that holds one task names it as well


@pytest.mark.usefixtures("library")
def test_a_task_of_choices(tmp_path: Path) -> None:
    suite = suite_of(write_task(tmp_path / "task", CHOSEN))
    first = suite.questions()[1]
    assert (first.reference, first.choices) == ("Rome", ("Paris", "Rome", "Madrid"))
    assert [suite.grade(first, Reply(text=text)) for text in (*first.choices, "no choice")] == [0.0, 1.0, 0.0, 0.0]
    assert suite.details(first, Reply(text="Rome")) == {"acc_norm": 1.0}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("text", [WRITTEN, CHOSEN])
def test_planted_answers_are_graded_as_planted(tmp_path: Path, text: str) -> None:
    suite = suite_of(write_task(tmp_path / "task", text))
    for right in (True, False):
        assert {suite.grade(q, suite.planted(q, right=right)) for q in suite.questions()} == {float(right)}


@pytest.mark.usefixtures("library")
def test_it_is_told_in_an_examination(tmp_path: Path) -> None:
    suite = suite_of(write_task(tmp_path / "task", CHOSEN))

    class Chooser:
        def __init__(self, identity: str, takes: int) -> None:
            self.identity, self.takes = identity, takes

        def choose(self, asked: Any) -> list[Reply]:
            return [Reply(text=choices[self.takes]) for _, choices in asked]

    players: Any = (Chooser("a" * 64, 0), Chooser("b" * 64, 1))
    held, _ = examine(*players, [(suite, Generation(max_new_tokens=32))], looks_before=0, answers=tmp_path / "answers")
    (result,) = held.results
    assert result.role == "told"
    assert {a.score for a in result.champion} == {0.0, 1.0}


REFUSED = {
    "another kind": (CHOSEN.replace("multiple_choice", "loglikelihood"), "is of the kind loglikelihood"),
    "unsafe": (WRITTEN + "unsafe_code: true\n", "outside the sandbox"),
    "no name": (WRITTEN.replace("task: capitals", ""), "holds 0 lm-eval tasks"),
    "no metric": (
        WRITTEN.replace("exact_match", "bleu").replace("ignore_case: true", "").replace("true, }}", "true}}"),
        "has no metric",
    ),
}


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, name: str) -> None:
    text, said = REFUSED[name]
    with pytest.raises(InputError, match=said) as told:
        lm_eval_suite(str(write_task(tmp_path / "task", text)))
    assert told.value.remedy


@pytest.mark.usefixtures("library")
def test_data_that_are_not_there_leave_it_out(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", WRITTEN)
    (tmp_path / "task" / "data.jsonl").unlink()
    found = lm_eval_suite(str(path))
    assert isinstance(found, Unavailable)
    assert "could not be loaded" in found.because


@pytest.mark.usefixtures("library")
def test_an_unknown_task_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    own = partial(tasks.TaskManager, include_defaults=False)  # reading all that it brings takes ten seconds
    monkeypatch.setattr(tasks, "TaskManager", own)
    with pytest.raises(InputError, match="There is no lm-eval task"):
        lm_eval_suite(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(InputError, match="lm-eval knows no task academy_nowhere"):
        lm_eval_suite("academy_nowhere")


@pytest.mark.usefixtures("library")
def test_a_group_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval import tasks

    write_task(tmp_path / "task", WRITTEN)
    (tmp_path / "task" / "other.yaml").write_text("include: task.yaml\ntask: again\n", encoding="utf-8")
    (tmp_path / "task" / "both.yaml").write_text("group: both\ntask: [capitals, again]\n", encoding="utf-8")
    own = partial(tasks.TaskManager, include_path=str(tmp_path / "task"), include_defaults=False)
    monkeypatch.setattr(tasks, "TaskManager", own)
    with pytest.raises(InputError, match="both is a group of 2 tasks") as told:
        lm_eval_suite("both")
    assert told.value.remedy == "Choose one: again, capitals."
    with pytest.raises(InputError, match="holds 2 lm-eval tasks"):
        lm_eval_suite(str(tmp_path / "task"))


@pytest.mark.usefixtures("library")
def test_code_of_a_task_that_fails_leaves_it_out(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", WRITTEN.replace("{{{{land}}}}?", "{{{{ land.nowhere.at_all }}}}?"))
    found = lm_eval_suite(str(path))
    assert isinstance(found, Unavailable)
    assert "UndefinedError" in found.because


@pytest.mark.usefixtures("library")
def test_yaml_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text("task: [unclosed", encoding="utf-8")
    with pytest.raises(InputError):
        lm_eval_suite(str(path))


@pytest.mark.usefixtures("library")
def test_the_shelf_finds_it_by_name(tmp_path: Path) -> None:
    path = write_task(tmp_path / "task", WRITTEN)
    shelf: Any = SimpleNamespace()
    found = _Shelf.take(shelf, f"lm-eval:{path}")
    assert isinstance(found, LmEvalSuite)


def test_without_the_library_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    found = lm_eval_suite("gsm8k")
    assert isinstance(found, Unavailable)
    assert "pip install 'the-academy[lm-eval]'" in found.because
