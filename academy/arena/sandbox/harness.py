"""Runs inside the sandbox: a program's text, then the calls, then one line with what they gave.

Its source goes in as it is. The request comes on stdin: a line with a number of bytes, and so many bytes of JSON with
the keys nonce, program, calls ([function, arguments] each), limits ([resource, soft, hard] each), output_bytes. What
was stdout carries two lines: `NONCE ready` before the program begins, and `NONCE {"ended": ..., "values": [...]}`. The
program's own stdout goes nowhere.

Nothing here keeps a program from writing these lines itself: it runs in the same process. It gains nothing, for what
is expected of it is not in here. Uses the standard library alone; `plain` and `name_of` serve outside too.
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
"""Lists in lists, things in all, and bits of a whole number: Python writes 4,300 digits and no more."""


def plain(value: Any, characters: int) -> bool:  # noqa: PLR0912 - a branch for each kind
    """Whether a value is of None, bool, int, float, str, list and dict with str keys, exactly, and of bounded size."""
    left = ITEMS
    waiting = [(value, 0)]
    while waiting:
        value, depth = waiting.pop()
        kind = type(value)
        left -= 1
        if left < 0 or depth > DEPTH:
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
            if len(value) > left:
                return False
            waiting += [(each, depth + 1) for each in value]
        elif kind is dict:
            if 2 * len(value) > left or any(type(key) is not str for key in value):
                return False
            waiting += [(each, depth + 1) for pair in value.items() for each in pair]
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
    """The name of an exception's class, whatever its metaclass says."""
    name: str = type.__dict__["__name__"].__get__(type(problem))
    return name[:100]


def main() -> None:
    """Read the request, confine this process, run, answer, and end at once: no atexit, no __del__."""
    size = int(sys.stdin.buffer.readline(20))
    request = json.loads(sys.stdin.buffer.read(size))
    nothing = os.open("/dev/null", os.O_RDWR)
    channel = os.dup(1)  # not inherited by what the program starts
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.closerange(max(nothing, channel) + 1, 256)
    os.close(nothing)
    _confine(request["limits"])
    nonce, me = request["nonce"], os.getpid()
    _write(channel, f"{nonce} ready\n")
    answer = _run(request["program"], request["calls"], request["output_bytes"])
    if os.getpid() != me:  # a child that the program made and forgot
        os._exit(1)
    _write(channel, f"{nonce} {json.dumps(answer, allow_nan=False)}\n")
    os._exit(0)


def _confine(limits: list[tuple[str, int, int]]) -> None:
    for name, soft, hard in limits:
        which = getattr(resource, name)
        highest = resource.getrlimit(which)[1]
        if highest != resource.RLIM_INFINITY:  # it can only be lowered
            soft, hard = min(soft, highest), min(hard, highest)  # noqa: PLW2901
        resource.setrlimit(which, (soft, hard))


def _run(program: str, calls: list[tuple[str, str]], characters: int) -> dict[str, Any]:
    module = types.ModuleType("program")  # not __main__: what stands under that name is not asked for
    sys.modules["program"] = module
    sys.argv = ["program"]
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what it is for
    except BaseException as problem:  # noqa: BLE001 - SystemExit too
        _tell(problem)
        return {"ended": "memory" if isinstance(problem, MemoryError) else "crashed", "values": []}
    values: list[dict[str, Any]] = []
    ended = "done"
    for function, arguments in calls:
        try:
            value = module.__dict__[function](*json.loads(arguments))
        except BaseException as problem:  # noqa: BLE001
            if isinstance(problem, KeyError) and function not in module.__dict__:
                problem = NameError(f"name '{function}' is not defined")
            if isinstance(problem, MemoryError):
                ended = "memory"
            _tell(problem)
            values.append({"kind": "raised", "value": name_of(problem)})
        else:
            if plain(value, characters):
                values.append({"kind": "value", "value": json.loads(json.dumps(value))})  # a later call may alter it
            else:
                values.append({"kind": "not plain", "value": None})
    return {"ended": ended, "values": values}


def _tell(problem: BaseException) -> None:
    """A few words on stderr; a program's own class may fail at that."""
    with contextlib.suppress(BaseException):
        os.write(2, f"{name_of(problem)}: {str(problem)[:300]}\n".encode("utf-8", "replace"))


def _write(channel: int, line: str) -> None:
    left = memoryview(line.encode("ascii"))
    while left:
        left = left[os.write(channel, left) :]


if __name__ == "__main__":
    main()
