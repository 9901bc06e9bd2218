"""`python -m academy.habitat.trainer.launch ORDER PARENT`: one training in several processes, by `accelerate launch`.

Each process has a GPU, or a share of the processors (gloo), and its own part of every step; the first of them tells
the events and publishes the adapter. What ended another one is read from the note that it left.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import orjson
from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from academy.habitat.backend import TrainingOrder
from academy.habitat.process import EVENTS, read_events
from academy.habitat.trainer.events import NOTE, EventWriter
from academy.processes import die_with_parent

SHARDED = [
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_reshard_after_forward", "true", "--fsdp_state_dict_type", "FULL_STATE_DICT",
    "--fsdp_cpu_ram_efficient_loading", "false",
]  # fmt: skip
"""FSDP2: layers are gathered as they are used; a checkpoint holds the whole adapter in one file."""


def main() -> int:
    """Start the processes, and tell what ended them where the first one could not."""
    order_file, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    order = TrainingOrder.model_validate_json(order_file.read_bytes())
    plan = order.plan
    count = plan.processes if plan else 1
    for note in order_file.parent.glob(NOTE.format("*")):
        note.unlink()
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    arguments = [
        *(SHARDED if plan and plan.shared else ["--multi_gpu"]),
        "--num_processes", str(count), "--num_machines", "1", "--main_process_port", "0",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", str(threads),
        "--module", "academy.habitat.trainer", str(order_file), "0",
    ]  # fmt: skip
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except (ChildFailedError, RuntimeError, OSError) as problem:
        tell(order_file, problem)
        return 1
    return 0


def tell(order_file: Path, problem: Exception) -> None:
    """A "failed" event, unless the first process has written one."""
    place = order_file.with_name(EVENTS)
    last = None
    for event in read_events(place):
        last = event
    if last is not None and last.phase == "failed":
        return
    for note in sorted(order_file.parent.glob(NOTE.format("*"))):
        EventWriter(place).write("failed", **orjson.loads(note.read_bytes()))
        return
    first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    EventWriter(place).write("failed", message=f"A process of the training ended: {first[:300]}", cause="killed")


if __name__ == "__main__":
    sys.exit(main())
