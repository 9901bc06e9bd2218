"""Replay: a share of the examples of earlier generations is trained on again, so that the model does not forget them.

The draw depends on hashes, not on the order, and is spread over the answers. Held-out examples and those of the new set
are never drawn. Memory: a few ids for each drawn example, independent of the number of earlier ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from academy.errors import InputError
from academy.records import Record, stable_fraction

SHARE, MAX_SHARE, STEP = 0.2, 0.5, 0.1
"""Share of replayed examples in the training set. It rises by STEP when the guard slice fell, up to MAX_SHARE."""


class EarlierExample(Record):
    """An example of an earlier generation; `group` names its answer."""

    id: str
    group: str
    origin: str = ""


def share_after(
    previous_share: float, guard_difference: float | None, low: float | None, *, normal: float = SHARE
) -> float:
    """The share for the next generation, from the challenger's result on the guard slice.

    `guard_difference` is the challenger's score minus the champion's, `low` the lower end of its interval (None: not
    measured). A fall raises the share by STEP, or by twice STEP if the interval reaches a loss of a tenth; otherwise
    the share falls by half a STEP. It stays between `normal` and MAX_SHARE.
    """
    if guard_difference is None:
        return min(MAX_SHARE, max(normal, previous_share))
    if guard_difference < 0:
        worse = low is not None and low < -STEP
        return min(MAX_SHARE, round(max(normal, previous_share) + STEP * (2 if worse else 1), 6))
    return min(MAX_SHARE, max(normal, round(previous_share - STEP / 2, 6)))


def replay_count(new: int, share: float = SHARE) -> int:
    """Number of earlier examples that make `share` of a set together with `new` examples."""
    if not 0 <= share <= MAX_SHARE:
        raise InputError(f"The replay share {share} is out of range.", f"Use a share between 0 and {MAX_SHARE}.")
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
    """Ids of the earlier examples to train on again, sorted; independent of the order of `earlier`.

    `held_out` are ids and origins of examples that are examined, `new_ids` the ids of the new set, `new` its size.
    Answers take turns, so that an answer with many wordings does not displace the others.
    """
    count = replay_count(new, share)
    excluded_ids = {*new_ids, *held_out}
    groups: dict[str, set[str]] = defaultdict(set)
    pool = 0
    for example in earlier:
        if excluded_ids.isdisjoint((example.id, example.origin)):
            pool += example.id not in groups[example.group]
            groups[example.group].add(example.id)
        if pool > 4 * count + 1000:
            pairs = _first(groups, count, seed)
            groups.clear()
            for group, name in pairs:
                groups[group].add(name)
            pool = len(pairs)
    return tuple(sorted(name for _, name in _first(groups, count, seed)))


def _first(groups: Mapping[str, Collection[str]], count: int, seed: str) -> list[tuple[str, str]]:
    """The first `count` (answer, id) pairs when answers take turns, each with its own order of ids."""
    turns = []
    for group, ids in groups.items():
        fraction = stable_fraction("turn", seed, group)
        ordered_ids = sorted(ids, key=lambda name: (stable_fraction("replay", seed, name), name))
        turns += [(turn, fraction, group, name) for turn, name in enumerate(ordered_ids)]
    return [(group, name) for _, _, group, name in sorted(turns)[:count]]
