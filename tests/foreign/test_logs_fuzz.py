"""Logs made of mutated cases: the parser takes any bytes, in little time, and gives finite figures."""

from __future__ import annotations

import math
import time
from collections import Counter
from functools import partial

import pytest
from hypothesis import strategies as st

from academy.habitat.foreign_log import parse_events, split_lines
from academy.habitat.log_parser import Metrics, TrainingMetricsParser
from tests.foreign import budget
from tests.foreign.cases import cases_of

LOGS = [case.content for case in cases_of("logs")]
LONGEST = 5.0
"""Seconds that no log may take longer than."""
CUT = st.tuples(st.sampled_from(LOGS), st.integers(0, 400), st.integers(1, 80)).map(
    lambda cut: cut[0][cut[1] : cut[1] + cut[2]]
)
PIECES = st.one_of(
    CUT,
    st.binary(max_size=6),
    st.sampled_from([b"\r", b"\n", b"\b", b"{", b"}", b"(", b")", b",", b"9" * 40, b"\x1b["]),
)


@pytest.mark.campaign
def test_any_log_gives_finite_figures_or_none() -> None:
    counts: Counter[str] = Counter()
    until = time.monotonic() + budget.SECONDS
    counts["logs"] = budget.for_a_while(until, partial(check, counts), pieces=st.lists(PIECES, max_size=20))
    print(f"\n{dict(counts)}")
    assert counts["figures"]


def check(counts: Counter[str], pieces: list[bytes]) -> None:
    began = time.monotonic()
    parser = TrainingMetricsParser()
    for line in split_lines(pieces):
        metrics = parser.parse_line(line)
        counts["lines"] += 1
        if metrics is None:
            continue
        counts["figures"] += 1
        assert metrics != Metrics()
        assert all(value is None or math.isfinite(value) for value in metrics)
        assert metrics.accuracy is None or 0 <= metrics.accuracy <= 1
        assert all(isinstance(count, int | None) for count in (metrics.step, metrics.total_steps, metrics.total_epochs))
    numbers = [event.n for event in parse_events(split_lines(pieces))]
    assert numbers == list(range(1, len(numbers) + 1))
    assert time.monotonic() - began < LONGEST
