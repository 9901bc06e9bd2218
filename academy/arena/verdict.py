"""PROMOTE, HOLD or REJECT from paired results: a pure function.

The sample is the mean of each group, not the item: wordings of one answer stand or fall together. The test is a
sign-flip test on those means, exact for few groups. Each examination that could promote spends an equal share of an
error budget of 5 % over 26 generations, so that an equal challenger is promoted less than once in twenty lives.

  * guard slice (held out before this batch): a significant fall rejects, a fall beyond the margin holds;
  * target (all items): a gain that the share of the budget allows promotes, a significant fall rejects;
  * everything else holds, and says the smallest gain that could have been seen.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from academy.arena.suite import Slice
from academy.artifacts import Record, digest_of

Outcome = Literal["PROMOTE", "HOLD", "REJECT", "CANNOT DECIDE"]

BUDGET, HORIZON = 0.05, 26
GUARD_LEVEL = 0.01
"""A fall on the guard slice with at most this chance under "no change" rejects."""
GUARD_MARGIN = 0.05
"""A fall beyond this on the guard slice holds, significant or not."""
EXACT_GROUPS = 16
FLIPS = 100_000
RESAMPLES = 10_000


class Item(Record):
    """One question and both players' scores on it."""

    question: str
    group: str
    slice: Slice
    champion: float
    challenger: float


class Estimate(Record):
    """Champion, challenger and the difference with its 95 % interval, by groups; shares from 0 to 1."""

    items: int
    groups: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    p_gain: float
    p_loss: float


class Verdict(Record):
    """The outcome, in words and with everything it was computed from."""

    outcome: Outcome
    because: str
    level: float  # the share of the error budget that this look could spend
    spends: bool
    looks_before: int
    target: Estimate | None = None
    guard: Estimate | None = None
    smallest_gain: float | None = None  # seen with 80 % power


def judge(items: Sequence[Item], looks_before: int) -> Verdict:
    """The verdict on paired results, given how many examinations spent from the budget before."""
    level = BUDGET / HORIZON if looks_before < HORIZON else 0.0
    if not items:
        return cannot_decide("there are no held-out questions", looks_before)
    target = estimate(items)
    guarded = [item for item in items if item.slice == "guard"]
    guard = estimate(guarded) if guarded else None
    smallest = _smallest_gain(items, level) if level else None

    def said(outcome: Outcome, because: str) -> Verdict:
        return Verdict(
            outcome=outcome, because=because, level=level, spends=True, looks_before=looks_before,
            target=target, guard=guard, smallest_gain=smallest,
        )  # fmt: skip

    if guard and guard.difference < 0 and guard.p_loss <= GUARD_LEVEL:
        return said(
            "REJECT",
            f"it forgot what the champion knows: {_points(guard)} on {guard.items} guard questions "
            f"(p = {guard.p_loss:.2g})",
        )
    if target.difference < 0 and target.p_loss <= GUARD_LEVEL:
        return said("REJECT", f"it is worse: {_points(target)} on {target.items} questions (p = {target.p_loss:.2g})")
    if target.champion == target.challenger == 0:
        return said("HOLD", f"neither player answered one of {target.items} questions rightly; they tell nothing")
    if guard and guard.difference < -GUARD_MARGIN:
        return said("HOLD", f"on the guard questions it fell by more than {GUARD_MARGIN:.0%}: {_points(guard)}")
    if not level:
        return said("HOLD", f"the error budget of {HORIZON} examinations is used up; renew the hold-out")
    if target.p_gain <= level:
        return said(
            "PROMOTE",
            f"it is better: {_points(target)} on {target.items} questions "
            f"(p = {target.p_gain:.2g}, {level:.2g} allowed)",
        )
    return said(
        "HOLD",
        f"the gain cannot be told from chance: {_points(target)} (p = {target.p_gain:.2g}, {level:.2g} allowed; "
        f"the smallest gain that could be seen is {smallest:+.1%})",
    )


def cannot_decide(because: str, looks_before: int) -> Verdict:
    """Nothing can be said, nothing moves, and nothing is spent."""
    return Verdict(outcome="CANNOT DECIDE", because=because, level=0.0, spends=False, looks_before=looks_before)


def estimate(items: Sequence[Item]) -> Estimate:
    """Means, interval (groups resampled) and one-sided p-values of the difference."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    ordered = [groups[name] for name in sorted(groups)]
    champion = np.array([np.mean([item.champion for item in group]) for group in ordered])
    challenger = np.array([np.mean([item.challenger for item in group]) for group in ordered])
    difference = challenger - champion
    rng = np.random.Generator(np.random.PCG64(int(digest_of([i.model_dump() for i in items])[:16], 16)))
    means = difference[rng.integers(0, len(difference), (RESAMPLES, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Estimate(
        items=len(items),
        groups=len(ordered),
        champion=float(champion.mean()),
        challenger=float(challenger.mean()),
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        p_gain=_sign_flip(difference, rng),
        p_loss=_sign_flip(-difference, rng),
    )


def _sign_flip(difference: NDArray[np.float64], rng: np.random.Generator) -> float:
    """One-sided p-value of "the mean is above zero" when the sign of each group's difference is a coin toss."""
    moved = difference[difference != 0]
    if not len(moved):
        return 1.0
    observed = moved.sum() - 1e-9
    if len(moved) <= EXACT_GROUPS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(moved))))
        return float((signs @ moved >= observed).mean())
    reached = 0
    for _ in range(10):
        signs = rng.integers(0, 2, (FLIPS // 10, len(moved)), dtype=np.int8) * 2.0 - 1.0
        reached += int((signs @ moved >= observed).sum())
    return (reached + 1) / (FLIPS + 1)


def _smallest_gain(items: Sequence[Item], level: float) -> float:
    """The mean gain that is seen in four of five examinations, were the groups as scattered as here."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item.challenger - item.champion)
    means = np.array([np.mean(values) for values in groups.values()])
    scatter = max(float(means.std(ddof=1)) if len(means) > 1 else 1.0, 0.2)
    normal = NormalDist()
    return (normal.inv_cdf(1 - level) + normal.inv_cdf(0.8)) * scatter / float(np.sqrt(len(means)))


def _points(found: Estimate) -> str:
    return (
        f"{found.champion:.1%} -> {found.challenger:.1%} ({found.difference:+.1%}, "
        f"95 % interval {found.low:+.1%} to {found.high:+.1%}, {found.groups} answers)"
    )
