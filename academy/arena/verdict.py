"""PROMOTE, HOLD or REJECT from paired results: a pure function.

The sample is the mean of each group, not the item: wordings of one answer stand or fall together. Each examination
that could promote spends an equal share of an error budget of 5 % over 26 generations, so that an equal challenger is
promoted less than once in twenty lives; within an examination the share is spent over the looks (signflip.py).

  * leak: one piece that curation took out and the challenger gives back rejects;
  * guard (the guard slice of a target, held out before this batch, and suites that must not fall): a significant fall
    rejects, a fall beyond the margin holds;
  * target: a gain that the share of the budget allows promotes, a significant fall rejects;
  * told: shown, never decisive. So is a guard with too few groups to say anything.

A suite at which neither player can do anything neither helps nor blocks; at least one target must tell something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from academy.arena.signflip import LOOKS, Flips, asked_until, gain_test, place, weight
from academy.arena.suites.base import Role, Slice
from academy.records import Record, digest_of

Outcome = Literal["PROMOTE", "HOLD", "REJECT", "CANNOT DECIDE", "GO ON"]

BUDGET, HORIZON = 0.05, 26
FALL_LEVEL = 0.01
"""A fall with at most this chance under "no change" rejects; shared by all falls that are looked for."""
MARGIN = 0.05
"""A fall beyond this on a guard holds, significant or not."""
FEWEST_GROUPS = 20
"""A guard with fewer groups is only told: a fall in half of them could not be seen."""
LEAST_SKILL = 0.2
"""A guard at which neither player reaches this guards nothing: what moves there is luck."""
RESAMPLES = 10_000
LAST = len(LOOKS) - 1
CHANCE = "the gain cannot be told from chance"


class Item(Record):
    """One question and both players' scores on it."""

    question: str
    group: str
    slice: Slice
    champion: float
    challenger: float


class Paired(Record):
    """A suite as far as it was asked: whole groups, the first ones in the order of asking."""

    suite: str
    role: Role
    groups: int  # of the whole suite
    items: tuple[Item, ...]

    @property
    def informative(self) -> bool:
        """Whether the players can do enough of it for a difference to tell anything."""
        if self.role != "guard":
            return any(item.champion or item.challenger for item in self.items)
        best = max(sum(item.champion for item in self.items), sum(item.challenger for item in self.items))
        return best > 0 and best >= LEAST_SKILL * len(self.items)


class Estimate(Record):
    """Champion, challenger and the difference with its 95 % interval, by groups; shares from 0 to 1."""

    items: int
    groups: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float
    wins: int
    ties: int
    losses: int
    p_gain: float
    p_loss: float


class Finding(Record):
    """What one suite says. `unused` is why it neither helped nor blocked; empty where it counted."""

    suite: str
    role: Role
    unused: str = ""
    whole: Estimate | None = None
    guard: Estimate | None = None


class Verdict(Record):
    """The outcome, in words and with everything it was computed from."""

    outcome: Outcome
    because: str
    level: float  # the share of the error budget that this examination could spend
    spends: bool
    looks_before: int  # examinations that spent from the budget before this one
    look: int = LAST  # the look at which it fell, from 0
    asked: float = 1.0  # the share of the groups that had been asked by then
    target: Estimate | None = None  # of the first target suite that counts
    guard: Estimate | None = None
    smallest_gain: float | None = None  # seen with 80 % power
    findings: tuple[Finding, ...] = ()


def judge(suites: Sequence[Paired], looks_before: int, look: int = LAST) -> Verdict:
    """The verdict at a look, given how many examinations spent from the budget before. GO ON where it is too early."""
    seen = [_Seen(paired, look) for paired in suites]
    targets = [one for one in seen if one.paired.role == "target" and one.paired.informative]
    if not targets:
        return _nothing_to_go_by(seen, looks_before, look)
    level = BUDGET / HORIZON if looks_before < HORIZON else 0.0
    smallest = _smallest_gain(targets[0].differences("whole"), level / len(targets)) if level else None
    outcome, because = _decide(seen, targets, level, look)
    if smallest and because.startswith(CHANCE):
        because += f" The smallest gain that could be seen is {smallest:+.1%}."
    final = outcome != "GO ON"
    findings = tuple(one.finding(level / len(targets), resample=final) for one in seen)
    first = next(one for one in findings if one.suite == targets[0].paired.suite)
    return Verdict(
        outcome=outcome, because=because, level=level, spends=True, looks_before=looks_before, look=look,
        asked=LOOKS[look], target=first.whole, guard=first.guard, smallest_gain=smallest, findings=findings,
    )  # fmt: skip


