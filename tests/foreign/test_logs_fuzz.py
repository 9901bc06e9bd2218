"""Logs made of mutated cases: the parser takes any bytes, in little time, and gives finite figures."""

from __future__ import annotations

import math
import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import Metrics, TrainingMetricsParser
from tests.foreign.cases import cases_of

LOGS = [case.content for case in cases_of("logs")]
EXAMPLES = int(os.environ.get("FOREIGN_FUZZ_EXAMPLES", "500"))
CUT = st.tuples(st.sampled_from(LOGS), st.integers(0, 400), st.integers(1, 80)).map(
    lambda cut: cut[0][cut[1] : cut[1] + cut[2]]
)
PIECES = st.one_of(
    CUT,
    st.binary(max_size=6),
    st.sampled_from([b"\r", b"\n", b"\b", b"{", b"}", b"(", b")", b",", b"9" * 40, b"\x1b["]),
)


@pytest.mark.campaign
@settings(max_examples=EXAMPLES, deadline=timedelta(seconds=5), suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=20))
def test_any_log_gives_finite_figures_or_none(pieces: list[bytes]) -> None:
    parser = TrainingMetricsParser()
    for line in split_lines(pieces):
        metrics = parser.parse_line(line)
        if metrics is None:
            continue
        assert metrics != Metrics()
        assert all(value is None or math.isfinite(value) for value in metrics)
        assert metrics.accuracy is None or 0 <= metrics.accuracy <= 1
        assert all(isinstance(count, int | None) for count in (metrics.step, metrics.total_steps, metrics.total_epochs))
    numbers = [event.n for event in parse_events(split_lines(pieces))]
    assert numbers == list(range(1, len(numbers) + 1))
