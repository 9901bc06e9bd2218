"""Rebuild a dataset from what it was made of, and compare two datasets: proofs, nothing is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from academy import __version__
from academy.curriculum.curator import CountTokens, DatasetCurator
from academy.curriculum.dataset import INPUTS, Dataset, read_rows
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.holdout import Holdout
from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import Reference
from academy.records import Record


class RebuildResult(Record):
    """What became of a rebuilding; `because` is a sentence."""

    digest: str
    again: str
    same: bool
    because: str


class DatasetDifference(Record):
    """Ids of examples that stand in one of two datasets only, by side."""

    only_in_first: dict[str, tuple[str, ...]]
    only_in_second: dict[str, tuple[str, ...]]
    shared: dict[str, int]


def rebuild(
    store: LessonsStore,
    holdout: Holdout,
    count_tokens: CountTokens,
    dataset: Dataset,
    scratch: Path,
    guarded: Sequence[GuardedSuite] = (),
) -> RebuildResult:
    """Curate exactly the same lessons and commits again, in `scratch`, and compare the digests.

    The register gives every request its first place again, so what came later changes nothing. Raises InputError
    where a repository is gone, ExaminationError where the hold-out would not stay clean.
    """
    if not (dataset.path / INPUTS).is_file():
        raise InputError(
            f"The dataset {dataset.digest[:12]} does not say what it was made of.", "`academy curate` again."
        )
    references = [Reference.model_validate(row) for row in read_rows(dataset.path / INPUTS)]
    curator = DatasetCurator(store, count_tokens, context=dataset.context, base=dataset.base, guarded=guarded)
    curator.cursor = dataset.cursor
    missing = curator.collect_again(references)
    curator.filter_low_quality()
    again = curator.save(scratch, holdout).digest
    same = again == dataset.digest
    if same:
        because = f"{len(references):,} lessons and commits gave the same bytes again."
    elif missing:
        because = f"It contains forgotten lessons: {missing:,} of {len(references):,} lessons and commits are gone."
    elif dataset.version != __version__:
        because = f"It was made by version {dataset.version}, and this is {__version__}: the rules have changed."
    else:
        because = "The same lessons and commits gave other bytes, or other suites are asked now."
    return RebuildResult(digest=dataset.digest, again=again, same=same, because=because)


def diff(first: Dataset, second: Dataset) -> DatasetDifference:
    """What one dataset has and the other has not."""
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
