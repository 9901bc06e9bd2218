"""An exact sign-flip test of paired differences that may stop at declared looks.

Under "no change" the sign of each group's difference is a coin toss. The distribution of their sum is then known
exactly, by convolution; at each look the part of it that has crossed the bound is taken out. So the chance of ever
stopping is at most the level: no normal approximation, no resampling, and the same bytes every time.

Differences are weighted by 0.95 to 1.05, by the group's name alone. That is fixed before anybody answers, so the
test stays exact; and sums that would tie no longer do, which wins back the power that a coarse scale loses
(bench/verdict.py: +1 to +3 points).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from academy.records import Record, stable_fraction

LOOKS = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
"""Shares of the groups after which the verdict may fall."""
SPENDING = 5
"""At the share t of the groups, t ** SPENDING of the level may have been spent: little early, nearly all at the end."""
GRID, FINE_UP_TO, COARSEST = 420, 300, 30
"""Steps in which differences are counted: divisible by groups of 2 to 7 items, coarser for very many groups. Rounding
is part of the statistic, so the test stays exact."""


class Flips(Record):
    """The chance of such a sum, or of an earlier crossing, under "no change"; and what was allowed."""

    p: float
    allowed: float

    @property
    def crossed(self) -> bool:
        """Whether the bound was crossed."""
        return self.p <= self.allowed


def allowed(level: float, look: int) -> float:
    """What of a level may be spent until a look (0 to 5), cumulated."""
    return level * float(LOOKS[look] ** SPENDING)


def place(group: str) -> float:
    """Where a group stands in the order in which groups are asked: the same in every examination."""
    return stable_fraction("place", group)


def asked_until(look: int, groups: int) -> int:
    """How many of so many groups are asked until a look, which is the last one with look = 5."""
    return math.ceil(LOOKS[look] * groups - 1e-9)


def weight(group: str) -> float:
    """0.95 to 1.05, by the name alone."""
    return 0.95 + 0.1 * stable_fraction("weight", group)


def gain_test(differences: NDArray[np.float64], ends: Sequence[int], level: float) -> Flips:
    """Whether weighted differences (in the order of asking) are above zero at the last of these looks.

    `ends` says how many differences had been seen at each look so far. An earlier crossing counts as well: whoever
    stops at the first one never gets here.
    """
    steps = GRID if len(differences) <= FINE_UP_TO else max(COARSEST, GRID * FINE_UP_TO // len(differences))
    moved = np.rint(differences * steps).astype(np.int64)
    sizes = np.abs(moved)
    total = int(sizes.sum())
    chance = np.zeros(2 * total + 1)  # chance[total + s]: the sum is s and no bound was crossed
    chance[total] = 1.0
    reach, begun, spent = 0, 0, 0.0
    found = Flips(p=1.0, allowed=0.0)
    for look, end in enumerate(ends):
        for size in sizes[begun:end]:
            if size:
                low, high = total - reach, total + reach + 1
                before = 0.5 * chance[low:high]
                chance[low:high] = 0.0
                chance[low - size : high - size] += before
                chance[low + size : high + size] += before
                reach += int(size)
        begun = end
        tail = np.cumsum(chance[::-1])[::-1]
        at = total + int(moved[:end].sum())
        bound = allowed(level, look)
        found = Flips(p=min(1.0, spent + float(tail[at])), allowed=bound)
        if found.crossed and end:
            return found
        cut = int(np.searchsorted(-tail, -(bound - spent)))  # the first sum whose tail fits into what is left
        if cut < len(tail):
            spent += float(tail[cut])
            chance[cut:] = 0.0
    return found
