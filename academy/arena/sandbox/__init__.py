"""Runs programs that a model wrote in isolation, and returns plain data; the caller compares it.

    records     Call, Value, RunResult, Limits, Sandbox, Unavailable
    harness     runs inside the sandbox; its source is passed unchanged
    answer      the request, and reading the output outside without trusting it
    bubblewrap  Linux namespaces, a user id, seccomp, a cgroup
    container   a Docker engine: a container for each program
    image       its content: this Python and nothing else, or an image of a registry
    engine      connecting to the engine, and removing containers of killed processes
    seccomp     the system calls that both reject
    users       user ids, one for each run

The expected results never enter the sandbox. A program that writes the result line itself gains nothing.
"""

from __future__ import annotations

from academy.arena.sandbox.bubblewrap import BubblewrapSandbox
from academy.arena.sandbox.container import DockerSandbox
from academy.arena.sandbox.records import Call, Limits, RunResult, Sandbox, Unavailable, Value
from academy.errors import ExaminationError

__all__ = [
    "BubblewrapSandbox",
    "Call",
    "DockerSandbox",
    "Limits",
    "RunResult",
    "Sandbox",
    "Unavailable",
    "Value",
    "find_sandbox",
]

NAMES = ("bubblewrap", "docker")
PROBE = "def probe():\n    return 1\n"


def find_sandbox(prefer: str = "", limits: Limits | None = None, image: str = "") -> Sandbox | Unavailable:
    """The sandbox of this name, or the first one that works: bubblewrap, then Docker. A harmless program tests each.

    With `prefer` no other one is tried, so that the containment is never weaker than requested. `image` is Docker's
    image, by name or digest; empty: the one made from this Python.
    """
    if prefer and prefer not in NAMES:
        return Unavailable(because=f'Unknown sandbox "{prefer}". Choose one of {", ".join(NAMES)}.')
    reasons = []
    for name in NAMES:
        if prefer in ("", name):
            try:
                sandbox: Sandbox = BubblewrapSandbox(limits) if name == "bubblewrap" else DockerSandbox(limits, image)
                run = sandbox.run(PROBE, [Call(function="probe")])
            except ExaminationError as problem:
                reasons.append(str(problem))
                continue
            if run.ended == "done":
                return sandbox
            reasons.append(f"A harmless test program did not finish in {name} ({run.ended}).")
    return Unavailable(because="No sandbox is available. " + " ".join(reasons))
