"""Reading what comes out of a sandbox, trusting none of it.

first line     NONCE ready                          written before the program begins
second line    NONCE {"ended": ..., "values": []}
nothing else
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from academy.arena.sandbox import harness
from academy.arena.sandbox.records import Call, Ended, Limits, Ran, Value

SOURCE = Path(harness.__file__).read_text(encoding="utf-8")
"""The program that runs inside."""
SAID = 500


def request(nonce: str, program: str, calls: Sequence[Call], limits: Limits) -> bytes:
    """What the harness reads on stdin. A program or an argument that is no text raises ValueError."""
    confined = [
        ("RLIMIT_CPU", limits.cpu_seconds, limits.cpu_seconds + 1),  # a signal first, which tells of time, then the end
        *(
            (name, number, number)
            for name, number in (
                ("RLIMIT_CORE", 0),
                ("RLIMIT_AS", limits.memory_bytes),
                ("RLIMIT_FSIZE", limits.file_bytes),
                ("RLIMIT_NOFILE", limits.open_files),
                ("RLIMIT_NPROC", limits.processes),
                ("RLIMIT_MEMLOCK", 0),
                ("RLIMIT_MSGQUEUE", 0),
                ("RLIMIT_SIGPENDING", 64),
            )
        ),
    ]
    body = json.dumps(
        {
            "nonce": nonce,
            "program": program,
            "calls": [(call.function, json.dumps(call.args, allow_nan=False)) for call in calls],
            "limits": confined,
            "output_bytes": limits.output_bytes,
        }
    ).encode("ascii")
    return b"%d\n%s" % (len(body), body)


class Heard:
    """What was heard so far: the channel and stderr, each bounded."""

    def __init__(self, nonce: str, calls: int, limits: Limits) -> None:
        self.begun = f"{nonce} ready\n".encode("ascii")
        self.mark = f"{nonce} ".encode("ascii")
        self.calls = calls
        self.most = limits.output_bytes
        self.channel = bytearray()
        self.stderr = bytearray()

    @property
    def room(self) -> int:
        """How many bytes to read at most: one more than is allowed tells that it is too much."""
        return self.most + 4096

    @property
    def ready(self) -> bool:
        """Whether the program's text was begun. What is heard before was not written by it."""
        return self.channel.startswith(self.begun)

    @property
    def too_much(self) -> bool:
        """Whether more was written than is allowed."""
        return len(self.channel) > self.most + len(self.begun) or len(self.stderr) > self.most

    def said(self) -> str:
        """The first characters of stderr, fit to be shown."""
        text = bytes(self.stderr[: 4 * SAID]).decode("utf-8", "replace")[:SAID]
        return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)

    def ran(self, ended: Ended | None) -> Ran:
        """The end of a run: as the caller saw it from outside, or None where the program came to its end by itself."""
        if self.too_much and ended is None:
            ended = "output"
        values: tuple[Value, ...] = ()
        if ended is None:
            ended, values = self._read()
        return Ran(ended=ended, values=values if ended == "done" else (), said=self.said())

    def _read(self) -> tuple[Ended, tuple[Value, ...]]:
        line = bytes(self.channel).removeprefix(self.begun)
        if not line:
            return "crashed", ()
        if not line.startswith(self.mark) or line.count(b"\n") != 1 or not line.endswith(b"\n"):
            return "forged", ()
        try:
            answer = json.loads(line[len(self.mark) :], parse_constant=_refuse)
        except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
            return "forged", ()
        if type(answer) is not dict or set(answer) != {"ended", "values"} or type(answer["values"]) is not list:
            return "forged", ()
        values = tuple(filter(None, map(self._value, answer["values"])))
        match answer["ended"]:
            case "done" if len(values) == len(answer["values"]) == self.calls:
                return "done", values
            case "crashed" | "memory" as ended:
                return ended, ()
        return "forged", ()

    def _value(self, told: Any) -> Value | None:
        if type(told) is not dict or set(told) != {"kind", "value"}:
            return None
        match told["kind"], told["value"]:
            case "value", value if harness.plain(value, self.most):
                return Value(kind="value", value=value)
            case "raised", str(name) if name.isidentifier() and len(name) <= 100:
                return Value(kind="raised", value=name)
            case "not plain", None:
                return Value(kind="not plain")
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
