"""Logs of other trainers: the figures that stand there, or none.

Keys: `[input] text` (with `encoding`), the log as bytes. `[right] rows`: for each line with figures its number
(`line`, from 1) and figures by the names of Metrics' fields (`total` is `total_steps`). Lines that are not named must
give nothing; of a line that is named, the figures that are named are compared.
"""

from __future__ import annotations

from typing import Any

import pytest

from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import TrainingMetricsParser
from tests.foreign.cases import Case, each_case

SHORT = {"total": "total_steps"}


@each_case("logs")
def test_a_log_gives_its_figures_and_no_others(case: Case) -> None:
    parser = TrainingMetricsParser()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(case.content.decode("latin-1").split("\n"), start=1):
        if (metrics := parser.parse_line(line)) is not None:
            figures = {name: value for name, value in metrics._asdict().items() if value not in (None, False)}
            rows.append({"line": number, **figures})
    right = [{SHORT.get(name, name): value for name, value in row.items()} for row in case.right["rows"]]
    assert [row["line"] for row in rows] == [row["line"] for row in right]
    for row, expected in zip(rows, right, strict=True):
        assert {name: row.get(name) for name in expected} == pytest.approx(expected)
    assert all(event.phase == "step" for event in parse_events(split_lines([case.content])))
