"""Sharding: filters, near duplicates and decontamination, over as many workers as there are.

The core is pure: work is cut into shards, each shard is one call of a function with plain arguments, and the answers
are put together in order. Who calls it is a `Run`: this process, or Ray's workers (`on_ray`, extra `ray`). The result
does not depend on the number of shards, nor on who ran them, nor on the order of the examples.

Near duplicates are signed in shards (two thirds of the work) and compared in one place, where all signatures are.
Memory: the examples are all here; what does not fit is curated in one stream with `nearness.Deduplicator` and
`Guarded.scan`, which give the same result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np

from academy.artifacts import Record, digest_of
from academy.curriculum.decontamination import Guarded, Overlap
from academy.curriculum.nearness import SAME, Deduplicator, Duplicate, example_text, signatures
from academy.errors import InputError

T = TypeVar("T")
Run = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function once for each tuple of arguments and gives the answers in order."""


class Item(Protocol):
    """What is curated: an Experience, or anything else with these."""

    @property
    def id(self) -> str: ...
    @property
    def request(self) -> str: ...
    @property
    def answer(self) -> str: ...


class Sifted(Record):
    """What stays, by id in order, and why the others went; overlaps by id, with the matched text."""

    kept: tuple[str, ...]
    dropped: dict[str, str]
    overlaps: dict[str, tuple[Overlap, ...]]

    @property
    def funnel(self) -> dict[str, int]:
        """How many were dropped for each reason."""
        return dict(sorted(Counter(self.dropped.values()).items()))

    @property
    def digest(self) -> str:
        """Names the result: two runs that agree in everything have the same."""
        return digest_of(self)


def in_process(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The plainest Run."""
    return [function(*arguments) for arguments in calls]


def shard(work: Sequence[T], count: int) -> list[Sequence[T]]:
    """Cut work into `count` parts that follow each other; sizes differ by one at most. `merge` undoes it."""
    if count < 1:
        raise InputError(f"Work cannot be cut into {count} shards.", "Give 1 or more.")
    size, more = divmod(len(work), count)
    edges = [n * size + min(n, more) for n in range(count + 1)]
    return [work[begin:end] for begin, end in pairwise(edges)]


def merge(parts: Iterable[Sequence[T]]) -> list[T]:
    """The parts as one list, in order."""
    return [one for part in parts for one in part]


def near_duplicates(
    texts: Sequence[str], threshold: float = SAME, *, shards: int = 1, run: Run = in_process
) -> list[Duplicate]:
    """The later ones of near-duplicate families: signed in shards, compared here."""
    signed = run(signatures, [(part,) for part in shard(texts, shards)])
    keys, small = (np.concatenate([part[k] for part in signed]) for k in (0, 1))
    return Deduplicator(lambda numbers: [texts[n] for n in numbers], threshold).add(texts, (keys, small))


def sift(
    items: Iterable[Item],
    reason: Callable[[Any], str],
    guarded: Guarded,
    *,
    order: Callable[[Any], Any] = lambda item: item.id,
    threshold: float = SAME,
    shards: int = 1,
    run: Run = in_process,
) -> Sifted:
    """Filter, keep the first of near duplicates in `order`, and drop what overlaps with guarded texts.

    `reason` says why an item is dropped, or nothing; on other processes it must be a function that has a name there.
    """
    ranked = sorted(items, key=lambda item: (order(item), item.id))
    reasons = merge(run(_reasons, [(reason, part) for part in shard(ranked, shards)]))
    dropped = {item.id: because for item, because in zip(ranked, reasons, strict=True) if because}
    left = [item for item, because in zip(ranked, reasons, strict=True) if not because]
    texts = [example_text(item.request, item.answer) for item in left]
    double = {d.number for d in near_duplicates(texts, threshold, shards=shards, run=run)}
    dropped |= {left[j].id: "near duplicate" for j in double}
    left = [item for j, item in enumerate(left) if j not in double]
    asked = [(item.request, item.answer) for item in left]
    scanned = run(_scanned, [(guarded, part) for part in shard(asked, shards)])
    overlaps = {item.id: found for item, found in zip(left, merge(scanned), strict=True) if found}
    dropped |= {name: f"overlaps with {found[0].suite} ({found[0].how})" for name, found in overlaps.items()}
    kept = tuple(item.id for item in left if item.id not in overlaps)
    return Sifted(kept=kept, dropped=dropped, overlaps=overlaps)


@contextmanager
def on_ray(address: str | None = None, workers: int = 2) -> Iterator[Run]:
    """A Run on a Ray cluster: one that is there (by address), or a local one of so many workers, ended at the end.

    Raises InputError where Ray is not installed.
    """
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as problem:
        raise InputError(
            "Ray is not installed here.", "Install the extra `ray`, or curate in one process."
        ) from problem

    def run(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        remote = ray.remote(function)
        return list(ray.get([remote.remote(*arguments) for arguments in calls]))

    local: Mapping[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    try:
        yield run
    finally:
        ray.shutdown()


def _reasons(reason: Callable[[Any], str], items: Sequence[Any]) -> list[str]:
    return [reason(item) for item in items]


def _scanned(guarded: Guarded, examples: Sequence[tuple[str, str]]) -> list[tuple[Overlap, ...]]:
    found = guarded.scan(examples)
    return [found.get(number, ()) for number in range(len(examples))]
