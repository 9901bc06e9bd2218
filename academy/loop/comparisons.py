"""All examinations of a home, with their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from academy.arena.examination import read_examination
from academy.arena.report import Comparison, compare
from academy.errors import InputError
from academy.records import Record
from academy.settings import Settings
from academy.store.files import write_file


class ExaminationSummary(Record):
    """One examination: its players by identity, its outcome, and statistics for each suite that was asked."""

    record: str
    champion: str
    challenger: str
    outcome: str
    because: str
    suites: tuple[Comparison, ...]


def list_comparisons(settings: Settings) -> list[ExaminationSummary]:
    """All examinations of a home, oldest first."""
    records = settings.folder("examinations").glob("*.json")
    summaries = []
    for path in sorted(records, key=lambda record: (record.stat().st_mtime_ns, record.name)):
        examination = read_examination(path)
        summaries.append(
            ExaminationSummary(
                record=path.name,
                champion=examination.champion,
                challenger=examination.challenger,
                outcome=examination.verdict.outcome,
                because=examination.verdict.because,
                suites=tuple(compare(result) for result in examination.results if result.items),
            )
        )
    return summaries


def write_comparisons(file: Path, summaries: Sequence[ExaminationSummary]) -> None:
    """Write examinations as JSONL. Raises InputError where the file is a folder."""
    if file.is_dir():
        raise InputError(f"{file} is a folder.", "Name a file.")
    write_file(file, (orjson.dumps(summary.model_dump(mode="json")) + b"\n" for summary in summaries))
