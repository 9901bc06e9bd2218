"""PROMOTE, HOLD or REJECT from paired results: a pure function.

The sample is the mean of each group, not the item, because wordings of one answer succeed or fail together. Each
examination that could promote spends an equal share of an error budget of 5 % over 26 examinations, so that a
challenger that is only equal is promoted in less than one of twenty such series. Within an examination the share is
spent over the interim analyses (signflip.py).

  * leak: a challenger that reveals one item that curation removed is rejected;
  * suspect: so is one that answers a trusted question as only a suspect lesson does, where the champion does not;
  * guard (the guard slice of a target, held out before this batch, and suites with the role guard): a significant fall
    rejects, a fall beyond the margin holds;
  * target: a gain that the share of the budget allows promotes, a significant fall rejects;
  * informational: reported, without effect. The same holds for a guard with too few groups.

A suite in which neither player answers anything has no effect; at least one target must be informative.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from academy.arena.signflip import INTERIM_SHARES, SignFlipResult, asking_position, gain_test, groups_until, weight
from academy.arena.suites.base import Role, Slice
from academy.records import Record, digest_of

Outcome = Literal["PROMOTE", "HOLD", "REJECT", "CANNOT DECIDE", "CONTINUE"]

BUDGET, HORIZON = 0.05, 26
FALL_LEVEL = 0.01
"""A fall with at most this chance under "no change" rejects; divided among all falls that are tested."""
MARGIN = 0.05
"""A fall beyond this on a guard holds, significant or not."""
FEWEST_GROUPS = 20
"""A guard with fewer groups is informational: a fall in half of them could not be detected."""
LEAST_SKILL = 0.2
"""A guard on which neither player reaches this score is uninformative: its changes are chance."""
RESAMPLES = 10_000
LAST = len(INTERIM_SHARES) - 1
"""The index of the final analysis."""
NOT_SIGNIFICANT = "the gain is not statistically significant"
_ASKED_AT_ONCE = ("leak", "suspect")
"""Roles whose suites are asked as a whole before the first analysis."""
NO_QUESTIONS = "no held-out questions are available"
NO_TARGET = "no target suite was asked, so the scores are shown and nothing is decided"


class Item(Record):
    """One question and both players' scores on it."""

    question: str
    group: str
    slice: Slice
    champion: float
    challenger: float


class PairedResults(Record):
    """The results of a suite so far: whole groups, the first ones in the order of asking."""

    suite: str
    role: Role
    groups: int  # of the whole suite
    items: tuple[Item, ...]

    @property
    def informative(self) -> bool:
        """Whether the players score high enough for a difference to mean anything."""
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
    """The result of one suite. `unused` is why it had no effect on the verdict; empty where it had."""

    suite: str
    role: Role
    unused: str = ""
    whole: Estimate | None = None
    guard: Estimate | None = None


class Verdict(Record):
    """The outcome, in words, with everything that it was computed from.

    Three fields have an alias: their names in stored records, in ledger rows and in `--json`.
    """

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    outcome: Outcome
    because: str
    level: float  # the share of the error budget that this examination could spend
    spends: bool
    spent_before: int = Field(alias="looks_before")  # examinations that spent from the budget before this one
    analysis: int = Field(LAST, alias="look")  # the interim analysis that decided, from 0
    share_asked: float = Field(1.0, alias="asked")  # the share of the groups that had been asked by then
    target: Estimate | None = None  # of the first informative target
    guard: Estimate | None = None
    smallest_gain: float | None = None  # detected with 80 % power
    findings: tuple[Finding, ...] = ()


def compute_verdict(suites: Sequence[PairedResults], spent_before: int, analysis: int = LAST) -> Verdict:
    """The verdict at an interim analysis, or CONTINUE where more questions are needed.

    `spent_before`: the number of examinations that spent from the error budget before this one.
    """
    statistics = [_SuiteStatistics(results, analysis) for results in suites]
    targets = [suite for suite in statistics if suite.paired.role == "target" and suite.paired.informative]
    if not targets:
        return _without_targets(statistics, spent_before, analysis)
    level = BUDGET / HORIZON if spent_before < HORIZON else 0.0
    smallest = _smallest_gain(targets[0].differences("whole"), level / len(targets)) if level else None
    outcome, because = _outcome(statistics, targets, level, analysis)
    if smallest and because.startswith(NOT_SIGNIFICANT):
        because += f" The smallest gain that this examination can detect is {smallest:+.1%}."
    final = outcome != "CONTINUE"
    findings = tuple(suite.finding(level / len(targets), resample=final) for suite in statistics)
    first = next(finding for finding in findings if finding.suite == targets[0].paired.suite)
    return Verdict(
        outcome=outcome, because=because, level=level, spends=True, spent_before=spent_before, analysis=analysis,
        share_asked=INTERIM_SHARES[analysis], target=first.whole, guard=first.guard, smallest_gain=smallest,
        findings=findings,
    )  # fmt: skip


