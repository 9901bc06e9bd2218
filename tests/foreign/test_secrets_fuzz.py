"""Texts made of the pieces of all cases: redaction never raises, leaves nothing, and takes linear time."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import strategies as st

from academy.curriculum import secrets
from tests.foreign import budget
from tests.foreign.cases import cases_of
from tests.foreign.test_secrets import secret_of

TEXTS = [case.content.decode().replace("§", secret_of(case)) for case in cases_of("secrets")]
SIGNS = [
    "=",
    ":",
    '"',
    "'",
    "\\",
    '\\"',
    "\n",
    "\\n",
    "&quot;",
    "%22",
    "[",
    "]",
    "<",
    ">",
    "@",
    "/",
    "://",
    "key",
    "password",
    "token",
    "a7B",
    " is ",
    "|",
    "-",
]
PIECES = st.one_of(
    st.sampled_from(SIGNS),
    st.text(max_size=8),
    st.tuples(st.sampled_from(TEXTS), st.integers(0, 200), st.integers(1, 80)).map(
        lambda cut: cut[0][cut[1] : cut[1] + cut[2]]
    ),
)
MEGABYTE_SECONDS = 10.0
LONGEST = 10.0
"""Seconds that no text may take longer than."""


@pytest.mark.campaign
def test_redaction_leaves_nothing_and_changes_nothing_twice() -> None:
    counts: Counter[str] = Counter()

    def check(text: str) -> None:
        began = time.monotonic()
        clean, findings = secrets.redact(text)
        counts.update(finding.kind for finding in findings)
        assert secrets.redact(clean) == (clean, ())
        assert time.monotonic() - began < LONGEST

    texts = st.lists(PIECES, max_size=30).map("".join)
    number = budget.for_a_while(time.monotonic() + budget.SECONDS, check, text=texts)
    print(f"\n{number} texts: {dict(counts.most_common())}")
    assert counts


@pytest.mark.campaign
@pytest.mark.parametrize("number", range(12))
def test_a_megabyte_of_repeated_pieces_takes_seconds(number: int) -> None:
    """A pattern that backtracks over the text would need hours."""
    rng = random.Random(number)
    cut = rng.choice(TEXTS)
    start = rng.randrange(len(cut))
    unit = "".join((rng.choice(SIGNS), cut[start : start + rng.randrange(1, 40)], rng.choice(SIGNS)))
    text = unit * (1_000_000 // len(unit))
    begin = time.process_time()
    secrets.find_secrets(text)
    seconds = time.process_time() - begin
    print(f"secrets: {unit!r} repeated to 1 MB took {seconds:.1f} s")
    assert seconds < MEGABYTE_SECONDS
