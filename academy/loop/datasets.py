"""Reads, compares and rebuilds datasets, and allows overlaps that are accidental."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from academy.curriculum import rebuild as proofs
from academy.curriculum.dataset import Dataset, all_datasets, find_dataset, read_dataset, read_rows, shown_texts
from academy.curriculum.rebuild import DatasetDifference, RebuildResult
from academy.errors import InputError
from academy.experience.experience import Experience
from academy.loop.choose_suites import guarded_texts
from academy.loop.explain_contradictions import ContradictionText, explain_contradictions
from academy.loop.home import Home
from academy.records import Record
from academy.store.ledger_rows import AllowEntry

SHOWN = 10
"""Contradictions and changed lessons that are read in full."""


class DatasetLines(Record):
    """A dataset with its first lines; each line is its messages and its provenance."""

    dataset: Dataset
    lines: tuple[dict[str, Any], ...]

    @property
    def texts(self) -> list[tuple[str, str]]:
        """The last request of each line, and its answer in words."""
        return [shown_texts(line) for line in self.lines]


class DatasetComparison(Record):
    """What only one of two datasets has, and the first changed lessons in full, by id. A commit has no lesson."""

    difference: DatasetDifference
    lessons: dict[str, Experience]


def list_datasets(home: Home) -> list[Dataset]:
    """All datasets of the home, oldest first."""
    return all_datasets(home.datasets)


def newest_dataset(home: Home, digest: str | None) -> Dataset:
    """The dataset with this digest (or its first digits), or the newest. Raises InputError where there is none."""
    if digest is not None:
        return find_dataset(home.datasets, digest)
    datasets = all_datasets(home.datasets)
    if not datasets:
        raise InputError("No dataset exists yet.", "Run `academy curate` to make one.")
    return datasets[-1]


def dataset_lines(home: Home, digest: str, limit: int) -> DatasetLines:
    """A dataset and the first `limit` of its training lines."""
    dataset = read_dataset(home.datasets, digest)
    rows, origins = read_rows(dataset.train_file), read_rows(dataset.path / "provenance.jsonl")
    lines = [
        {**row, **origin}
        for row, origin, _ in zip(rows, origins, range(limit), strict=False)
    ]  # fmt: skip
    return DatasetLines(dataset=dataset, lines=tuple(lines))


def contradictions(home: Home, dataset: Dataset) -> Sequence[ContradictionText]:
    """The first contradictions of a dataset, with their texts."""
    return explain_contradictions(home, [(pair.first, pair.second) for pair in dataset.contradictions[:SHOWN]])


def allow_overlap(home: Home, key: str) -> str:
    """Allow an overlap with a suite, by its key or the key's first digits. The next curation keeps the example.

    The ledger records it. Returns the whole key. Raises InputError where no overlap, or more than one, has this key.
    """
    keys = {
        overlap.key
        for dataset in all_datasets(home.datasets)
        for example in dataset.overlaps
        for overlap in example.overlaps
    }
    matches = sorted(candidate for candidate in keys if candidate.startswith(key))
    if len(matches) != 1:
        raise InputError(
            f"{'No overlap has' if not matches else 'More than one overlap has'} the key {key}.",
            "`academy dataset show DIGEST` lists overlaps with their keys.",
        )
    home.ledger.append(f"allow:{home.base.digest}:{matches[0]}", AllowEntry(overlap=matches[0]))
    return matches[0]


def compare_datasets(home: Home, first: str, second: str) -> DatasetComparison:
    """What only one of two datasets has."""
    difference = proofs.diff(read_dataset(home.datasets, first), read_dataset(home.datasets, second))
    ids = [*difference.only_in_first["train"][:SHOWN], *difference.only_in_second["train"][:SHOWN]]
    return DatasetComparison(difference=difference, lessons=home.store.by_id(ids))


def rebuild_dataset(home: Home, digest: str | None) -> RebuildResult:
    """Make a dataset again from its lessons and commits, and compare the bytes."""
    dataset = newest_dataset(home, digest)
    if dataset.base != home.base.digest:
        raise InputError(
            f"The dataset {dataset.digest[:12]} was made for another base model.", "Name that model with --base-model."
        )
    with tempfile.TemporaryDirectory(dir=home.settings.folder("datasets").parent, prefix=".staging-") as scratch:
        suites = guarded_texts(home.settings)
        return proofs.rebuild(home.store, home.holdout, home.base.measure, dataset, Path(scratch), suites)
