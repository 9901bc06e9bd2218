"""Runs programs that a model wrote, contained, and gives back plain data; the verdict on it is made by the caller.

    records     Call, Value, Ran, Limits, Sandbox, Unavailable
    harness     runs inside; its source goes in as it is
    answer      the request, and reading the answer outside with no trust in it
    bubblewrap  Linux namespaces, a user number, seccomp, a cgroup
    container   a Docker engine: a container for each program
    image       what is in it: this Python and nothing else, or an image of a registry
    engine      how the engine is reached, and what killed users left there
    seccomp     the system calls that both refuse
    users       user numbers of one run each

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

NAMES = ("bubblewrap", "docker")
PROBE = "def probe():\n    return 1\n"


def find_sandbox(prefer: str = "", limits: Limits | None = None, image: str = "") -> Sandbox | Unavailable:
    """The sandbox of this name, or the first that runs here: bubblewrap, then Docker. Each is tried once, harmlessly.

    A name that is given is the only one tried: nobody gets a weaker containment than was asked for. `image` is what
    Docker runs, by name or digest; empty: the one made of this Python.
    """
    if prefer and prefer not in NAMES:
        return Unavailable(because=f'There is no sandbox called "{prefer}". Choose one of {", ".join(NAMES)}.')
    reasons = []
    for name in NAMES:
        if prefer in ("", name):
            try:
                sandbox: Sandbox = BubblewrapSandbox(limits) if name == "bubblewrap" else DockerSandbox(limits, image)
                ran = sandbox.run(PROBE, [Call(function="probe")])
            except ExaminationError as problem:
                reasons.append(str(problem))
                continue
            if ran.ended == "done":
                return sandbox
            reasons.append(f"A harmless program did not come to its end in {name} ({ran.ended}).")
    return Unavailable(because="Programs cannot be run safely here. " + " ".join(reasons))
