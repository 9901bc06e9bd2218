"""Refuses a dataset that contains what examinations ask."""

from __future__ import annotations

from academy.curriculum.dataset import Dataset, read_rows, transcript_of
from academy.curriculum.overlap_check import refuse_overlap_of_texts
from academy.loop.choose_suites import guarded_texts
from academy.loop.home import Home
from academy.store.ledger_rows import AllowEntry


def refuse_overlap(home: Home, dataset: Dataset) -> None:
    """Raise ExaminationError if a dataset overlaps with its hold-out or with the suites of this home's settings."""
    rows = read_rows(dataset.train_file)
    suites = guarded_texts(home.settings)
    refuse_overlap_of_texts([transcript_of(row) for row in rows], dataset.held_out(), suites, allowed_overlaps(home))


def allowed_overlaps(home: Home) -> set[str]:
    """Keys of the overlaps that a person allowed."""
    return {row.body.overlap for row in home.ledger.rows(AllowEntry)}