def cannot_decide(because: str, looks_before: int, findings: Sequence[Finding] = ()) -> Verdict:
    """Nothing can be said, nothing moves, and nothing is spent."""
    return Verdict(
        outcome="CANNOT DECIDE", because=because, level=0.0, spends=False, looks_before=looks_before,
        findings=tuple(findings),
    )  # fmt: skip


def _decide(seen: Sequence[_Seen], targets: Sequence[_Seen], level: float, look: int) -> tuple[Outcome, str]:
    leaked = [one for one in seen if one.paired.role == "leak" and one.lost]
    if leaked:
        return "REJECT", f"it gives back {leaked[0].lost} of {len(leaked[0].paired.items)} things that were taken out"
    falls = [(one, part) for one in seen if one.counts for part in one.falls]
    for one, part in falls:
        if one.mean(part) < 0 and one.loss(part, FALL_LEVEL / len(falls)).crossed:
            return "REJECT", one.words_of_a_fall(part, FALL_LEVEL / len(falls))
    below = next(((one, part) for one, part in falls if part == one.guarded and one.mean(part) < -MARGIN), None)
    if below is None and level:
        for one in targets:
            gain = one.gain("whole", level / len(targets))
            if gain.crossed:
                return "PROMOTE", (
                    f"it is better: {one.points('whole')} on {one.count('whole')} questions of {one.paired.suite} "
                    f"(p = {gain.p:.2g}, {gain.allowed:.2g} allowed{_early(look)})"
                )
    if look < LAST:
        return "GO ON", "nothing can be said yet"
    if below is not None:
        one, part = below
        return "HOLD", f"on {one.name(part)} it fell by more than {MARGIN:.0%}: {one.points(part)}"
    if not level:
        return "HOLD", f"the error budget of {HORIZON} examinations is used up; renew the hold-out"
    gain = targets[0].gain("whole", level / len(targets))
    return "HOLD", (f"{CHANCE}: {targets[0].points('whole')} (p = {gain.p:.2g}, {gain.allowed:.2g} allowed).")


def _nothing_to_go_by(seen: Sequence[_Seen], looks_before: int, look: int) -> Verdict:
    asked = [one for one in seen if one.paired.role == "target" and one.paired.items]
    if not asked:
        return cannot_decide("there are no held-out questions", looks_before)
    if look < LAST:
        return Verdict(
            outcome="GO ON", because="neither player answered one question yet", level=0.0, spends=False,
            looks_before=looks_before, look=look, asked=LOOKS[look],
        )  # fmt: skip
    count = sum(len(one.paired.items) for one in asked)
    return cannot_decide(
        f"neither player answered one of {count} questions rightly; they tell nothing",
        looks_before,
        [one.finding(0.0, resample=True) for one in seen],
    )


def _early(look: int) -> str:
    return f"; told after {LOOKS[look]:.0%} of the questions" if look < LAST else ""


