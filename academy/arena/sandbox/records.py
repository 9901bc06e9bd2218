"""What goes into a sandbox and what comes out: plain data, and nothing of the verdict on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from pydantic import Field

from academy.records import Record

Ended = Literal["done", "time", "memory", "output", "crashed", "forged"]


class Call(Record):
    """A function of the program's namespace and its arguments, plain JSON values."""

    function: str
    args: tuple[Any, ...] = ()


class Value(Record):
    """What a call gave: plain JSON, the name of an exception's class, or something that is not plain."""

    kind: Literal["value", "raised", "not plain"]
    value: Any = None


class Ran(Record):
    """How a program ended, and one value for each call where it was done.

    `values` holds something only where `ended` is "done". "crashed" is also a program whose text itself raises, so
    that nobody meets "raises ValueError" by raising it before the call. "memory" is told where the program was
    ended for it or a MemoryError came up. The values are what the program says: whoever compares them must tell
    1 from 1.0 and from true, for instance by `academy.records.canonical`.
    """

    ended: Ended
    values: tuple[Value, ...] = ()
    said: str = ""
    """The first 500 characters of stderr, characters that steer a terminal taken out."""


class Limits(Record):
    """What a program may use. A second and a process are counted from the moment that its text begins."""

    seconds: float = Field(5.0, gt=0, le=600)
    """By the clock on the wall, all calls together."""
    cpu_seconds: int = Field(5, ge=1, le=600)
    """Of each process."""
    memory_bytes: int = Field(256 * 2**20, ge=64 * 2**20)
    """Address space of each process, and memory of all together where `limits_in_force` names a way."""
    processes: int = Field(16, ge=1, le=256)
    """Processes and threads together."""
    output_bytes: int = Field(64 * 2**10, ge=1024, le=16 * 2**20)
    """Of the answer, and of stderr. What goes to stdout is thrown away."""
    file_bytes: int = Field(16 * 2**20, ge=2**12)
    """Of a file, and of all files together."""
    open_files: int = Field(64, ge=8, le=1024)


class Sandbox(Protocol):
    """Runs programs that nobody has read."""

    name: str

    @property
    def limits_in_force(self) -> tuple[str, ...]:
        """What contains a program here, in words."""

    def run(self, program: str, calls: Sequence[Call]) -> Ran:
        """Run a program and call its functions. Raises ExaminationError where the sandbox itself fails."""


class Unavailable(Record):
    """No sandbox, and why: one sentence and a remedy."""

    because: str
