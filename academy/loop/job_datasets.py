"""The dataset of a training from Python: a file that curation saved, or any file of examples in a known format.

A file that curation saved is recognised by its bytes, and the training uses the dataset itself: its lessons can be
forgotten, and its version can be examined. Of any other file the home keeps a copy in its folder `jobs`.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson

from academy.curriculum.dataset import FORGOTTEN, Dataset, all_datasets
from academy.errors import ExaminationError, InputError
from academy.models.formats import FORMATS, read_row, to_openai
from academy.models.messages import Transcript
from academy.professor.decision import SMALLEST_DATASET
from academy.records import Record, digest_of_bytes
from academy.settings import Settings
from academy.store.files import digest_of_file, write_file

log = logging.getLogger(__name__)
SHOWN = 3


class JobDataset(Record):
    """The file to train on, its digest, and the dataset that its MLflow run and its adapter name."""

    file: Path
    digest: str
    dataset: Dataset


def read_job_dataset(settings: Settings, path: Path) -> JobDataset:
    """The dataset of a file in Alpaca, ShareGPT, ChatML or OpenAI format: JSON Lines, or one JSON list.

    Raises InputError for a file that cannot be read, with the numbers of the lines that are not examples.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"The dataset {path} does not exist.", "Check the path. A dataset is a JSONL file.") from None
    except OSError as problem:
        raise InputError(
            f"The dataset {path} cannot be read ({problem.strerror}).", "A dataset is a JSONL file."
        ) from problem
    if curated := _curated(settings, content):
        job = curated
    else:
        rows = b"".join(orjson.dumps(to_openai(example)) + b"\n" for example in _examples(path, content))
        digest = digest_of_bytes(rows)
        file = settings.folder("jobs") / f"{digest[:16]}.jsonl"
        if not file.is_file():
            write_file(file, rows)
        dataset = Dataset(
            digest=digest, path=file.parent, train_digest=digest, examples=rows.count(b"\n"), holdout=0, lessons=0,
            cursor=0, tokens=0, longest=0, funnel={}, contradictions=(),
        )  # fmt: skip
        job = JobDataset(file=file, digest=digest, dataset=dataset)
    if job.dataset.examples < SMALLEST_DATASET:
        log.warning("%s has %d examples (recommended minimum %d)", path, job.dataset.examples, SMALLEST_DATASET)
    return job


def refuse_uncurated(settings: Settings, dataset: str, name: str) -> None:
    """Raise ExaminationError for a version that was trained on a file which the Academy did not curate."""
    if dataset and (settings.folder("jobs") / f"{dataset[:16]}.jsonl").is_file():
        raise ExaminationError(
            f"{name} was trained on a file that the Academy did not curate, so it cannot be examined: its examples "
            "may contain the questions.",
            "Save the dataset with DatasetCurator, or activate the version by hand.",
        )


def _curated(settings: Settings, content: bytes) -> JobDataset | None:
    """The newest dataset of the home with a file of exactly these bytes."""
    digest = digest_of_bytes(content)
    for dataset in reversed(all_datasets(settings.folder("datasets"))):
        if (dataset.path / FORGOTTEN).is_file():
            continue
        for file in (dataset.train_file, *(dataset.path / f"train.{form}.jsonl" for form in FORMATS)):
            if file.is_file() and file.stat().st_size == len(content) and digest_of_file(file) == digest:
                return JobDataset(file=file, digest=digest, dataset=dataset)
    return None


def _examples(path: Path, content: bytes) -> list[Transcript]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise InputError(f"The dataset {path} is not UTF-8 text.", "Convert it to UTF-8.") from problem
    if text.lstrip().startswith("["):
        places = _list_items(path, text)
    else:
        places = [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    examples, problems = [], []
    for place, item in places:
        example = _example(item)
        if isinstance(example, str):
            problems.append(f"{place}: {example}")
        else:
            examples.append(example)
    if problems:
        more = f", and {len(problems) - SHOWN:,} more" if len(problems) > SHOWN else ""
        raise InputError(
            f"{len(problems):,} of {len(places):,} examples of {path} cannot be read: "
            f"{'; '.join(problems[:SHOWN])}{more}.",
            f"Correct or remove them. The formats are {', '.join(FORMATS)}.",
        )
    if not examples:
        raise InputError(f"The dataset {path} has no examples.", "Collect more lessons, then save the dataset again.")
    return examples


def _list_items(path: Path, text: str) -> list[tuple[str, Any]]:
    try:
        items = orjson.loads(text)
    except orjson.JSONDecodeError as problem:
        raise InputError(f"The dataset {path} is not valid JSON ({problem}).", "Correct the file.") from problem
    return [(f"item {n}", item) for n, item in enumerate(items, 1)]


def _example(item: Any) -> Transcript | str:
    """An example, which ends with an answer, or why it is none. Thoughts are not trained on."""
    if isinstance(item, str):
        try:
            item = orjson.loads(item)
        except orjson.JSONDecodeError as problem:
            return f"not JSON ({problem.msg})"
    if not isinstance(item, dict):
        return "not a JSON object"
    example = read_row(item)
    if isinstance(example, str):
        return example
    if not example.messages[-1].words.strip():
        return "the answer is empty"
    return example._replace(messages=tuple(message.bare for message in example.messages))
