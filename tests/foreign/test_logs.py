"""Logs of other trainers: the figures that stand there, or none.

Keys: `[input] text` (with `encoding`), the log as bytes. `[right] rows`: for each line with figures its number
(`line`, from 1) and all its figures, by the names of Metrics' fields; `progress_percent` is compared only where it is
named. Lines that are not named must give nothing.
"""

from __future__ import annotations

from typing import Any

import pytest

from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import TrainingMetricsParser
from tests.foreign.cases import Case, each_case

DERIVED = "progress_percent"


@each_case("logs")
def test_a_log_gives_its_figures_and_no_others(case: Case) -> None:
    parser = TrainingMetricsParser()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(split_lines([case.content]), start=1):
        if (metrics := parser.parse_line(line)) is not None:
            figures = {name: value for name, value in metrics._asdict().items() if value not in (None, False)}
            rows.append({"line": number, **figures})
    right = case.right["rows"]
    for row, expected in zip(rows, right, strict=False):
        if DERIVED not in expected:
            row.pop(DERIVED, None)
    assert [row["line"] for row in rows] == [row["line"] for row in right]
    for row, expected in zip(rows, right, strict=True):
        assert row == pytest.approx(expected)
    assert all(event.phase == "step" for event in parse_events(split_lines([case.content])))
