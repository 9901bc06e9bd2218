"""Paths that no order may name, whatever program wrote it and wherever it runs."""

from __future__ import annotations

from pathlib import Path

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder


def refuse_outside(order: TrainingOrder, home: Path) -> None:
    """Raises TrainingError for an order that names a path outside the home, also through a symbolic link.

    The home's own folders may be links, for example to a larger disk. The base model may lie anywhere, because it is
    only read.
    """
    roots = [home.resolve(), *(path.resolve() for path in home.iterdir() if path.is_dir())] if home.is_dir() else []
    for path in (order.train_file, order.runs, order.adapters, order.init_adapter):
        if path is not None and not any(path.resolve().is_relative_to(root) for root in roots):
            raise TrainingError(
                f"The order names {path}, which is outside {home}.",
                "A training can only use files of its home: set ACADEMY_HOME to one that contains the path.",
                cause="order",
            )
