"""Rebuilds a dataset from its references to prove its digest, and compares two datasets. Nothing is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from academy import __version__
from academy.curriculum.curator import DatasetCurator, Measure
from academy.curriculum.dataset import INPUTS, Dataset, read_rows
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.holdout import Holdout
from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import Reference
from academy.records import Record


class RebuildResult(Record):
    """The result of a rebuild: both digests, and a sentence."""

    digest: str
    again: str
    same: bool
    because: str


class DatasetDifference(Record):
    """Ids of the examples that only one of two datasets has, by side, and the number of shared ones."""

    only_in_first: dict[str, tuple[str, ...]]
    only_in_second: dict[str, tuple[str, ...]]
    shared: dict[str, int]


def rebuild(
    store: LessonsStore,
    holdout: Holdout,
    measure: Measure,
    dataset: Dataset,
    scratch: Path,
    guarded: Sequence[GuardedSuite] = (),
) -> RebuildResult:
    """Curate exactly the same lessons and commits again, in `scratch`, and compare the digests.

    Quotas and allowed overlaps are those that the dataset was made with, whatever the settings are now.
    The hold-out keeps the first assignment of every request, so later lessons change nothing. Raises InputError if a
    repository or source is missing, ExaminationError if the hold-out would overlap with the training side.
    """
    if not (dataset.path / INPUTS).is_file():
        raise InputError(
            f"Dataset {dataset.digest[:12]} has no list of its inputs and cannot be rebuilt.",
            "Run `academy curate` again.",
        )
    references = [Reference.model_validate(row) for row in read_rows(dataset.path / INPUTS)]
    curator = DatasetCurator(
        store,
        measure,
        context=dataset.context,
        base=dataset.base,
        guarded=guarded,
        allowed=dataset.allowed,
        per_source=dataset.per_source,
        per_author=dataset.per_author,
        untrusted_share=dataset.untrusted_share,
    )
    curator.cursor = dataset.cursor
    missing = curator.collect_again(references)
    curator.filter_low_quality()
    new_digest = curator.save(scratch, holdout).digest
    is_same = new_digest == dataset.digest
    if is_same:
        because = f"{len(references):,} lessons and commits gave the same bytes."
    elif missing:
        because = f"It contains forgotten lessons: {missing:,} of {len(references):,} lessons and commits are missing."
    elif dataset.version != __version__:
        because = f"Version {dataset.version} made it and this is version {__version__}: the rules have changed."
    elif dataset.untrusted:
        because = (
            f"{dataset.untrusted:,} examples are of sources that are not trusted: questions that were held out since "
            "may exclude some of them."
        )
    else:
        because = "The same lessons and commits gave different bytes, or the suites have changed."
    return RebuildResult(digest=dataset.digest, again=new_digest, same=is_same, because=because)


def diff(first: Dataset, second: Dataset) -> DatasetDifference:
    """Compare the examples of two datasets."""
    sides = ("train", "holdout")
    ids = [{side: _ids(dataset, side) for side in sides} for dataset in (first, second)]
    return DatasetDifference(
        only_in_first={side: tuple(sorted(ids[0][side] - ids[1][side])) for side in sides},
        only_in_second={side: tuple(sorted(ids[1][side] - ids[0][side])) for side in sides},
        shared={side: len(ids[0][side] & ids[1][side]) for side in sides},
    )


def _ids(dataset: Dataset, side: str) -> set[str]:
    file = "provenance.jsonl" if side == "train" else "holdout.jsonl"
    return {row["id"] for row in read_rows(dataset.path / file)}
