"""Datasets of trainings from Python: files that the Academy saved, and files in the four formats that it did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from academy.errors import InputError
from academy.loop.job_datasets import read_job_dataset
from academy.sdk import DatasetCurator, LessonsStore
from academy.settings import Settings, load_settings
from tests.topics import TOPICS

ALPACA = [{"instruction": topic, "input": "", "output": answer} for topic, answer in TOPICS.items()]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": topic}, {"from": "gpt", "value": answer}]}
    for topic, answer in TOPICS.items()
]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    return load_settings()


def lines(rows: list[Any], between: str = "\n") -> bytes:
    return between.join(json.dumps(row) for row in rows).encode()


@pytest.mark.parametrize(
    "content",
    [
        lines(ALPACA),
        lines(ALPACA, "\n\n\r\n") + b"\n\n",
        b"\xef\xbb\xbf" + lines(ALPACA),
        json.dumps(ALPACA, indent=2).encode(),
        lines(SHAREGPT),
        json.dumps(SHAREGPT).encode(),
    ],
)
def test_the_same_examples_in_any_form_are_one_dataset(settings: Settings, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a file with blanks.json"
    file.write_bytes(content)
    job = read_job_dataset(settings, file)
    plain = tmp_path / "plain.jsonl"
    plain.write_bytes(lines(ALPACA))
    assert job.digest == read_job_dataset(settings, plain).digest
    assert job.file.parent == tmp_path / "home" / "jobs"
    assert job.dataset.examples == len(TOPICS)


@pytest.mark.parametrize("form", ["alpaca", "openai"])
def test_a_file_that_curation_saved_is_its_dataset(settings: Settings, tmp_path: Path, form: str) -> None:
    store = LessonsStore()
    for topic, answer in TOPICS.items():
        store.add_lesson(f"our rule for {topic}", answer)
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    saved = curator.save_dataset(form, tmp_path / "copy.jsonl")
    job = read_job_dataset(settings, saved)
    assert job.file.parent == job.dataset.path
    assert job.file.parent.parent == tmp_path / "home" / "datasets"
    assert job.dataset.examples == curator.get_statistics()["total_examples"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no examples"),
        (b"\n \n", "has no examples"),
        (b'{"instruction": "a", "output": "b"}\nnot json\n[1]\n', "2 of 3 examples .*line 2: not JSON.*line 3: not a"),
        (b'[{"foo": 1}]', "1 of 1 examples .*item 1: "),
        (b"[{", "is not valid JSON"),
        ('{"instruction": "ä", "output": "b"}'.encode("latin-1"), "is not UTF-8"),
        (b'{"instruction": "a", "output": ""}', "line 1: "),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_place(
    settings: Settings, tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_job_dataset(settings, file)
    assert not list((tmp_path / "home").glob("jobs/*.jsonl"))


def test_a_missing_file_and_a_folder_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_job_dataset(settings, tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_job_dataset(settings, tmp_path)
