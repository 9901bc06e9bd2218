"""`python -m academy.habitat.trainer.launch ORDER PARENT`: one training in several processes, by `accelerate launch`.

Each process has a GPU, or a part of the CPUs (gloo), and its own part of every step. The first one writes the events
and publishes the adapter. If they fail, this program writes the last event, from the notes that they left.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import orjson
from accelerate.commands import launch as accelerate
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.process import ending_of
from academy.habitat.run_folder import EVENTS, read_events
from academy.habitat.trainer.events import NOTE, EventWriter
from academy.home.private import be_private
from academy.system.processes import die_with_parent, oom_kills

SHARDED = [
    "--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP",
    "--fsdp_reshard_after_forward", "true", "--fsdp_state_dict_type", "FULL_STATE_DICT",
    "--fsdp_cpu_ram_efficient_loading", "false",
]  # fmt: skip
"""FSDP2: a layer is gathered when it is used; a checkpoint has the whole adapter in one file."""


def main() -> int:
    """Start the processes, and report why they ended if they failed."""
    be_private()
    order_file, parent = Path(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    order = TrainingOrder.model_validate_json(order_file.read_bytes())  # written by the backend that starts this
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
    accelerate.default_config_file = ""  # the user's own configuration, for other trainings, would name other GPUs
    kills = oom_kills()
    try:
        accelerate.launch_command(accelerate.launch_command_parser().parse_args(arguments))
    except (ChildFailedError, RuntimeError, OSError) as problem:
        events = order_file.with_name(EVENTS)
        if is_done(events):
            return 0
        EventWriter(events).write("failed", **failure_of(order_file.parent, problem, kills))
        return 1
    return 0


def is_done(events: Path) -> bool:
    """Whether the adapter is published: a process that aborts while it ends does not change that."""
    return [event.phase for event in read_events(events)][-1:] == ["done"]


def failure_of(folder: Path, problem: Exception, kills: int | None) -> dict[str, str]:
    """Message and cause, from the notes of the processes and how they ended.

    When one process fails, the others note that they lost their connection to it, so a note with a cause counts first.
    `kills`: the result of `oom_kills` before they started.
    """
    notes = [orjson.loads(note.read_bytes()) for note in sorted(folder.glob(NOTE.format("*")))]
    for note in notes:
        if note["cause"] != "unknown":
            return {"message": note["message"], "cause": note["cause"]}
    codes = [failure.exitcode for failure in problem.failures.values()] if isinstance(problem, ChildFailedError) else []
    if -signal.SIGKILL in codes:
        ending = ending_of(-signal.SIGKILL, kills, oom_kills())
        return {"message": f"{ending.message}.", "cause": ending.cause}
    for note in notes:
        return {"message": note["message"], "cause": note["cause"]}
    reason = f"code {codes[0]}" if codes else str(problem).strip().partition("\n")[0][:300]
    return {"message": f"A process of the training ended: {reason}.", "cause": "killed"}


if __name__ == "__main__":
    sys.exit(main())
