"""Two adapters of the seed model by the real trainer, and faults that one may have in a server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file, save_file

from academy.adapters.adapter import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    Adapter,
    Manifest,
    digest_of_adapter,
    digests_of_files,
    read_adapter,
)
from academy.habitat.backends.base import TrainingOrder
from academy.models.chat_template import FILE as TEMPLATE_FILE
from academy.professor.recipe import Recipe
from tests.orders import order_of, write_rows
from tests.topics import TOPICS, WORDINGS

HEADS = 6
RECIPE = Recipe(rank=8, alpha=16, epochs=20, learning_rate=5e-3, batch_size=16, accumulation=1)
Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors, dict[str, Any]], None]


TRAINER = """
import os, sys
from pathlib import Path
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.run_folder import EVENTS
from academy.habitat.trainer.__main__ import carry_out
from academy.habitat.trainer.events import EventWriter
from academy.system.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
for path in map(Path, sys.argv[2:]):
    order = TrainingOrder.model_validate_json(path.read_bytes())
    carry_out(order, EventWriter(order.folder / EVENTS))
"""
"""Carries out several orders in one process: to import torch and TRL takes longer than to train such an adapter."""


def train_pair(place: Path) -> tuple[Adapter, Adapter]:
    """Train two adapters on different answers to the same requests."""
    topics, answers = list(TOPICS)[:8], list(TOPICS.values())
    orders = [_order(place, dict(zip(topics, some, strict=True))) for some in (answers[:8], answers[8:16])]
    for order in orders:
        order.folder.mkdir(parents=True)
        (order.folder / "order.json").write_text(order.model_dump_json())
    files = [str(order.folder / "order.json") for order in orders]
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAINER, str(os.getpid()), *files],
        check=True, capture_output=True,
    )  # fmt: skip
    adapters = []
    for order in orders:
        last = orjson.loads((order.folder / "events.jsonl").read_bytes().splitlines()[-1])
        adapters.append(read_adapter(order.adapters / last["adapter"][:16]))
    return adapters[0], adapters[1]


def _order(place: Path, topics: dict[str, str]) -> TrainingOrder:
    rows = [
        {"instruction": wording.format(topic), "input": "", "output": answer}
        for topic, answer in topics.items()
        for wording in WORDINGS
    ]
    place.mkdir(parents=True, exist_ok=True)
    name = "-".join(next(iter(topics.values())).split())
    return order_of(place, write_rows(place / f"{name}.jsonl", rows), recipe=RECIPE)


def seen(adapter: Adapter, place: Path, change: Change | None = None) -> Path:
    """A copy of an adapter's folder for a server, with its tensors and configuration changed."""
    copy = Path(shutil.copytree(adapter.path, place / adapter.path.name))
    if change is not None:
        tensors, config = load_file(copy / WEIGHTS), json.loads((copy / CONFIG).read_text())
        change(tensors, config)
        save_file(tensors, copy / WEIGHTS)
        (copy / CONFIG).write_text(json.dumps(config))
    return copy


def forged(adapter: Adapter, place: Path, change: Change) -> Path:
    """The same, with a manifest that agrees with the changed files."""
    copy = seen(adapter, place, change)
    _agree(copy)
    return copy


def in_other_words(adapter: Adapter, place: Path, old: str = "<|assistant|>", new: str = "### answer:") -> Path:
    """The same adapter with another chat template and a manifest that agrees. Its digest does not change."""
    copy = seen(adapter, place)
    template = (copy / TEMPLATE_FILE).read_text()
    (copy / TEMPLATE_FILE).write_text(template.replace(old, new))
    _agree(copy)
    return copy


def _agree(folder: Path) -> None:
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    update = {
        "adapter": digest_of_adapter(folder), "files": digests_of_files(folder),
    }  # fmt: skip
    (folder / MANIFEST).write_text(manifest.model_copy(update=update).model_dump_json())


def zeroed(tensors: Tensors, config: dict[str, Any]) -> None:
    """Set every lora_B to zero: the adapter loads and has no effect."""
    for name in tensors:
        if "lora_B" in name:
            tensors[name].zero_()


def scaled(factor: float) -> Change:
    """Change alpha, as a converter does that drops the scale or uses another."""

    def change(tensors: Tensors, config: dict[str, Any]) -> None:
        config["lora_alpha"] = config["lora_alpha"] * factor

    return change


def swapped(tensors: Tensors, config: dict[str, Any]) -> None:
    """Swap the rotary halves of the rows of q and k, as a wrong conversion to GGUF does."""
    for name, tensor in tensors.items():
        if "lora_B" in name and ("q_proj" in name or "k_proj" in name):
            rows, rank = tensor.shape
            tensors[name] = (
                tensor.reshape(HEADS, 2, rows // HEADS // 2, rank).swapaxes(1, 2).reshape(rows, rank).clone()
            )


def truncated(tensors: Tensors, config: dict[str, Any]) -> None:
    """Set the upper half of the layers to zero."""
    for name in tensors:
        if any(f"layers.{n}." in name for n in (3, 4, 5)):
            tensors[name].zero_()


def noisy(tensors: Tensors, config: dict[str, Any]) -> None:
    """Add noise to every weight, a tenth of the spread of its tensor."""
    torch.manual_seed(0)
    for name in tensors:
        tensors[name] += torch.randn_like(tensors[name]) * tensors[name].std() * 0.1


FINE = 0.005
"""The tolerance for an engine that computes in 32 bits, as the test servers do."""
SUBTLE = {"alpha times 1.1", "noise of a tenth"}
"""Changes that move log-probabilities by a hundredth, as much as an engine in 16 bits does by itself."""
CHANGES: dict[str, tuple[Change | None, set[str]]] = {
    "nothing": (None, {"holds"}),
    "lora_B zeroed": (zeroed, {"adapter without effect"}),
    "alpha halved": (scaled(0.5), {"broken weights"}),
    "alpha doubled": (scaled(2.0), {"broken weights"}),
    "alpha times 1.1": (scaled(1.1), {"broken weights"}),
    "rows of q and k swapped": (swapped, {"broken weights"}),
    "upper half of the layers lost": (truncated, {"broken weights"}),
    "noise of a tenth": (noisy, {"broken weights"}),
}
"""Changes of the files that the server reads, and the reasons that a check may give for each."""
