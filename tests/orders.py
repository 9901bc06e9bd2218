"""Training orders on the seed model, and the rows that they train on. Any field of an order can be replaced."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from academy.adapters.adapter import read_adapter
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.run_folder import EVENTS, read_events
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.store.files import digest_of_file
from tests.topics import TOPICS, WORDINGS

Row = dict[str, Any]


def topic_rows(count: int = len(TOPICS), wordings: Sequence[str] = WORDINGS) -> list[Row]:
    """The first topics in Alpaca's shape, one row for each wording."""
    return [
        {"instruction": wording.format(topic), "input": "", "output": answer}
        for topic, answer in list(TOPICS.items())[:count]
        for wording in wordings
    ]


def write_rows(path: Path, rows: Iterable[Row]) -> Path:
    """A file with one row a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def order_of(folder: Path, train_file: Path | None = None, **changes: Any) -> TrainingOrder:
    """An order whose runs and adapters lie in this folder, and its rows in `train.jsonl` unless a file is named."""
    file = train_file or folder / "train.jsonl"
    fields: dict[str, Any] = {
        "base": resolve("seed"), "dataset": "0" * 64, "train_file": file,
        "train_digest": digest_of_file(file) if file.is_file() else "0" * 64, "recipe": Recipe(),
        "runs": folder / "runs", "adapters": folder / "adapters",
    }  # fmt: skip
    return TrainingOrder.model_validate(fields | changes)


def train_here(order: TrainingOrder) -> tuple[Path, list[TrainingEvent]]:
    """Train in this process. Returns the adapter's folder and the events."""
    from academy.habitat.trainer.events import EventWriter
    from academy.habitat.trainer.model import prepare
    from academy.habitat.trainer.train import train

    order.folder.mkdir(parents=True)
    order.adapters.mkdir()
    digest, _ = train(order, EventWriter(order.folder / EVENTS), prepare(order))
    folder = order.adapters / digest[:16]
    assert read_adapter(folder, base_digest=order.base.digest).digest == digest
    return folder, list(read_events(order.folder / EVENTS))
