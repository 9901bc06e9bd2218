"""Answers of all shapes: good ones are kept, and each drop has a reason that is counted.

Keys: `[input] answer`, and `request` if it matters. `[right] kept`; `reason`: what is counted if it is dropped.
"""

from __future__ import annotations

from academy.curriculum.filters import clean, reason_to_drop
from academy.experience.experience import Experience
from tests.foreign.cases import Case, each_case

REQUEST = "What does the harbour handbook say about this?"


@each_case("surface")
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
