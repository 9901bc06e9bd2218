"""Decides whether training pays. Pure: counts in, a decision with its reasons out."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from academy.records import Record

SMALLEST_DATASET = 50
"""Examples after filtering, below which nothing is trained."""


class Reason(Record):
    """One condition with its numbers."""

    name: Literal["lessons", "new lessons", "hours", "examples", "not examined yet", "memory"]
    met: bool
    sentence: str


class Decision(Record):
    """Whether to train. `forced` says that a person overrode conditions that were not met."""

    train: bool
    forced: bool
    reasons: tuple[Reason, ...]

    @property
    def because(self) -> str:
        """The reasons that decided it, as one sentence."""
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
    examples: int | None = None,
    examined: str = "",
    place: tuple[bool, str] | None = None,
    force: bool = False,
) -> Decision:
    """Should a training start?

    `lessons` and `new_lessons` count successful, active lessons and tasks (all; since the champion's examination).
    `examples` is the size of the training side once it is known; `examined` names the outcome when this very order was
    examined before. `place` is whether the training can run, and where. `force` overrides every condition but the
    smallest dataset, a training that can run nowhere, and a repeated examination of the same order: a second try at the
    same question would not be free of chance.
    """
    reasons = [
        Reason(name="lessons", met=lessons >= min_lessons, sentence=f"{lessons:,} lessons of at least {min_lessons:,}"),
        Reason(
            name="new lessons",
            met=new_lessons >= min_new_lessons,
            sentence=f"{new_lessons:,} new lessons of at least {min_new_lessons:,} since the champion was examined",
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
                sentence=f"{hours:.1f} hours of at least {interval_hours:g} since the last verdict",
            )
        )
    firm: list[Reason] = []
    if examples is not None:
        firm.append(
            Reason(
                name="examples",
                met=examples >= SMALLEST_DATASET,
                sentence=f"{examples:,} training examples of at least {SMALLEST_DATASET}",
            )
        )
    if examined:
        firm.append(
            Reason(
                name="not examined yet",
                met=False,
                sentence=f"this very dataset and recipe were examined already, with the verdict {examined}",
            )
        )
    if place is not None:
        firm.append(Reason(name="memory", met=place[0], sentence=place[1]))
    possible = all(reason.met for reason in firm)
    wanted = all(reason.met for reason in reasons)
    return Decision(
        train=possible and (wanted or force), forced=possible and force and not wanted, reasons=(*reasons, *firm)
    )
