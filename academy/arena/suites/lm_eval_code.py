"""Finds code in the files of an lm-eval task of one's own. Such a task is refused until a person trusts its files.

A task is YAML, but lm-eval runs what it names: functions of Python files beside it, classes, scripts of datasets and of
metrics. Trust is in the digest of all files of the folder, so a changed file asks again.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from academy.errors import InputError
from academy.records import digest_of
from academy.store.files import digest_of_file

ENDINGS = (".yaml", ".yml")
MOST_FILES, MOST_BYTES = 1000, 1 << 28
_BUILDERS = ("json", "csv", "text", "parquet", "arrow")
"""Readers of local files that run nothing; others unpickle."""
_METRICS = (
    "acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match", "f1", "mcc", "bleu", "chrf",
    "ter", "brier_score", "likelihood", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "bypass",
)  # fmt: skip
"""Metrics of lm-eval itself; it fetches others as a program."""
_PROGRAMS = {"class": "a class", "custom_dataset": "a dataset's program", "python_task": "a class"}
_SWITCHES = ("trust_remote_code", "hf_evaluate")


class _Tag:
    """A value with a tag, which lm-eval may turn into code."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Reads YAML without running what a tag names."""


_Loader.add_multi_constructor("", lambda _loader, suffix, _node: _Tag(suffix))


def is_path(task: str) -> bool:
    """Whether a task is named by its file or folder, and not by its name in the library."""
    return "/" in task or Path(task).suffix in ENDINGS


def require_trust(task: str, trusted: Collection[str]) -> None:
    """Raise InputError where the files of a task hold code and their digest is not trusted."""
    folder = _folder(task)
    if (place := next(code_in(folder), "")) and task_digest(task) not in trusted:
        raise InputError(
            f"The lm-eval task {task} holds code ({place}).",
            f"If you trust all files beside it, run `academy suites --trust-suite lm-eval:{task}`.",
        )


def task_digest(task: str) -> str:
    """The digest of all files in a task's folder, with their names. Raises InputError where they are too many."""
    folder = _folder(task)
    files = sorted(_files(folder))
    return digest_of([[str(file.relative_to(folder)), digest_of_file(file)] for file in files])


def code_in(folder: Path) -> Iterator[str]:
    """Where the task files of a folder name code, as FILE: what."""
    for file in sorted(_files(folder)):
        if file.suffix not in ENDINGS:
            continue
        try:
            content = yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as problem:
            yield f"{file.name}: it cannot be read as YAML, {type(problem).__name__}"
            continue
        for what in _code(content, folder):
            yield f"{file.name}: {what}"


def _code(value: Any, folder: Path) -> Iterator[str]:
    if isinstance(value, _Tag):
        yield f"!{value.name.lstrip('!')}"
    elif isinstance(value, list):
        for item in value:
            yield from _code(item, folder)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _code(key, folder)
            yield from _named_code(str(key), item, folder)
            yield from _code(item, folder)


def _named_code(key: str, value: Any, folder: Path) -> Iterator[str]:
    """Code that a key names."""
    if key in _PROGRAMS:
        yield f"{key}, {_PROGRAMS[key]}"
    elif key in _SWITCHES and value not in (False, None):
        yield key
    elif key == "dataset_path" and value is not None and not _is_data(str(value)):
        yield f"dataset_path {value}, which may be a program"
    elif key == "metric" and isinstance(value, str) and value not in _METRICS:
        yield f"metric {value}, which may be fetched as a program"
    elif key == "include":
        for name in value if isinstance(value, list) else [value]:
            if not (folder / str(name)).resolve().is_relative_to(folder):
                yield f"include {name}, which is outside the folder"


def _is_data(name: str) -> bool:
    """Whether a dataset is read without running a program of it: local files, or a repository of the hub."""
    owner, slash, repository = name.partition("/")
    of_hub = slash and owner not in ("", ".", "..", "~") and repository and "/" not in repository
    return name in _BUILDERS or bool(of_hub and not name.endswith(".py") and not Path(name).exists())


def _folder(task: str) -> Path:
    path = Path(task).expanduser()
    if not path.exists():
        raise InputError(f"The lm-eval task {task} does not exist.", "Check the path.")
    return (path if path.is_dir() else path.parent).resolve()


def _files(folder: Path) -> Iterator[Path]:
    count = size = 0
    for place, folders, names in os.walk(folder, followlinks=False):
        if link := next((name for name in folders if (Path(place) / name).is_symlink()), ""):
            raise InputError(f"{Path(place) / link} is a link, in the folder of an lm-eval task.", "Remove the link.")
        for name in names:
            file = Path(place) / name
            if not file.is_file():
                continue
            count, size = count + 1, size + file.stat().st_size
            if count > MOST_FILES or size > MOST_BYTES:
                sentence = f"The folder {folder} of an lm-eval task has too many files."
                raise InputError(sentence, "Put the task into a folder of its own.")
            yield file
