"""Replay: a share of what earlier generations learned is learned again, so that it is not forgotten.

The choice is pure: by hash and not by order, and spread over the answers. What is held out is never drawn, nor what
the new set holds already. Memory: a few ids for each one drawn, however many earlier ones are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from academy.errors import InputError
from academy.records import Record, stable_fraction

SHARE, MOST, STEP = 0.2, 0.5, 0.1
"""Replayed examples make this share of the training set; raised by STEP when the guard slice fell, up to MOST."""


class EarlierExample(Record):
    """An example of an earlier generation; `group` names its answer."""

    id: str
    group: str
    origin: str = ""


def share_after(
    previous_share: float, guard_difference: float | None, low: float | None, *, normal: float = SHARE
) -> float:
    """The share for the next generation, from how the challenger did on the guard slice.

    `guard_difference` is its score less the champion's and `low` the lower end of the interval around that (None: not
    measured). A fall raises the share by STEP, and by twice that where the interval says at least a tenth may be
    lost; no fall lets it sink by half a step. It stays between `normal` and MOST.
    """
    if guard_difference is None:
        return min(MOST, max(normal, previous_share))
    if guard_difference < 0:
        worse = low is not None and low < -STEP
        return min(MOST, round(max(normal, previous_share) + STEP * (2 if worse else 1), 6))
    return min(MOST, max(normal, round(previous_share - STEP / 2, 6)))


def replay_count(new: int, share: float = SHARE) -> int:
    """How many earlier examples make `share` of the set that `new` ones and they form together."""
    if not 0 <= share <= MOST:
        raise InputError(f"A replay share of {share} cannot be used.", f"Give one between 0 and {MOST}.")
    return round(new * share / (1 - share))


def draw_replay(
    earlier: Iterable[EarlierExample],
    new: int,
    share: float = SHARE,
    *,
    seed: str = "",
    new_ids: Collection[str] = (),
    held_out: Collection[str] = (),
) -> tuple[str, ...]:
    """Ids of the earlier examples to learn again, sorted; the same whatever order they came in.

    `held_out` are ids and origins of what is examined, `new_ids` ids of the new set. `new` is the size of the new set.
    Answers take turns, so that one with many wordings does not crowd out the others.
    """
    count = replay_count(new, share)
    left_out = {*new_ids, *held_out}
    groups: dict[str, set[str]] = defaultdict(set)
    pool = 0
    for example in earlier:
        if left_out.isdisjoint((example.id, example.origin)):
            pool += example.id not in groups[example.group]
            groups[example.group].add(example.id)
        if pool > 4 * count + 1000:  # who is not among the first now will never be: others only come before it
            kept = _first(groups, count, seed)
            groups.clear()
            for group, name in kept:
                groups[group].add(name)
            pool = len(kept)
    return tuple(sorted(name for _, name in _first(groups, count, seed)))


def _first(groups: Mapping[str, Collection[str]], count: int, seed: str) -> list[tuple[str, str]]:
    """The first (answer, id) pairs where answers take turns, each in an order of its own."""
    turns = []
    for group, ids in groups.items():
        fraction = stable_fraction("turn", seed, group)
        ranked = sorted(ids, key=lambda name: (stable_fraction("replay", seed, name), name))
        turns += [(turn, fraction, group, name) for turn, name in enumerate(ranked)]
    return [(group, name) for _, _, group, name in sorted(turns)[:count]]
