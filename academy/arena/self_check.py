"""Proof that an examination is alive: planted players of known skill through the same grader and the same verdict.

A stand-in champion that answers a seeded half of the questions rightly must hold against itself, lose against a
player that answers all of them, and win against one that answers none. A grader that was broken, that likes
everything or nothing, or questions too few to tell anything, are found here and not in a promotion.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from academy.arena.suites.base import Question, Reply, Suite
from academy.arena.verdict import Item, Paired, judge
from academy.errors import ExaminationError
from academy.records import stable_fraction


def why_dead(suite: Suite) -> str:
    """Why a suite cannot tell players apart; empty where it can."""
    questions = suite.questions()
    if not questions:
        return "there are no held-out questions" if suite.role == "target" else ""
    try:
        # the wrong ones first: a grader that takes whatever it sees first for right is found by that
        wrong, right = (_scores(suite, questions, right=right) for right in (False, True))
    except ExaminationError as problem:
        return f"{suite.name} failed on a planted answer: {problem}"
    if suite.role == "leak":
        blind = sum(1 for score in wrong if score >= 1) + sum(1 for score in right if score < 1)
        return f"{suite.name} is not alive: it misjudged {blind} planted answers" if blind else ""
    shuffled = sorted(range(len(questions)), key=lambda n: stable_fraction("stand-in", questions[n].id))
    skilled = set(shuffled[: len(shuffled) // 2])
    stand_in = [right[n] if n in skilled else wrong[n] for n in range(len(questions))]
    for name, other, wanted in (
        ("an equal", stand_in, "HOLD"),
        ("a better", right, "PROMOTE"),
        ("a worse", wrong, "REJECT"),
    ):
        found = judge([_paired(questions, stand_in, other)], 0).outcome
        if found != wanted:
            groups = len({q.group for q in questions})
            return (
                f"{suite.name} is not alive: {name} stand-in gave {found} where {wanted} was due "
                f"({len(questions)} questions in {groups} groups)"
            )
    return ""


def scored(suite: Suite, question: Question, reply: Reply) -> float:
    """A reply's score. Raises ExaminationError for whatever the grader raises, and for a score that is none."""
    try:
        score = suite.grade(question, reply)
    except ExaminationError:
        raise
    except Exception as problem:
        raise ExaminationError(
            f"The grader failed on {question.id} ({type(problem).__name__}: {problem}).", "Mend the grader."
        ) from problem
    if not 0.0 <= score <= 1.0:
        raise ExaminationError(
            f"The grader gave {score} for {question.id}.", "A score is a number from 0 to 1; mend the grader."
        )
    return score


def _scores(suite: Suite, questions: Sequence[Question], *, right: bool) -> list[float]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda q: scored(suite, q, suite.planted(q, right=right)), questions))


def _paired(questions: Sequence[Question], champion: Sequence[float], challenger: Sequence[float]) -> Paired:
    # all of it new and a target: the outcome then tells of the grader and the number of groups, not of the slices
    items = tuple(
        Item(question=q.id, group=q.group, slice="new", champion=a, challenger=b)
        for q, a, b in zip(questions, champion, challenger, strict=True)
    )
    return Paired(suite="planted", role="target", groups=len({q.group for q in questions}), items=items)