def cannot_decide(because: str, spent_before: int, findings: Sequence[Finding] = ()) -> Verdict:
    """The verdict where no decision is possible: the champion stays, and nothing is spent."""
    return Verdict(
        outcome="CANNOT DECIDE", because=because, level=0.0, spends=False, spent_before=spent_before,
        findings=tuple(findings),
    )  # fmt: skip


def _outcome(
    statistics: Sequence[_SuiteStatistics], targets: Sequence[_SuiteStatistics], level: float, analysis: int
) -> tuple[Outcome, str]:
    leak = next((suite for suite in statistics if suite.paired.role == "leak" and suite.lost), None)
    if leak:
        return "REJECT", f"it reveals {leak.lost} of {len(leak.paired.items)} items that curation removed"
    suspect = next((suite for suite in statistics if suite.paired.role == "suspect" and suite.lost), None)
    if suspect:
        return "REJECT", f"it answers {suspect.lost} of {len(suspect.paired.items)} trusted questions as suspects teach"
    falls = [(suite, part) for suite in statistics if suite.counts for part in suite.falls]
    for suite, part in falls:
        if suite.mean(part) < 0 and suite.loss(part, FALL_LEVEL / len(falls)).crossed:
            return "REJECT", suite.fall_in_words(part, FALL_LEVEL / len(falls))
    below = next(((suite, part) for suite, part in falls if part == suite.guarded and suite.mean(part) < -MARGIN), None)
    if below is None and level:
        for suite in targets:
            gain = suite.gain("whole", level / len(targets))
            if gain.crossed:
                return "PROMOTE", (
                    f"it is better: {suite.points('whole')} on {suite.count('whole')} questions of "
                    f"{suite.paired.suite} (p = {gain.p:.2g}, {gain.allowed:.2g} allowed{_stopped_early(analysis)})"
                )
    if analysis < LAST:
        return "CONTINUE", "more questions are needed"
    if below is not None:
        suite, part = below
        return "HOLD", f"on {suite.questions_in_words(part)} it fell by more than {MARGIN:.0%}: {suite.points(part)}"
    if not level:
        return "HOLD", f"the error budget of {HORIZON} examinations is spent; renew the hold-out"
    gain = targets[0].gain("whole", level / len(targets))
    return "HOLD", f"{NOT_SIGNIFICANT}: {targets[0].points('whole')} (p = {gain.p:.2g}, {gain.allowed:.2g} allowed)."


def _without_targets(statistics: Sequence[_SuiteStatistics], spent_before: int, analysis: int) -> Verdict:
    if not any(suite.paired.role == "target" for suite in statistics):
        names = ", ".join(f"{suite.paired.suite} ({suite.paired.role})" for suite in statistics) or "none"
        findings = [suite.finding(0.0, resample=True) for suite in statistics]
        return cannot_decide(f"{NO_TARGET}. Suites asked: {names}", spent_before, findings)
    targets = [suite for suite in statistics if suite.paired.role == "target" and suite.paired.items]
    if not targets:
        return cannot_decide(NO_QUESTIONS, spent_before)
    if analysis < LAST:
        return Verdict(
            outcome="CONTINUE", because="neither player has answered a question correctly yet", level=0.0, spends=False,
            spent_before=spent_before, analysis=analysis, share_asked=INTERIM_SHARES[analysis],
        )  # fmt: skip
    count = sum(len(suite.paired.items) for suite in targets)
    return cannot_decide(
        f"neither player answered any of {count} questions correctly, so they cannot be compared",
        spent_before,
        [suite.finding(0.0, resample=True) for suite in statistics],
    )


def _stopped_early(analysis: int) -> str:
    return f"; stopped early after {100 * INTERIM_SHARES[analysis]:.0f} % of the questions" if analysis < LAST else ""


