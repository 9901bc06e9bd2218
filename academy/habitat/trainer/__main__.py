"""`python -m academy.habitat.trainer ORDER PARENT`: run one training order, and end when the process PARENT ends.

PARENT is 0 in a container, where the program ends when its stdin closes, and for one of several processes, which ends
with its launcher.

The order is a JSON file, never a generated program. If the training fails, the program writes one "failed" event with a
cause (one of several processes writes a note, from which its launcher makes the event). The exit code is 0 after "done"
and 1 after "failed".
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from academy.border.masking import mask
from academy.errors import AcademyError, BaseModelError, HomeError, TemplateError, TrainingError
from academy.habitat.backends.base import TrainingOrder
from academy.habitat.backends.following import FULL
from academy.habitat.run_folder import EVENTS
from academy.habitat.trainer.checkpoints import make_room
from academy.habitat.trainer.events import NOTE, EventWriter, NullEventWriter
from academy.home.private import be_private
from academy.records import canonical, expectation
from academy.store.files import is_full, write_file
from academy.system.hardware import EnergyMeter
from academy.system.processes import die_with_parent, end_with_stdin


def main() -> int | str:
    """Read the order, train, report. Returns the exit code, or a message about a wrong call."""
    if len(sys.argv) != 3 or not sys.argv[2].isdigit():
        return "Usage: ORDER PARENT, the file of a training order and the id of the process to end with, or 0."
    be_private()  # also in a container, which has the umask of its engine
    order_file, parent = Path(sys.argv[1]), int(sys.argv[2])
    rank = os.environ.get("RANK")  # of several processes, set by torch's launcher
    if rank is not None:
        die_with_parent(os.getppid())
    elif parent:
        die_with_parent(parent)
    else:
        end_with_stdin()
    order = read_order(order_file)
    if isinstance(order, str):
        if rank in (None, "0") and order_file.parent.is_dir():
            EventWriter(order_file.with_name(EVENTS)).write("failed", message=order, cause="order")
        return order
    events = EventWriter(order_file.with_name(EVENTS)) if rank in (None, "0") else NullEventWriter()
    # each of several processes notes its own end: when one fails, the others only lose their connection to it
    note = order_file.with_name(NOTE.format(rank)) if rank is not None else None
    failure = carry_out(order, events, note)
    if rank is not None and not failure:
        _leave_group()
    return 1 if failure else 0


def _leave_group() -> None:
    """Wait for the other processes, then close the connections to them.

    A process that ends with open connections can abort in gloo's threads, and aborts the others with it.
    """
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def read_order(file: Path) -> TrainingOrder | str:
    """The order, or a message about what is wrong with it."""
    try:
        return TrainingOrder.model_validate_json(file.read_bytes())
    except OSError as problem:
        return f"The order {file} cannot be read: {problem.strerror}."
    except ValidationError as problem:
        first = problem.errors()[0]
        location = ".".join(map(str, first["loc"])) or "its text"
        return f"The order is invalid: {location}: {expectation(first)}. Start the training again with `academy train`."


def carry_out(order: TrainingOrder, events: EventWriter | NullEventWriter, note: Path | None = None) -> dict[str, str]:
    """Train and write events. Returns message and cause if the training failed, else an empty dictionary.

    A failure is the last event, or goes into the note if there is one.
    """
    events.write("started", message=f"order {order.digest[:16]}")
    for change in order.changes:
        events.write("changed", message=f"less memory: {change}")
    try:
        with events.busy():
            with order.base.unchanged():  # a refusal before the libraries are imported
                from academy.habitat.trainer.model import prepare

            library = prepare(order)  # before anything imports transformers or TRL
            if library.on_gpu and isinstance(events, EventWriter):
                events.meter = EnergyMeter().read
            from academy.habitat.trainer.train import train

        adapter, loss = train(order, events, library)
    except Exception as problem:  # noqa: BLE001  libraries have their own errors; every failure is reported
        if not isinstance(problem, AcademyError):
            sys.stderr.write(mask(traceback.format_exc()))  # into the trainer's own log
        cause = _cause(problem, order)
        failure = {"message": _sentence(problem, cause), "cause": cause}
        if cause == "disk" and isinstance(events, EventWriter):
            make_room(order.folder)
        with suppress(OSError, HomeError):  # the follower notices a full disk, too
            if note is None:
                events.write("failed", **failure)
            else:
                write_file(note, canonical(failure))
        return failure
    events.write("done", adapter=adapter, loss=loss, message="adapter published")
    return {}


def _cause(problem: BaseException, order: TrainingOrder) -> str:
    if isinstance(problem, TrainingError):
        return problem.cause
    if isinstance(problem, TemplateError):
        return "template"
    if isinstance(problem, BaseModelError):
        return "base model"
    if isinstance(problem, HomeError):
        return "disk"
    if isinstance(problem, MemoryError) or any(
        sign in str(problem).lower()
        for sign in ("out of memory", "alloc_failed", "allocate memory")  # GPUs; their libraries; CPUs
    ):
        return "memory"
    # torch and safetensors report a full disk in their own words
    return "disk" if is_full(order.runs, problem) else "unknown"


def _sentence(problem: BaseException, cause: str) -> str:
    if isinstance(problem, AcademyError):
        return str(problem)
    match cause:
        case "memory":
            return "The training ran out of memory. Use a smaller batch or rank, or another machine."
        case "disk":
            return FULL
    first = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return mask(f"The trainer failed: {first[:300]}")


if __name__ == "__main__":
    sys.exit(main())
