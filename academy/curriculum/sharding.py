"""Sharding: filters, near duplicates and decontamination, divided over workers.

The core is pure: work is cut into shards, each shard is one call of a function with plain arguments, and the results
are merged in order. A `ShardRunner` makes the calls: this process, or the workers of Ray (`on_ray`, extra `ray`). The
result does not depend on the number of shards, on the workers, or on the order of the examples.

Near duplicates are signed in shards (two thirds of the work) and compared in this process, which has all signatures.
Memory: this process holds all examples, as the curator does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from academy.curriculum.carrying import distinct_examples, example_salt
from academy.curriculum.decontamination import Overlap, OverlapIndex
from academy.curriculum.similarity import SAME, Array, Deduplicator, Duplicate, signatures
from academy.errors import InputError
from academy.system.installation import install_remedy

T = TypeVar("T")
ShardRunner = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]
"""Calls a function once for each tuple of arguments and returns the results in order."""


def in_process(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The default ShardRunner: one call after the other."""
    return [function(*arguments) for arguments in calls]


def shard(work: Sequence[T], count: int) -> list[Sequence[T]]:
    """Cut work into `count` consecutive parts whose sizes differ by at most one. `merge` joins them again."""
    if count < 1:
        raise InputError(f"Work cannot be divided into {count} shards.", "Use 1 or more shards.")
    size, remainder = divmod(len(work), count)
    edges = [n * size + min(n, remainder) for n in range(count + 1)]
    return [work[begin:end] for begin, end in pairwise(edges)]


def merge(parts: Iterable[Sequence[T]]) -> list[T]:
    """The parts as one list, in order."""
    return [element for part in parts for element in part]


def near_duplicates(
    texts: Sequence[str], threshold: float = SAME, *, shards: int = 1, run: ShardRunner = in_process
) -> list[Duplicate]:
    """Near duplicates of earlier texts: signed in shards, compared in this process.

    Texts (`similarity.example_text`) with other numbers, options, negations or content words are not duplicates.
    """
    part_signatures = run(_example_signatures, [(part,) for part in shard(texts, shards)])
    keys, small = (np.concatenate([part[k] for part in part_signatures]) for k in (0, 1))
    return Deduplicator(lambda numbers: [texts[n] for n in numbers], threshold, distinct_examples).add(
        texts, (keys, small)
    )


def overlapping(
    guarded: OverlapIndex, examples: Sequence[tuple[str, str]], *, shards: int = 1, run: ShardRunner = in_process
) -> dict[int, tuple[Overlap, ...]]:
    """Overlaps of (request, answer) examples with guarded texts, by position; examples without overlaps are omitted."""
    results = merge(run(_scan, [(guarded, part) for part in shard(examples, shards)]))
    return {n: overlaps for n, overlaps in enumerate(results) if overlaps}


@contextmanager
def on_ray(address: str | None = None, workers: int = 2) -> Iterator[ShardRunner]:
    """Yield a ShardRunner on the Ray cluster at an address, or on a local one of `workers` CPUs that ends afterwards.

    Raises InputError if Ray is not installed.
    """
    try:
        import ray  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError as problem:
        raise InputError("Ray is not installed.", f"{install_remedy('ray')} Or curate in one process.") from problem

    def run(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        remote = ray.remote(function)
        return list(ray.get([remote.remote(*arguments) for arguments in calls]))

    local: Mapping[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    try:
        yield run
    finally:
        ray.shutdown()


def _example_signatures(texts: Sequence[str]) -> tuple[Array, Array]:
    return signatures(texts, [example_salt(text) for text in texts])


def _scan(guarded: OverlapIndex, examples: Sequence[tuple[str, str]]) -> list[tuple[Overlap, ...]]:
    overlaps = guarded.scan(examples)
    return [overlaps.get(position, ()) for position in range(len(examples))]
