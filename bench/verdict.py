"""`python -m bench.verdict [--lives N]`: does the verdict keep its word? The naive rule stands beside it.

Simulated: paired right or wrong answers in groups. Two players answer an item alike with the chance TIED, each by
itself otherwise. For a null both have the same skill in every group on the average; `varies` is the standard deviation
of the gain between groups. A life is 26 examinations of one champion, its answers and the hold-out fixed. Where the
fixed-size t-test stands beside it, both saw the same answers.

Everything is judged by `academy.arena.signflip` and `academy.arena.verdict`, as in an examination; seeds are fixed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from academy.arena.signflip import INTERIM_SHARES, asking_position, gain_test, groups_until, weight
from academy.arena.verdict import BUDGET, FALL_LEVEL, HORIZON, LAST, Item, PairedResults, compute_verdict

LEVEL = BUDGET / HORIZON
TIED = 0.52  # with it the t-test promotes as often as in the table that our figures are compared with
SKILL = 0.5
SHAPES = ((450, 1), (150, 3), (60, 7), (40, 3))
WEIGHTS = {groups: np.array([weight(f"group {n}") for n in range(groups)]) for groups, _ in SHAPES}
Array = NDArray[np.float64]


def champion(rng: np.random.Generator, groups: int, items: int, spread: float) -> tuple[Array, Array]:
    """Skill by group and, for each item, the number that decides whether it is answered rightly."""
    skill = (
        np.clip(SKILL + rng.normal(0, spread, groups), 0.02, 0.98)[:, None] if spread else np.full((groups, 1), SKILL)
    )
    return skill, rng.random((groups, items))


def challenger(rng: np.random.Generator, base: tuple[Array, Array], gain: float, varies: float) -> Array:
    """Differences of group means, challenger minus champion."""
    skill, luck = base
    moved = rng.normal(0, varies, skill.shape) if varies else 0.0
    better = np.clip(skill + gain + moved, 0, 1)
    own = np.where(rng.random(luck.shape) < TIED, luck, rng.random(luck.shape))
    return np.asarray(((own < better).astype(float) - (luck < skill)).mean(axis=1))


def sequential(difference: Array, level: float = LEVEL) -> tuple[bool, float]:
    """Whether it is promoted, and the share of the answers that were needed."""
    groups = len(difference)
    weighted = difference * WEIGHTS[groups]
    ends = [groups_until(look, groups) for look in range(len(INTERIM_SHARES))]
    for look, end in enumerate(ends):
        if gain_test(weighted[:end], ends[: look + 1], level).crossed:
            return True, end / groups
    return False, 1.0


def quick(difference: Array) -> bool:
    """The same for a null, where hardly anything is promoted: looked at closely only where it comes near."""
    groups = len(difference)
    near = False
    for look in range(len(INTERIM_SHARES)):
        part = difference[: groups_until(look, groups)]
        near |= part.sum() > 1.5 * np.sqrt(np.square(part).sum())
    return bool(near) and sequential(difference)[0]


def lives(count: int, shape: tuple[int, int], varies: float, spread: float, seed: int) -> tuple[float, float, float]:
    """Shares of lives with a false promotion: ours, an uncorrected 5 % test, promote-if-better."""
    rng = np.random.default_rng(seed)
    ours = plain = naive = 0
    for _ in range(count):
        base = champion(rng, *shape, spread)
        found = [challenger(rng, base, 0.0, varies) for _ in range(HORIZON)]
        ours += any(quick(one) for one in found)
        plain += any(_t(one) <= 0.05 for one in found)
        naive += any(one.mean() > 0 for one in found)
    return ours / count, plain / count, naive / count


def power(count: int, shape: tuple[int, int], gain: float, varies: float, seed: int) -> tuple[float, float, float]:
    """Shares promoted by ours and by the t-test of fixed size, and the share of the answers that ours needed."""
    rng = np.random.default_rng(seed)
    found = [challenger(rng, champion(rng, *shape, 0.0), gain, varies) for _ in range(count)]
    ours = [sequential(one) for one in found]
    fixed = [_t(one) <= LEVEL for one in found]
    return float(np.mean([won for won, _ in ours])), float(np.mean(fixed)), float(np.mean([used for _, used in ours]))


def harmful(count: int, shape: tuple[int, int], varies: float, seed: int) -> tuple[float, float]:
    """Shares of challengers at -5 points that are promoted and rejected."""
    rng = np.random.default_rng(seed)
    promoted = rejected = 0
    for _ in range(count):
        one = challenger(rng, champion(rng, *shape, 0.0), -0.05, varies)
        promoted += quick(one)
        rejected += -one.sum() > 2 * np.sqrt(np.square(one).sum()) and sequential(-one, FALL_LEVEL)[0]
    return promoted / count, rejected / count


def agrees(seed: int) -> int:
    """How many of 60 examinations `judge` itself decides as the short way above does."""
    rng = np.random.default_rng(seed)
    same = 0
    for _ in range(60):
        base = champion(rng, 150, 3, 0.0)
        skill, luck = base
        better = np.clip(skill + 0.1, 0, 1)
        own = np.where(rng.random(luck.shape) < TIED, luck, rng.random(luck.shape))
        items = [
            Item(question=f"{g}-{n}", group=f"group {g}", slice="new", champion=float(a), challenger=float(b))
            for g in range(150)
            for n, (a, b) in enumerate(zip(luck[g] < skill[g], own[g] < better[g], strict=True))
        ]
        whole = PairedResults(suite="simulated", role="target", groups=150, items=tuple(items))
        same += (compute_verdict([whole], 0, LAST).outcome == "PROMOTE") == _in_place(items)
    return same


def _in_place(items: Sequence[Item]) -> bool:

    order = sorted({item.group for item in items}, key=asking_position)
    means = [np.mean([i.challenger - i.champion for i in items if i.group == group]) for group in order]
    ends = [groups_until(look, len(order)) for look in range(len(INTERIM_SHARES))]
    weights = np.array([weight(group) for group in order])
    return gain_test(np.array(means) * weights, ends, LEVEL).crossed


def _t(difference: Array) -> float:
    return float(stats.ttest_1samp(difference, 0, alternative="greater").pvalue) if difference.any() else 1.0


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.verdict")
    parser.add_argument("--lives", type=int, default=2000)
    parser.add_argument("--tries", type=int, default=2000, help="examinations for each line of the power table")
    given = parser.parse_args()
    began = time.process_time()
    print(f"judge agrees with the short way in {agrees(1)} of 60 examinations")
    print(f"\nLives of {HORIZON} examinations without any gain, {given.lives} each: share with a false promotion")
    print("groups x items | gain varies | skill varies | ours | 5 % test, uncorrected | promote if better")
    worst = 0.0
    for shape, varies, spread in (
        ((150, 3), 0.0, 0.0), ((150, 3), 0.15, 0.0), ((150, 3), 0.3, 0.2), ((60, 7), 0.15, 0.2), ((450, 1), 0.0, 0.0),
    ):  # fmt: skip
        ours, plain, naive = lives(given.lives, shape, varies, spread, 2)
        worst = max(worst, ours)
        print(
            f"{shape[0]} x {shape[1]} | {varies:.2f} | {spread:.2f} | {ours:.1%} | {plain:.1%} | {naive:.1%}",
            flush=True,
        )
    print(
        f"\nA better challenger is promoted, {given.tries} each (ours / t-test of fixed size; answers that ours needed)"
    )
    print("groups x items | gain varies | +10 points | +15 points | +20 points")
    for shape in SHAPES:
        for varies in (0.0, 0.15, 0.3):
            cells = [power(given.tries, shape, gain, varies, 3) for gain in (0.1, 0.15, 0.2)]
            shown = " | ".join(f"{ours:.2f} / {fixed:.2f} ({used:.0%})" for ours, fixed, used in cells)
            print(f"{shape[0]} x {shape[1]} | {varies:.2f} | {shown}", flush=True)
    promoted, rejected = harmful(6000, (150, 3), 0.0, 4)
    print(f"\nA challenger at -5 points: promoted {promoted:.3%}, rejected {rejected:.1%} of 6,000")
    print(f"{time.process_time() - began:.0f} CPU s")
    return 0 if worst <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
