"""Files of an lm-eval task that hold code are refused until a person trusts them, and again when a file changes."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from academy.arena.sandbox import Unavailable
from academy.arena.suites.lm_eval import lm_eval_suite
from academy.arena.suites.lm_eval_code import require_trust
from academy.errors import InputError
from academy.loop.trust_suite import trust_suite, trusted_suites
from academy.settings import load_settings

TASK = """task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{text}"
doc_to_target: "{{{{capital}}}}"
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
TEXT = "What is the capital of {{land}}?"


def write(folder: Path, extra: str = "", text: str = TEXT) -> str:
    """A task file with more lines, beside a program that leaves a mark."""
    folder.mkdir(exist_ok=True)
    rows = [{"land": "France", "capital": "Paris"}] * 8
    (folder / "data.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    (folder / "evil.py").write_text(f"open({str(folder.parent / 'mark')!r}, 'w').close()\ndef run(docs): return docs\n")
    (folder / "task.yaml").write_text(TASK.format(data=folder / "data.jsonl", text=text) + extra)
    return str(folder / "task.yaml")


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("process_docs: !function evil.run\n", "!function"),
        ("process_results: !function evil.run\n", "!function"),
        ("filter_list: [{name: a, filter: [{function: custom, filter_fn: !function evil.run}]}]\n", "!function"),
        ("class: !function evil.run\n", "class"),
        ("custom_dataset: !function evil.run\n", "custom_dataset"),
        ("x: !!python/object/apply:os.system ['true']\n", "!tag:yaml.org,2002:python/object/apply:os.system"),
        ("include: ../other.yaml\n", "include ../other.yaml, which is outside the folder"),
        ("dataset_path: ./evil.py\n", "dataset_path ./evil.py, which may be a program"),
        ("dataset_path: pandas\n", "dataset_path pandas"),
        ("dataset_kwargs: {trust_remote_code: true}\n", "trust_remote_code"),
        ("metric_list: [{metric: stranger/evil}]\n", "metric stranger/evil, which may be fetched as a program"),
        ("metric_list: [{metric: exact_match, hf_evaluate: true}]\n", "hf_evaluate"),
        ("metric_list: [\n", "it cannot be read as YAML"),
    ],
)
def test_task_that_holds_code_is_refused(extra: str, what: str, tmp_path: Path) -> None:
    task = write(tmp_path / "task", extra)
    with pytest.raises(InputError, match="holds code") as refused:
        lm_eval_suite(task)
    assert what in str(refused.value)
    assert f"`academy suites --trust-suite lm-eval:{task}`" in str(refused.value)
    assert not (tmp_path / "mark").exists()


def test_code_in_another_file_of_the_folder_is_refused(tmp_path: Path) -> None:
    task = write(tmp_path / "task", "include: base.yaml\n")
    (tmp_path / "task" / "base.yaml").write_text("process_docs: !function evil.run\n")
    with pytest.raises(InputError, match=r"base\.yaml: !function"):
        require_trust(task, ())


def test_task_without_code_needs_no_trust(tmp_path: Path) -> None:
    require_trust(write(tmp_path / "task"), ())


@pytest.mark.parametrize("changed", ["task.yaml", "evil.py", "new.py"])
def test_changed_file_asks_for_trust_again(changed: str, tmp_path: Path) -> None:
    task = write(tmp_path / "task", "process_docs: !function evil.run\n")
    settings = load_settings(tmp_path / "home")
    trust_suite(settings, f"lm-eval:{task}")
    require_trust(task, trusted_suites(settings))
    assert (tmp_path / "home" / "trusted-suites.json").stat().st_mode & 0o777 == 0o600
    with (tmp_path / "task" / changed).open("a") as file:
        file.write("# changed\n")
    with pytest.raises(InputError, match="holds code"):
        require_trust(task, trusted_suites(settings))


@pytest.mark.parametrize("name", ["recall", "lm-eval:gsm8k", "mine.jsonl"])
def test_only_files_of_tasks_can_be_trusted(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a file of an lm-eval task"):
        trust_suite(load_settings(tmp_path / "home"), name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_template_of_a_task_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    mark = tmp_path / "mark"
    text = f"{{{{ cycler.__init__.__globals__.os.mkdir('{mark}') }}}}"
    suite = lm_eval_suite(write(tmp_path / "task", text=text))
    assert isinstance(suite, Unavailable)
    assert "SecurityError" in suite.because
    assert not os.path.lexists(mark)
