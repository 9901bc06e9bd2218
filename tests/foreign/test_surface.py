"""Answers of all shapes: good ones are kept, and each drop has a reason that is counted.

Keys: `[input] answer`, and `request` if it matters. `[right] kept`; `reason`: what is counted if it is dropped. Or
`[input] text`: lines with `situation` and `action`. `[right] trained_or_held`: requests that must survive; `dropped`:
how often each reason is counted, by words that it holds.
"""

from __future__ import annotations

from collections import Counter

import orjson
import pytest

from academy.curriculum.filters import clean, reason_to_drop
from academy.experience.experience import Experience
from tests.foreign.cases import Case, cases_of

CASES = cases_of("surface")

REQUEST = "What does the harbour handbook say about this?"


@pytest.mark.parametrize("case", [case for case in CASES if "answer" in case.input], ids=lambda case: case.name)
def test_a_good_answer_is_kept_and_a_drop_has_a_reason(case: Case) -> None:
    answer = case.input["answer"]
    experience = Experience(
        id="x",
        kind="lesson",
        request=case.input.get("request", REQUEST),
        answer=answer,
        outcome="success",
        provenance={},
    )
    assert reason_to_drop(experience) == case.right["reason"]
    assert case.right["kept"] is not bool(case.right["reason"])
    if case.right["kept"]:
        assert clean(experience) == (experience, {})


@pytest.mark.parametrize("case", [case for case in CASES if "text" in case.input], ids=lambda case: case.name)
def test_lines_are_kept_or_dropped_for_a_reason(case: Case) -> None:
    kept: list[str] = []
    reasons: Counter[str] = Counter()
    for line in case.content.splitlines():
        row = orjson.loads(line)
        experience = Experience(
            id="x", kind="lesson", request=row["situation"], answer=row["action"], outcome=row["outcome"], provenance={}
        )
        if reason := reason_to_drop(experience):
            reasons[reason] += 1
        else:
            kept.append(experience.request)
    assert [request for request in case.right.get("trained_or_held", ()) if request not in kept] == [], reasons
    for words, count in case.right.get("dropped", {}).items():
        assert sum(number for reason, number in reasons.items() if words in reason) == count, reasons