class _Seen:
    """A suite at a look, with its groups in the order of asking."""

    def __init__(self, paired: Paired, look: int) -> None:
        self.paired = paired
        self.guarded = "guard" if paired.role == "target" else "whole"
        whole: dict[str, list[Item]] = defaultdict(list)
        for item in paired.items:
            whole[item.group].append(item)
        ordered = sorted(whole, key=lambda name: (place(name), name))
        self._groups = {"whole": {name: whole[name] for name in ordered}}
        held = {name: [item for item in whole[name] if item.slice == "guard"] for name in ordered}
        self._groups["guard"] = {name: items for name, items in held.items() if items}
        # a look that fell in the middle of the guard groups is where the same look fell among all groups
        ends = [asked_until(earlier, paired.groups) for earlier in range(look + 1)]
        if paired.role == "leak":
            ends = [len(ordered)] * len(ends)
        inside = np.cumsum([0, *(name in self._groups["guard"] for name in ordered)])
        self._ends = {
            "whole": [min(end, len(ordered)) for end in ends],
            "guard": [int(inside[min(end, len(ordered))]) for end in ends],
        }
        self._known: dict[tuple[str, str, float], Flips] = {}

    @property
    def unused(self) -> str:
        """Why the suite neither helps nor blocks."""
        if self.paired.role == "told":
            return "only told"
        if not self.paired.items:
            return "it has no questions"
        if not self.paired.informative and self.paired.role != "leak":
            least = f" {LEAST_SKILL:.0%}" if self.paired.role == "guard" else " anything"
            return f"uninformative: neither player could do{least}"
        if self.paired.role == "guard" and self.paired.groups < FEWEST_GROUPS:
            return f"only told: {self.paired.groups} independent groups are too few to see a fall"
        return ""

    @property
    def counts(self) -> bool:
        """Whether it can block."""
        return not self.unused and self.paired.role != "leak"

    @property
    def falls(self) -> Iterator[str]:
        """The parts whose significant fall rejects."""
        if self.paired.role == "target" and self._groups["guard"]:
            yield "guard"
        yield "whole"

    @property
    def lost(self) -> int:
        """Items that the challenger failed."""
        return sum(1 for item in self.paired.items if item.challenger < 1)

    def differences(self, part: str) -> NDArray[np.float64]:
        """Mean difference of each group, in the order of asking."""
        found = self._groups[part].values()
        return np.array([np.mean([item.challenger - item.champion for item in group]) for group in found])

    def mean(self, part: str) -> float:
        """Mean difference over groups."""
        found = self.differences(part)
        return float(found.mean()) if len(found) else 0.0

    def count(self, part: str) -> int:
        """Items."""
        return sum(len(group) for group in self._groups[part].values())

    def gain(self, part: str, level: float) -> Flips:
        """The test for a gain."""
        return self._test(part, "gain", level)

    def loss(self, part: str, level: float) -> Flips:
        """The test for a fall."""
        return self._test(part, "loss", level)

    def _test(self, part: str, way: str, level: float) -> Flips:
        key = (part, way, level)
        if key not in self._known:
            weights = np.array([weight(name) for name in self._groups[part]])
            signed = self.differences(part) * weights * (1 if way == "gain" else -1)
            self._known[key] = gain_test(signed, self._ends[part], level)
        return self._known[key]

    def words_of_a_fall(self, part: str, level: float) -> str:
        """Why it is rejected."""
        what = "it forgot what the champion knows" if part == "guard" else "it is worse"
        p = self.loss(part, level).p
        return f"{what}: {self.points(part)} on {self.count(part)} {self.name(part)} (p = {p:.2g})"

    def name(self, part: str) -> str:
        """The questions of a part."""
        return f"guard questions of {self.paired.suite}" if part == "guard" else f"questions of {self.paired.suite}"

    def points(self, part: str) -> str:
        """Both scores and the difference in words."""
        found = self.estimate(part, 0.0, resample=True)
        return (
            f"{found.champion:.1%} -> {found.challenger:.1%} ({found.difference:+.1%}, "
            f"95 % interval {found.low:+.1%} to {found.high:+.1%}, {found.groups} groups)"
        )

    def finding(self, level: float, *, resample: bool) -> Finding:
        """The suite's line in the verdict."""
        whole = self.estimate("whole", level, resample=resample) if self._groups["whole"] else None
        guard = self.estimate("guard", level, resample=resample) if self._groups["guard"] else None
        guard = guard if self.paired.role == "target" else None
        return Finding(suite=self.paired.suite, role=self.paired.role, unused=self.unused, whole=whole, guard=guard)

    def estimate(self, part: str, level: float, *, resample: bool) -> Estimate:
        """Means by groups, with the interval where it is wanted."""
        groups = list(self._groups[part].values())
        items = [item for group in groups for item in group]
        champion = float(np.mean([np.mean([item.champion for item in group]) for group in groups]))
        challenger = float(np.mean([np.mean([item.challenger for item in group]) for group in groups]))
        difference = self.differences(part)
        low, high = _interval(difference, items) if resample else (-1.0, 1.0)
        return Estimate(
            items=len(items),
            groups=len(groups),
            champion=champion,
            challenger=challenger,
            difference=float(difference.mean()),
            low=low,
            high=high,
            wins=sum(item.challenger > item.champion for item in items),
            ties=sum(item.challenger == item.champion for item in items),
            losses=sum(item.challenger < item.champion for item in items),
            p_gain=self.gain(part, level).p if resample else 1.0,
            p_loss=self.loss(part, FALL_LEVEL).p if resample else 1.0,
        )


def interval_of(items: Sequence[Item]) -> tuple[float, float, float]:
    """The mean difference of some items with its 95 % interval, groups drawn again."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item.challenger - item.champion)
    difference = np.array([np.mean(found) for _, found in sorted(groups.items())])
    return float(difference.mean()), *_interval(difference, items)


def _interval(difference: NDArray[np.float64], items: Sequence[Item]) -> tuple[float, float]:
    """95 % of the means of groups drawn again, with a seed that is the items' own."""
    rng = np.random.Generator(np.random.PCG64(int(digest_of([item.model_dump() for item in items])[:16], 16)))
    means = difference[rng.integers(0, len(difference), (RESAMPLES, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _smallest_gain(difference: NDArray[np.float64], level: float) -> float:
    """The mean gain that is seen in four of five examinations, were the groups as scattered as here."""
    scatter = max(float(difference.std(ddof=1)) if len(difference) > 1 else 1.0, 0.2)
    normal = NormalDist()
    return (normal.inv_cdf(1 - level) + normal.inv_cdf(0.8)) * scatter / float(np.sqrt(len(difference)))
