"""What a training leaves in its run's folder while it works: checkpoints to go on from, its adapter's draft."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import orjson

from academy.habitat.memory import Plan

CHECKPOINTS, DRAFT = "checkpoints", "draft"
STATE = "trainer_state.json"
"""Written last of a checkpoint's files, but for the other processes' random states."""
SHARDS = "pytorch_model_fsdp.bin"
"""In a checkpoint of processes that share the weights."""


def whole_checkpoint(folder: Path, plan: Plan) -> str | None:
    """The newest checkpoint that was written to its end and can be gone on with; others are removed.

    Whole and shared weights are kept in other files, and a training that ran out of memory may go on in the other way:
    then it begins again.
    """
    for path in _newest_first(folder):
        usable = (path / SHARDS).exists() is plan.shared
        if plan.processes > 1:
            usable &= len(list(path.glob("rng_state_*.pth"))) >= plan.processes
        if _is_whole(path) and usable:  # asked last, for it may be going away meanwhile
            return str(path)
        _remove(path)
    return None


def make_room(run: Path) -> None:
    """Remove what a full disk cut off: there is room for a last word then, and what is whole stays."""
    shutil.rmtree(run / DRAFT, ignore_errors=True)
    for path in _newest_first(run / CHECKPOINTS):
        if not _is_whole(path):
            _remove(path)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("checkpoint-*"), key=lambda found: -int(found.name.rpartition("-")[2]))


def _is_whole(path: Path) -> bool:
    try:
        orjson.loads((path / STATE).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return False
    return True


def _remove(path: Path) -> None:
    aside = path.with_name(f"torn-{path.name}")
    with suppress(OSError):  # another process of this training may be at it
        path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
