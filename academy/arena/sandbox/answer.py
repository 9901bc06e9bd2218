"""The request to a sandbox, and reading its output without trusting it.

first line     NONCE ready                          written before the program starts
second line    NONCE {"ended": ..., "values": []}
and nothing after it
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from academy.arena.sandbox import harness
from academy.arena.sandbox.records import Call, Ended, Limits, RunResult, Value

SOURCE = Path(harness.__file__).read_text(encoding="utf-8")
"""The program that runs inside."""
EXCERPT = 500
"""Characters of stderr in a result."""


def request(nonce: str, program: str, calls: Sequence[Call], limits: Limits) -> bytes:
    """The bytes for the harness's stdin. Raises ValueError for an argument that JSON cannot represent."""
    limit_rows = [
        (
            "RLIMIT_CPU",
            limits.cpu_seconds,
            limits.cpu_seconds + 1,
        ),  # first SIGXCPU, which shows a timeout, then SIGKILL
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
            "limits": limit_rows,
            "output_bytes": limits.output_bytes,
        }
    ).encode("ascii")
    return b"%d\n%s" % (len(body), body)


class RunOutput:
    """The output so far: the channel and stderr, each bounded."""

    def __init__(self, nonce: str, calls: int, limits: Limits) -> None:
        self.ready_line = f"{nonce} ready\n".encode("ascii")
        self.prefix = f"{nonce} ".encode("ascii")
        self.calls = calls
        self.max_bytes = limits.output_bytes
        self.channel = bytearray()
        self.stderr = bytearray()

    @property
    def room(self) -> int:
        """The maximum number of bytes to read: more than the limit, so that an excess is visible."""
        return self.max_bytes + 4096

    @property
    def ready(self) -> bool:
        """Whether the program has started. It did not write the output before that."""
        return self.channel.startswith(self.ready_line)

    @property
    def too_much(self) -> bool:
        """Whether the output exceeds the limit."""
        return len(self.channel) > self.max_bytes + len(self.ready_line) or len(self.stderr) > self.max_bytes

    def excerpt(self) -> str:
        """The first characters of stderr, without control characters."""
        text = bytes(self.stderr[: 4 * EXCERPT]).decode("utf-8", "replace")[:EXCERPT]
        return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)

    def result(self, ending: Ended | None) -> RunResult:
        """The result of a run. `ending` is what the caller observed; None where the program ended by itself."""
        if self.too_much and ending is None:
            ending = "output"
        values: tuple[Value, ...] = ()
        if ending is None:
            ending, values = self._read()
        return RunResult(ended=ending, values=values if ending == "done" else (), stderr=self.excerpt())

    def _read(self) -> tuple[Ended, tuple[Value, ...]]:
        line = bytes(self.channel).removeprefix(self.ready_line)
        if not line:
            return "crashed", ()
        if not line.startswith(self.prefix) or line.count(b"\n") != 1 or not line.endswith(b"\n"):
            return "forged", ()
        try:
            answer = json.loads(line[len(self.prefix) :], parse_constant=_refuse)
        except (ValueError, RecursionError):  # a UnicodeDecodeError is a ValueError
            return "forged", ()
        if type(answer) is not dict or set(answer) != {"ended", "values"} or type(answer["values"]) is not list:
            return "forged", ()
        values = tuple(filter(None, map(self._value, answer["values"])))
        match answer["ended"]:
            case "done" if len(values) == len(answer["values"]) == self.calls:
                return "done", values
            case "crashed" | "memory" as ending:
                return ending, ()
        return "forged", ()

    def _value(self, entry: Any) -> Value | None:
        if type(entry) is not dict or set(entry) != {"kind", "value"}:
            return None
        match entry["kind"], entry["value"]:
            case "value", value if harness.plain(value, self.max_bytes):
                return Value(kind="value", value=value)
            case "raised", str(name) if name.isidentifier() and len(name) <= 100:
                return Value(kind="raised", value=name)
            case "not plain", None:
                return Value(kind="not plain")
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
