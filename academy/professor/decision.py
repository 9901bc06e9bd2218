"""Decides whether to train: a pure function from counts to a decision with its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from academy.records import Record

SMALLEST_DATASET = 50
"""Training examples, after filtering, that a training needs."""


class Reason(Record):
    """A condition, whether it is met, and a sentence with its numbers."""

    name: Literal[
        "lessons", "new lessons", "hours", "held-out questions", "examples", "not examined yet", "memory", "enabled"
    ]
    met: bool
    sentence: str


class Decision(Record):
    """Whether to train. `forced`: a user overrode conditions that were not met."""

    train: bool
    forced: bool
    reasons: tuple[Reason, ...]

    @property
    def because(self) -> str:
        """The reasons for the decision, as one sentence."""
        unmet = [reason.sentence for reason in self.reasons if not reason.met]
        if self.train and not self.forced:
            return "; ".join(reason.sentence for reason in self.reasons) + "."
        return "; ".join(unmet) + (" (overridden by --force)." if self.forced else ".")


def should_train(
    *,
    lessons: int,
    new_lessons: int,
    last_verdict: datetime | None,
    now: datetime,
    min_lessons: int,
    min_new_lessons: int,
    interval_hours: float,
    held_out: tuple[int, str] | None = None,
    examples: int | None = None,
    examined: str = "",
    placement: tuple[bool, str] | None = None,
    not_counted: str = "",
    force: bool = False,
    disabled: str = "",
    tags: Sequence[str] = (),
) -> Decision:
    """Decide whether a training starts.

    `lessons` and `new_lessons` count successful, active lessons and tasks: all, and those since the champion was
    examined. `held_out` is the number of held-out questions, and why no verdict on them could promote a challenger
    (empty where one could). `examples` is the size of the training side, if it is known. `examined` is the verdict on
    the same order, if there is one. `placement` is whether the training can run, and where. `not_counted` says in words
    which lessons do not count; it is shown where lessons are missing. `disabled` says that the user allows no training
    at all. `force` overrides every condition except four: that one, the smallest dataset, a training that cannot run on
    any device, and a repeated examination of the same order, because a second attempt at the same questions could pass
    by chance. With `tags` only lessons with one of them were counted.
    """
    if disabled:  # then nothing else is of interest
        return Decision(train=False, forced=False, reasons=(Reason(name="enabled", met=False, sentence=disabled),))
    enough = lessons >= min_lessons
    kind = f"lessons tagged {' or '.join(tags)}" if tags else "lessons"
    missing = f", not counted: {not_counted}" if not_counted and not enough else ""
    reasons = [
        Reason(name="lessons", met=enough, sentence=f"{lessons:,} {kind} (minimum {min_lessons:,}){missing}"),
        Reason(
            name="new lessons",
            met=new_lessons >= min_new_lessons,
            sentence=f"{new_lessons:,} new {kind} since the champion was examined ({min_new_lessons:,} required)",
        ),
    ]
    if last_verdict is None:
        reasons.append(Reason(name="hours", met=True, sentence="no examination yet"))
    else:
        hours = (now - last_verdict).total_seconds() / 3600
        reasons.append(
            Reason(
                name="hours",
                met=hours >= interval_hours,
                sentence=f"{hours:.1f} hours since the last verdict (minimum {interval_hours:g})",
            )
        )
    if held_out is not None:
        number, problem = held_out
        sentence = f"{number:,} held-out questions"
        if problem:
            sentence = f"no challenger could be promoted: {problem}"
        reasons.append(Reason(name="held-out questions", met=not problem, sentence=sentence))
    not_overridable: list[Reason] = []
    if examples is not None:
        not_overridable.append(
            Reason(
                name="examples",
                met=examples >= SMALLEST_DATASET,
                sentence=f"{examples:,} training examples (minimum {SMALLEST_DATASET})",
            )
        )
    if examined:
        not_overridable.append(
            Reason(
                name="not examined yet",
                met=False,
                sentence=f"this dataset and recipe were examined before (verdict {examined})",
            )
        )
    if placement is not None:
        not_overridable.append(Reason(name="memory", met=placement[0], sentence=placement[1]))
    possible = all(reason.met for reason in not_overridable)
    due = all(reason.met for reason in reasons)
    return Decision(
        train=possible and (due or force),
        forced=possible and force and not due,
        reasons=(*reasons, *not_overridable),
    )
