"""The time of the fuzzers: one variable for all of them, so that a campaign can bound it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

SECONDS = float(os.environ.get("ACADEMY_TEST_FUZZ_SECONDS", "20"))
"""Seconds of each test that is a fuzzer."""
TOGETHER = 5
"""Examples between two looks at the clock."""


def for_a_while(until: float, check: Callable[..., None], **strategies: st.SearchStrategy[Any]) -> int:
    """Call a check with generated values, until a moment of the monotonic clock. Returns how often."""
    names = sorted(strategies)
    rounds, calls = 0, 0

    def with_values(values: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        check(**dict(zip(names, values, strict=True)))

    options = settings(
        max_examples=TOGETHER, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    while time.monotonic() < until:
        rounds += 1
        seed(rounds)(options(given(st.tuples(*(strategies[name] for name in names)))(with_values)))()
    return calls