class _SuiteStatistics:
    """A suite at an interim analysis, with its groups in the order of asking."""

    def __init__(self, paired: PairedResults, analysis: int) -> None:
        self.paired = paired
        self.guarded = "guard" if paired.role == "target" else "whole"
        whole: dict[str, list[Item]] = defaultdict(list)
        for item in paired.items:
            whole[item.group].append(item)
        order = sorted(whole, key=lambda name: (asking_position(name), name))
        self._groups = {"whole": {name: whole[name] for name in order}}
        guard = {name: [item for item in whole[name] if item.slice == "guard"] for name in order}
        self._groups["guard"] = {name: items for name, items in guard.items() if items}
        # The guard groups are analysed at the same points in the order of asking as all groups.
        ends = [groups_until(earlier, paired.groups) for earlier in range(analysis + 1)]
        if paired.role in _ASKED_AT_ONCE:
            ends = [len(order)] * len(ends)
        inside = np.cumsum([0, *(name in self._groups["guard"] for name in order)])
        self._ends = {
            "whole": [min(end, len(order)) for end in ends],
            "guard": [int(inside[min(end, len(order))]) for end in ends],
        }
        self._results: dict[tuple[str, str, float], SignFlipResult] = {}

    @property
    def unused(self) -> str:
        """Why the suite has no effect on the verdict."""
        if self.paired.role == "informational":
            return "informational"
        if not self.paired.items:
            return "it has no questions"
        if not self.paired.informative and self.paired.role not in _ASKED_AT_ONCE:
            minimum = f"{LEAST_SKILL:.0%}" if self.paired.role == "guard" else "more than 0%"
            return f"uninformative: neither player scored {minimum}"
        if self.paired.role == "guard" and self.paired.groups < FEWEST_GROUPS:
            return f"informational: {self.paired.groups} independent groups (minimum {FEWEST_GROUPS})"
        return ""

    @property
    def counts(self) -> bool:
        """Whether it can block."""
        return not self.unused and self.paired.role not in _ASKED_AT_ONCE

    @property
    def falls(self) -> Iterator[str]:
        """The parts whose significant fall rejects."""
        if self.paired.role == "target" and self._groups["guard"]:
            yield "guard"
        yield "whole"

    @property
    def lost(self) -> int:
        """The number of items that the challenger failed; on suspects, where the champion did not."""
        is_compared = self.paired.role == "suspect"
        return sum(item.challenger < (item.champion if is_compared else 1) for item in self.paired.items)

    def differences(self, part: str) -> NDArray[np.float64]:
        """Mean difference of each group, in the order of asking."""
        groups = self._groups[part].values()
        return np.array([np.mean([item.challenger - item.champion for item in group]) for group in groups])

    def mean(self, part: str) -> float:
        """Mean difference over groups."""
        differences = self.differences(part)
        return float(differences.mean()) if len(differences) else 0.0

    def count(self, part: str) -> int:
        """The number of items."""
        return sum(len(group) for group in self._groups[part].values())

    def gain(self, part: str, level: float) -> SignFlipResult:
        """The test for a gain."""
        return self._test(part, "gain", level)

    def loss(self, part: str, level: float) -> SignFlipResult:
        """The test for a fall."""
        return self._test(part, "loss", level)

    def _test(self, part: str, way: str, level: float) -> SignFlipResult:
        key = (part, way, level)
        if key not in self._results:
            weights = np.array([weight(name) for name in self._groups[part]])
            changes = self.differences(part) * weights * (1 if way == "gain" else -1)
            self._results[key] = gain_test(changes, self._ends[part], level)
        return self._results[key]

    def fall_in_words(self, part: str, level: float) -> str:
        """Why the challenger is rejected."""
        problem = "it forgot what the champion knows" if part == "guard" else "it is worse"
        p = self.loss(part, level).p
        return f"{problem}: {self.points(part)} on {self.count(part)} {self.questions_in_words(part)} (p = {p:.2g})"

    def questions_in_words(self, part: str) -> str:
        """The questions of a part."""
        return f"guard questions of {self.paired.suite}" if part == "guard" else f"questions of {self.paired.suite}"

    def points(self, part: str) -> str:
        """Both scores and the difference in words."""
        estimate = self.estimate(part, 0.0, resample=True)
        return (
            f"{estimate.champion:.1%} -> {estimate.challenger:.1%} ({estimate.difference:+.1%}, "
            f"95 % interval {estimate.low:+.1%} to {estimate.high:+.1%}, {estimate.groups} groups)"
        )

    def finding(self, level: float, *, resample: bool) -> Finding:
        """The suite's entry in the verdict."""
        whole = self.estimate("whole", level, resample=resample) if self._groups["whole"] else None
        guard = self.estimate("guard", level, resample=resample) if self._groups["guard"] else None
        guard = guard if self.paired.role == "target" else None
        return Finding(suite=self.paired.suite, role=self.paired.role, unused=self.unused, whole=whole, guard=guard)

    def estimate(self, part: str, level: float, *, resample: bool) -> Estimate:
        """Means by groups; the interval and the p-values only with `resample`."""
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
    """The mean difference of some items with its 95 % bootstrap interval, resampled by group: (mean, low, high)."""
    groups: dict[str, list[float]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item.challenger - item.champion)
    difference = np.array([np.mean(values) for _, values in sorted(groups.items())])
    return float(difference.mean()), *_interval(difference, items)


def _interval(difference: NDArray[np.float64], items: Sequence[Item]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean over groups; the seed comes from the items."""
    rng = np.random.Generator(np.random.PCG64(int(digest_of([item.model_dump() for item in items])[:16], 16)))
    means = difference[rng.integers(0, len(difference), (RESAMPLES, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _smallest_gain(difference: NDArray[np.float64], level: float) -> float:
    """The mean gain that four of five examinations detect, if the groups scatter as they do here."""
    scatter = max(float(difference.std(ddof=1)) if len(difference) > 1 else 1.0, 0.2)
    normal = NormalDist()
    return (normal.inv_cdf(1 - level) + normal.inv_cdf(0.8)) * scatter / float(np.sqrt(len(difference)))
