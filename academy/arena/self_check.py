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
from functools import cache
from itertools import count
from math import ceil

from academy.arena.suites.base import Question, Reply, Suite
from academy.arena.verdict import HORIZON, NO_QUESTIONS, Item, PairedResults, compute_verdict
from academy.curriculum.holdout import HELD_OUT
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
    if suite.role in ("leak", "suspect"):
        errors = sum(1 for score in wrong if score >= 1) + sum(1 for score in right if score < 1)
        if errors:
            return (
                f"Self-check failed for suite {suite.name}: {errors} of {2 * len(questions)} control answers "
                "were graded incorrectly."
            )
        return ""
    skill, outcome, due = _failed_trial(questions, wrong, right, 0) or ("", "", "")
    if not skill:
        return ""
    return (
        f"Self-check failed for suite {suite.name}: a simulated {skill} model got {outcome} "
        f"instead of {due} ({len(questions)} questions in {_groups(questions)} groups)."
    )


def undecidable(questions: Sequence[Question], spent_before: int) -> str:
    """Why no verdict on these questions could promote anybody, whatever the answers; empty where one could.

    It is the self-check's arithmetic without a grader, so it can be asked before anything is trained.
    """
    if spent_before >= HORIZON:
        return (
            f"the error budget of {HORIZON} examinations is spent; import new lessons and run `academy holdout renew`"
        )
    zeros, ones = [0.0] * len(questions), [1.0] * len(questions)
    if questions and _failed_trial(questions, zeros, ones, spent_before) is None:
        return ""
    fewest = fewest_groups()
    problem = (
        f"the held-out questions have {_groups(questions)} different answers (minimum {fewest})"
        if questions
        else "no question is held out"
    )
    single = ceil(fewest / HELD_OUT)
    return f"{problem}; import lessons with {fewest} answers in two wordings each, or with {single} different answers"


@cache
def fewest_groups() -> int:
    """The smallest number of independent groups on which a better model is promoted."""
    for number in count(2):
        questions = [_stand_in(str(n)) for n in range(number)]
        if _failed_trial(questions, [0.0] * number, [1.0] * number, 0) is None:
            return number
    raise AssertionError("unreachable: the power grows with the number of groups")


def _stand_in(name: str) -> Question:
    return Question(id=name, request=name, reference=name, group=name, slice="new")


def _groups(questions: Sequence[Question]) -> int:
    return len({question.group for question in questions})


def _failed_trial(
    questions: Sequence[Question], wrong: Sequence[float], right: Sequence[float], spent_before: int
) -> tuple[str, str, str] | None:
    """The first simulated player that does not get its due: (its skill, its outcome, its due)."""
    order = sorted(range(len(questions)), key=lambda n: stable_fraction("stand-in", questions[n].id))
    half = set(order[: len(order) // 2])
    champion = [right[n] if n in half else wrong[n] for n in range(len(questions))]
    for skill, challenger, due in (
        ("equal", champion, "HOLD"),
        ("better", right, "PROMOTE"),
        ("worse", wrong, "REJECT"),
    ):
        outcome = compute_verdict([_paired(questions, champion, challenger)], spent_before).outcome
        if outcome != due:
            return skill, outcome, due
    return None


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
