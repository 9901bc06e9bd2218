"""Runs programs that a model wrote, contained, and gives back plain data; the verdict on it is made by the caller.

    records     Call, Value, Ran, Limits, Sandbox, Unavailable
    harness     runs inside; its source goes in as it is
    answer      the request, and reading the answer outside with no trust in it
    bubblewrap  Linux namespaces, a user number, seccomp, a cgroup
    container   a Docker engine

What is expected of a program never goes in. A program that writes the answer's line itself gains nothing by it.
"""

from __future__ import annotations

from academy.arena.sandbox.bubblewrap import BubblewrapSandbox
from academy.arena.sandbox.container import DockerSandbox
from academy.arena.sandbox.records import Call, Limits, Ran, Sandbox, Unavailable, Value
from academy.errors import ExaminationError

__all__ = [
    "BubblewrapSandbox",
    "Call",
    "DockerSandbox",
    "Limits",
    "Ran",
    "Sandbox",
    "Unavailable",
    "Value",
    "find_sandbox",
]

MAKERS = {"bubblewrap": BubblewrapSandbox, "docker": DockerSandbox}
PROBE = "def probe():\n    return 1\n"


def find_sandbox(prefer: str = "", limits: Limits | None = None) -> Sandbox | Unavailable:
    """The sandbox of this name, or the first that runs here: bubblewrap, then Docker. Each is tried once, harmlessly.

    A name that is given is the only one tried: nobody gets a weaker containment than was asked for.
    """
    if prefer and prefer not in MAKERS:
        return Unavailable(because=f'There is no sandbox called "{prefer}". Choose one of {", ".join(MAKERS)}.')
    reasons = []
    for name, make in MAKERS.items():
        if prefer in ("", name):
            try:
                sandbox: Sandbox = make(limits)
                ran = sandbox.run(PROBE, [Call(function="probe")])
            except ExaminationError as problem:
                reasons.append(str(problem))
                continue
            if ran.ended == "done":
                return sandbox
            reasons.append(f"A harmless program did not come to its end in {name} ({ran.ended}).")
    return Unavailable(because="Programs cannot be run safely here. " + " ".join(reasons))
