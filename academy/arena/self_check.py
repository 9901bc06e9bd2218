"""Self-check of a suite: simulated players of known skill go through the same grader and the same verdict.

A simulated champion answers a seeded half of the questions correctly. Against itself the verdict must be HOLD, against
a player that answers everything PROMOTE, and against a player that answers nothing REJECT. This detects a broken
grader, a grader that accepts everything or nothing, and a suite with too few questions, before they affect a
promotion.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from academy.arena.suites.base import Question, Reply, Suite
from academy.arena.verdict import NO_QUESTIONS, Item, PairedResults, compute_verdict
from academy.errors import ExaminationError
from academy.records import stable_fraction


def self_check_failure(suite: Suite) -> str:
    """Why a suite cannot distinguish players; empty where it can."""
    questions = suite.questions()
    if not questions:
        return NO_QUESTIONS if suite.role == "target" else ""
    try:
        # The wrong answers come first: this detects a grader that accepts the first answer that it sees.
        wrong, right = (_control_scores(suite, questions, right=right) for right in (False, True))
    except ExaminationError as problem:
        return f"Self-check failed for suite {suite.name}: a control answer could not be graded. {problem}"
    if suite.role == "leak":
        errors = sum(1 for score in wrong if score >= 1) + sum(1 for score in right if score < 1)
        if errors:
            return (
                f"Self-check failed for suite {suite.name}: {errors} of {2 * len(questions)} control answers "
                "were graded incorrectly."
            )
        return ""
    order = sorted(range(len(questions)), key=lambda n: stable_fraction("stand-in", questions[n].id))
    half = set(order[: len(order) // 2])
    champion = [right[n] if n in half else wrong[n] for n in range(len(questions))]
    for skill, challenger, due in (
        ("equal", champion, "HOLD"),
        ("better", right, "PROMOTE"),
        ("worse", wrong, "REJECT"),
    ):
        outcome = compute_verdict([_paired(questions, champion, challenger)], 0).outcome
        if outcome != due:
            groups = len({q.group for q in questions})
            return (
                f"Self-check failed for suite {suite.name}: a simulated {skill} model got {outcome} "
                f"instead of {due} ({len(questions)} questions in {groups} groups)."
            )
    return ""


def checked_score(suite: Suite, question: Question, reply: Reply) -> float:
    """A reply's score. Raises ExaminationError where the grader raises, or gives a number outside 0 to 1."""
    try:
        score = suite.grade(question, reply)
    except ExaminationError:
        raise
    except Exception as problem:
        raise ExaminationError(
            f"The grader failed on question {question.id} ({type(problem).__name__}: {problem}).", "Fix the grader."
        ) from problem
    if not 0.0 <= score <= 1.0:
        raise ExaminationError(
            f"The grader gave {score} for question {question.id}.",
            "A score must be a number from 0 to 1; fix the grader.",
        )
    return score


def _control_scores(suite: Suite, questions: Sequence[Question], *, right: bool) -> list[float]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda q: checked_score(suite, q, suite.control_answer(q, right=right)), questions))


def _paired(questions: Sequence[Question], champion: Sequence[float], challenger: Sequence[float]) -> PairedResults:
    # All questions count as new and as a target, so that the outcome depends on the grader and the number of groups,
    # not on the slices.
    items = tuple(
        Item(question=q.id, group=q.group, slice="new", champion=a, challenger=b)
        for q, a, b in zip(questions, champion, challenger, strict=True)
    )
    groups = len({q.group for q in questions})
    return PairedResults(suite="self-check", role="target", groups=groups, items=items)
