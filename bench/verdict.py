"""`python -m bench.verdict [--lives N]`: the error rate and the power of the verdict, compared with simpler rules.

Simulated are paired right or wrong answers in groups. Two players answer an item identically with the probability TIED,
and independently otherwise. Under the null hypothesis both have the same skill in every group on average; `varies` is
the standard deviation of the gain between groups. A series is 26 examinations of one champion with fixed answers and a
fixed hold-out. The fixed-size t-test sees the same answers.

`academy.arena.signflip` and `academy.arena.verdict` decide, as in an examination; seeds are fixed.
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
    """Whether it is promoted, and the share of the answers that was needed."""
    groups = len(difference)
    weighted = difference * WEIGHTS[groups]
    ends = [groups_until(analysis, groups) for analysis in range(len(INTERIM_SHARES))]
    for analysis, end in enumerate(ends):
        if gain_test(weighted[:end], ends[: analysis + 1], level).crossed:
            return True, end / groups
    return False, 1.0


def quick(difference: Array) -> bool:
    """The same under the null hypothesis, where few are promoted: the exact test runs only where it is close."""
    groups = len(difference)
    near = False
    for analysis in range(len(INTERIM_SHARES)):
        part = difference[: groups_until(analysis, groups)]
        near |= part.sum() > 1.5 * np.sqrt(np.square(part).sum())
    return bool(near) and sequential(difference)[0]


def lives(count: int, shape: tuple[int, int], varies: float, spread: float, seed: int) -> tuple[float, float, float]:
    """The shares of series with a false promotion: ours, an uncorrected 5 % test, promote-if-better."""
    rng = np.random.default_rng(seed)
    ours = plain = naive = 0
    for _ in range(count):
        base = champion(rng, *shape, spread)
        gains = [challenger(rng, base, 0.0, varies) for _ in range(HORIZON)]
        ours += any(quick(gain) for gain in gains)
        plain += any(_t(gain) <= 0.05 for gain in gains)
        naive += any(gain.mean() > 0 for gain in gains)
    return ours / count, plain / count, naive / count


def power(count: int, shape: tuple[int, int], gain: float, varies: float, seed: int) -> tuple[float, float, float]:
    """The shares promoted by ours and by the t-test of fixed size, and the share of the answers that ours needed."""
    rng = np.random.default_rng(seed)
    samples = [challenger(rng, champion(rng, *shape, 0.0), gain, varies) for _ in range(count)]
    ours = [sequential(sample) for sample in samples]
    fixed = [_t(sample) <= LEVEL for sample in samples]
    promotions, shares = zip(*ours, strict=True)
    return float(np.mean(promotions)), float(np.mean(fixed)), float(np.mean(shares))


def harmful(count: int, shape: tuple[int, int], varies: float, seed: int) -> tuple[float, float]:
    """The shares of challengers at -5 points that are promoted and rejected."""
    rng = np.random.default_rng(seed)
    promoted = rejected = 0
    for _ in range(count):
        gain = challenger(rng, champion(rng, *shape, 0.0), -0.05, varies)
        promoted += quick(gain)
        rejected += -gain.sum() > 2 * np.sqrt(np.square(gain).sum()) and sequential(-gain, FALL_LEVEL)[0]
    return promoted / count, rejected / count


def agrees(seed: int) -> int:
    """In how many of 60 examinations `compute_verdict` agrees with the short computation above."""
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
        same += (compute_verdict([whole], 0, LAST).outcome == "PROMOTE") == _is_gain(items)
    return same


def _is_gain(items: Sequence[Item]) -> bool:

    order = sorted({item.group for item in items}, key=asking_position)
    means = [np.mean([i.challenger - i.champion for i in items if i.group == group]) for group in order]
    ends = [groups_until(analysis, len(order)) for analysis in range(len(INTERIM_SHARES))]
    weights = np.array([weight(group) for group in order])
    return gain_test(np.array(means) * weights, ends, LEVEL).crossed


def _t(difference: Array) -> float:
    return float(stats.ttest_1samp(difference, 0, alternative="greater").pvalue) if difference.any() else 1.0


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.verdict")
    parser.add_argument("--lives", type=int, default=2000)
    parser.add_argument("--tries", type=int, default=2000, help="examinations for each line of the power table")
    options = parser.parse_args()
    began = time.process_time()
    print(f"compute_verdict agrees with the short computation in {agrees(1)} of 60 examinations")
    print(f"\nSeries of {HORIZON} examinations without any gain, {options.lives} each: share with a false promotion")
    print("groups x items | gain varies | skill varies | ours | 5 % test, uncorrected | promote if better")
    worst = 0.0
    for shape, varies, spread in (
        ((150, 3), 0.0, 0.0), ((150, 3), 0.15, 0.0), ((150, 3), 0.3, 0.2), ((60, 7), 0.15, 0.2), ((450, 1), 0.0, 0.0),
    ):  # fmt: skip
        ours, plain, naive = lives(options.lives, shape, varies, spread, 2)
        worst = max(worst, ours)
        print(
            f"{shape[0]} x {shape[1]} | {varies:.2f} | {spread:.2f} | {ours:.1%} | {plain:.1%} | {naive:.1%}",
            flush=True,
        )
    print(f"\nA better challenger is promoted, {options.tries} each (ours / t-test of fixed size; answers needed)")
    print("groups x items | gain varies | +10 points | +15 points | +20 points")
    for shape in SHAPES:
        for varies in (0.0, 0.15, 0.3):
            cells = [power(options.tries, shape, gain, varies, 3) for gain in (0.1, 0.15, 0.2)]
            shown = " | ".join(f"{ours:.2f} / {fixed:.2f} ({used:.0%})" for ours, fixed, used in cells)
            print(f"{shape[0]} x {shape[1]} | {varies:.2f} | {shown}", flush=True)
    promoted, rejected = harmful(6000, (150, 3), 0.0, 4)
    print(f"\nA challenger at -5 points: promoted {promoted:.3%}, rejected {rejected:.1%} of 6,000")
    print(f"{time.process_time() - began:.0f} CPU s")
    return 0 if worst <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
