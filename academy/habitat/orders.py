"""What no order may ask for, whoever wrote it and wherever it is to run."""

from __future__ import annotations

from pathlib import Path

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingOrder


def refuse_outside(order: TrainingOrder, home: Path) -> None:
    """Raises TrainingError for an order that names a path outside the home; a link out of it is outside, too.

    But for the home's own folders, which a person may have put onto a larger disk. The base model may lie anywhere: it
    is only read.
    """
    known = [home.resolve(), *(path.resolve() for path in home.iterdir() if path.is_dir())] if home.is_dir() else []
    for path in (order.train_file, order.runs, order.adapters, order.init_adapter):
        if path is not None and not any(path.resolve().is_relative_to(one) for one in known):
            raise TrainingError(
                f"The order names {path}, which is outside {home}.",
                "A training sees its home only: set ACADEMY_HOME to one that holds the path.",
                cause="order",
            )
