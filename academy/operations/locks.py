"""Locks of a home that its flow runs hold while they work. A free lock means that no process is at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from academy.settings import load_settings
from academy.store.locks import exclusive_lock


@contextmanager
def one_evolution() -> Iterator[None]:
    """Hold the home's lock for evolutions. Raises HomeError if another evolution is running."""
    with exclusive_lock(evolution_lock(load_settings().folder("locks")), "Another evolution is running in this home."):
        yield


@contextmanager
def one_training(run: str) -> Iterator[None]:
    """Hold the lock of a training's flow run. Raises HomeError if the same run is already at work."""
    lock = training_lock(load_settings().folder("locks"), run)
    with exclusive_lock(lock, "This flow run is already running."):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def evolution_lock(locks: Path) -> Path:
    """The lock that an evolution holds."""
    return locks / "evolve"


def training_lock(locks: Path, run: str) -> Path:
    """The lock that a training's flow run holds."""
    return locks / f"train-{run}"
