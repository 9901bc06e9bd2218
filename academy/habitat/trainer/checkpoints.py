"""What a training keeps in its run's folder while it works: checkpoints to continue from, and its adapter's draft."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import orjson

from academy.habitat.memory import Plan

CHECKPOINTS, DRAFT = "checkpoints", "draft"
STATE = "trainer_state.json"
"""The last file of a checkpoint to be written, apart from the other processes' random states."""
SHARDS = "pytorch_model_fsdp.bin"
"""Only in checkpoints of processes that share the weights."""


def whole_checkpoint(folder: Path, plan: Plan) -> str | None:
    """The newest complete checkpoint that this plan can continue from; others are removed.

    Whole and shared weights are stored in different files. A training that ran out of memory may continue in the other
    way; it then starts again from the beginning.
    """
    for path in _newest_first(folder):
        usable = (path / SHARDS).exists() is plan.shared
        if plan.processes > 1:
            usable &= len(list(path.glob("rng_state_*.pth"))) >= plan.processes
        if _is_complete(path) and usable:  # checked last, because another process may be removing it
            return str(path)
        _remove(path)
    return None


def make_room(run: Path) -> None:
    """Remove incomplete files from a full disk, so that there is room for a last event. Complete ones stay."""
    shutil.rmtree(run / DRAFT, ignore_errors=True)
    for path in _newest_first(run / CHECKPOINTS):
        if not _is_complete(path):
            _remove(path)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))


def _is_complete(path: Path) -> bool:
    try:
        orjson.loads((path / STATE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return True


def _remove(path: Path) -> None:
    aside = path.with_name(f"torn-{path.name}")
    with suppress(OSError):  # another process of this training may be removing it
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
