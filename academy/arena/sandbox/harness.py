"""Runs inside the sandbox: a program's text, then the calls, then one line with their results.

The source of this module is passed unchanged. The request comes on stdin: a line with a number of bytes, then that many
bytes of JSON with the keys nonce, program, calls ([function, arguments] each), limits ([resource, soft, hard] each),
output_bytes. The original stdout carries two lines: `NONCE ready` before the program starts, and
`NONCE {"ended": ..., "values": [...]}`. The program's own stdout is discarded.

A program could write these lines itself, because it runs in the same process. It gains nothing, because the expected
results are not in this process. Only the standard library is used; `plain` and `name_of` are used outside too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
import types
from typing import Any

DEPTH, ITEMS, BITS = 32, 20_000, 13_000
"""Limits on nesting, on the number of values, and on the bits of an integer (Python prints 4,300 digits)."""


def plain(value: Any, characters: int) -> bool:  # noqa: PLR0912 - a branch for each kind
    """Whether a value consists of None, bool, int, float, str, list and dict with str keys, and has a bounded size."""
    budget = ITEMS
    stack = [(value, 0)]
    while stack:
        value, depth = stack.pop()
        kind = type(value)
        budget -= 1
        if budget < 0 or depth > DEPTH:
            return False
        if kind is str:
            characters -= len(value)
            if characters < 0 or not _is_text(value):
                return False
        elif kind is int:
            if value.bit_length() > BITS:
                return False
        elif kind is float:
            if not math.isfinite(value):
                return False
        elif kind is list:
            if len(value) > budget:
                return False
            stack += [(item, depth + 1) for item in value]
        elif kind is dict:
            if 2 * len(value) > budget or any(type(key) is not str for key in value):
                return False
            stack += [(item, depth + 1) for pair in value.items() for item in pair]
        elif value is not None and kind is not bool:
            return False
    return True


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def name_of(problem: BaseException) -> str:
    """The real class name of an exception, even with a custom metaclass."""
    name: str = type.__dict__["__name__"].__get__(type(problem))
    return name[:100]


def main() -> None:
    """Read the request, limit this process, run, answer, and exit at once: no atexit, no __del__."""
    size = int(sys.stdin.buffer.readline(20))
    request = json.loads(sys.stdin.buffer.read(size))
    null = os.open("/dev/null", os.O_RDWR)
    channel = os.dup(1)  # not inherited by processes that the program starts
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.closerange(max(null, channel) + 1, 256)
    os.close(null)
    _confine(request["limits"])
    nonce, process = request["nonce"], os.getpid()
    _write(channel, f"{nonce} ready\n")
    answer = _run(request["program"], request["calls"], request["output_bytes"])
    if os.getpid() != process:  # a forked child that returned from the program
        os._exit(1)
    _write(channel, f"{nonce} {json.dumps(answer, allow_nan=False)}\n")
    os._exit(0)


def _confine(limits: list[tuple[str, int, int]]) -> None:
    for name, soft, hard in limits:
        kind = getattr(resource, name)
        highest = resource.getrlimit(kind)[1]
        if highest != resource.RLIM_INFINITY:  # it can only be lowered
            soft, hard = min(soft, highest), min(hard, highest)  # noqa: PLW2901
        resource.setrlimit(kind, (soft, hard))


def _run(program: str, calls: list[tuple[str, str]], characters: int) -> dict[str, Any]:
    module = types.ModuleType("program")  # not __main__, so that a main guard does not run
    sys.modules["program"] = module
    sys.argv = ["program"]
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - the purpose of the sandbox
    except BaseException as problem:  # noqa: BLE001 - SystemExit too
        _report(problem)
        return {"ended": "memory" if isinstance(problem, MemoryError) else "crashed", "values": []}
    values: list[dict[str, Any]] = []
    ending = "done"
    for function, arguments in calls:
        try:
            value = module.__dict__[function](*json.loads(arguments))
        except BaseException as problem:  # noqa: BLE001
            if isinstance(problem, KeyError) and function not in module.__dict__:
                problem = NameError(f"name '{function}' is not defined")
            if isinstance(problem, MemoryError):
                ending = "memory"
            _report(problem)
            values.append({"kind": "raised", "value": name_of(problem)})
        else:
            if plain(value, characters):
                values.append(
                    {"kind": "value", "value": json.loads(json.dumps(value))}
                )  # a copy: a later call may change it
            else:
                values.append({"kind": "not plain", "value": None})
    return {"ended": ending, "values": values}


def _report(problem: BaseException) -> None:
    """Write the error to stderr; a program's own exception class may fail at that."""
    with contextlib.suppress(BaseException):
        os.write(2, f"{name_of(problem)}: {str(problem)[:300]}\n".encode("utf-8", "replace"))


def _write(channel: int, line: str) -> None:
    rest = memoryview(line.encode("ascii"))
    while rest:
        rest = rest[os.write(channel, rest) :]


if __name__ == "__main__":
    main()
