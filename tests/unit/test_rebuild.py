"""A dataset is rebuilt from its references, whatever happened since."""

from __future__ import annotations

from pathlib import Path

import pytest

from academy.curriculum.curator import Measure
from academy.curriculum.dataset import INPUTS, find_dataset
from academy.curriculum.decontamination import GuardedSuite
from academy.curriculum.rebuild import RebuildResult, diff, rebuild
from academy.errors import InputError
from academy.store.database import Database
from tests.unit.test_curator_and_dataset import Curation, Dataset, add, history


@pytest.fixture
def here(database: Database, tmp_path: Path, measure: Measure) -> Curation:
    return Curation(database, tmp_path, measure)


def again(here: Curation, dataset: Dataset) -> RebuildResult:
    return rebuild(here.store, here.holdout, here.measure, dataset, here.folder / "scratch")


def test_a_dataset_is_rebuilt_byte_for_byte(here: Curation, tmp_path: Path) -> None:
    add(here, 10, 5)
    made = here.curate(history(tmp_path / "repo", 20, 60))
    found = again(here, made)
    assert found.same
    assert found.again == made.digest
    assert found.because == "70 lessons and commits gave the same bytes."


def test_a_rebuild_ignores_later_lessons(here: Curation, tmp_path: Path) -> None:
    add(here, 10, 5)
    repository = history(tmp_path / "repo", 20, 60)
    made = here.curate(repository)
    add(here, 10, 5, seed=1)
    with here.database.write() as connection:
        first = next(here.store.read())
        here.store.supersede(first.request, "another answer", connection)
    assert here.curate(repository).digest != made.digest
    assert again(here, made).same


def test_a_missing_lesson_is_reported(here: Curation) -> None:
    add(here, 10, 5)
    made = here.curate()
    with here.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM lessons WHERE seq = 7")
    found = again(here, made)
    assert not found.same
    assert found.because == "It contains forgotten lessons: 1 of 50 lessons and commits are missing."


def test_a_missing_repository_is_rejected(here: Curation, tmp_path: Path) -> None:
    add(here, 10, 5)
    repository = history(tmp_path / "repo", 20, 60)
    made = here.curate(repository)
    repository.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is not a git repository"):
        again(here, made)


def test_a_dataset_without_references_is_rejected(here: Curation) -> None:
    add(here, 10, 5)
    made = here.curate()
    (made.path / INPUTS).unlink()
    with pytest.raises(InputError, match="has no list of its inputs"):
        again(here, find_dataset(here.folder / "datasets", made.digest))


def test_the_difference_of_two_datasets_is_given_by_side(here: Curation) -> None:
    add(here, 10, 5)
    first = here.curate()
    other = here.store.add_lesson("a request that is near to none of them", "an answer of its own", "success")
    second = here.curate()
    found = diff(first, second)
    assert [ids for ids in found.only_in_first.values() if ids] == []
    assert [ids for ids in found.only_in_second.values() if ids] == [(other,)]
    assert found.shared == {"train": first.examples, "holdout": first.holdout}


@pytest.mark.parametrize(("quota", "name"), [("per_source", "source by hand"), ("per_author", "author Ann")])
def test_a_dataset_that_a_quota_cut_is_rebuilt_byte_for_byte(here: Curation, quota: str, name: str) -> None:
    add(here, 10, 5)
    for n in range(20):
        letters = chr(97 + n) * 3
        here.store.add_lesson(f"{letters} {letters[::-1]} request", f"{letters} answer", metadata={"author": "Ann"})
    made = here.curate(**{quota: 12})
    assert made.funnel[f"dropped: over the quota of {name}"]
    stored = find_dataset(here.folder / "datasets", made.digest)
    assert again(here, stored).same


def test_a_dataset_with_an_allowed_overlap_is_rebuilt_byte_for_byte(here: Curation) -> None:
    add(here, 10, 5)
    task = "Write a function that returns the longest palindrome in a string without using recursion"
    for words in ("what did the exam ask", "which question came up last", "quote the first exercise"):
        here.store.add_lesson(words, f"{words}: It said:\n+    {task}")
    guarded = [GuardedSuite("coding", [task])]
    cut = here.curate(guarded=guarded)
    assert cut.overlaps
    allowed = [overlap.key for example in cut.overlaps for overlap in example.overlaps]
    made = here.curate(guarded=guarded, allowed=allowed)
    assert made.digest != cut.digest
    for dataset in (cut, made):
        stored = find_dataset(here.folder / "datasets", dataset.digest)
        scratch = here.folder / "scratch"
        assert rebuild(here.store, here.holdout, here.measure, stored, scratch, guarded).same
