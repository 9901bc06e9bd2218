"""Input and output of a sandbox: plain data, without the expected results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from academy.records import Record

Ended = Literal["done", "time", "memory", "output", "crashed", "forged"]


class Call(Record):
    """A function of the program and its arguments, plain JSON values."""

    function: str
    args: tuple[Any, ...] = ()


class Value(Record):
    """The result of a call: plain JSON, the class name of an exception, or a value that is not plain."""

    kind: Literal["value", "raised", "not plain"]
    value: Any = None


class RunResult(Record):
    """How a program ended, and one value for each call where it finished.

    `values` is empty unless `ended` is "done". A program whose text itself raises has "crashed", so that it cannot
    satisfy "raises ValueError" before the call. "memory": the program was killed for it or raised MemoryError.
    "output": it wrote too much or made too many files. A caller that compares the values must distinguish 1, 1.0 and
    true, for instance with `academy.records.canonical`.
    """

    ended: Ended
    values: tuple[Value, ...] = ()
    stderr: str = ""
    """The first 500 characters of stderr, without control characters."""


class Limits(Record):
    """The limits of a program. Time and processes count from the start of the program's own text."""

    seconds: float = Field(5.0, gt=0, le=600)
    """Wall-clock time of all calls together."""
    cpu_seconds: int = Field(5, ge=1, le=600)
    """CPU time of each process."""
    memory_bytes: int = Field(256 * 2**20, ge=64 * 2**20)
    """Address space of each process; memory of all processes where `active_limits` lists a cgroup or memory watch."""
    processes: int = Field(16, ge=1, le=256)
    """Processes and threads together."""
    output_bytes: int = Field(64 * 2**10, ge=1024, le=16 * 2**20)
    """Of the result, and of stderr. The program's stdout is discarded."""
    file_bytes: int = Field(16 * 2**20, ge=2**12)
    """Of a file, and of all files together."""
    files: int = Field(4096, ge=16)
    """Files and folders in each writable folder."""
    open_files: int = Field(64, ge=8, le=1024)


class Sandbox(Protocol):
    """Runs untrusted programs."""

    name: str

    @property
    def active_limits(self) -> tuple[str, ...]:
        """The containment that is in force, in words."""

    def run(self, program: str, calls: Sequence[Call]) -> RunResult:
        """Run a program and call its functions. Raises ExaminationError where the sandbox itself fails."""


class Unavailable(Record):
    """Something that cannot run here, and why: a sentence and a remedy."""

    because: str
