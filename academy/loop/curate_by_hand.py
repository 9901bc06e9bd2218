"""Curates a dataset by hand: from chosen repositories, in this process or on Ray's workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from academy.curriculum.dataset import Dataset, check_format
from academy.curriculum.sharding import on_ray
from academy.loop.curate import curate
from academy.loop.home import Home
from academy.loop.ingest import choose_repositories


def curate_by_hand(
    home: Home,
    paths: Sequence[Path],
    limit: int | None = None,
    workers: int = 1,
    form: str = "",
    tags: Sequence[str] = (),
) -> Dataset:
    """Write the dataset, which the caller exports in the format `form`. More than one worker means Ray.

    The bytes are the same on Ray. Raises InputError without Ray, and for an unknown format.
    """
    check_format(form)
    repositories = choose_repositories(paths, home.settings.workspace_root)
    if workers == 1:
        return curate(home, repositories, limit, tags=tags)
    with on_ray(home.settings.ray_address or None, workers) as run_on_ray:
        return curate(home, repositories, limit, workers, run_on_ray, tags)
