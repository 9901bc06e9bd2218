"""`python -m academy.habitat.trainer.smoke`: can a trainer run here? Prints one line of JSON.

Besides what every training imports it tries what only some do: bitsandbytes is imported where it is installed, Unsloth
where a GPU is seen as well, and a GPU that is seen does one step of arithmetic, for a torch may see a GPU that it has
no kernels for.
"""

from __future__ import annotations

import importlib
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import orjson
import torch

LONGEST = 200
"""Of the words of what was raised."""


def look() -> dict[str, Any]:
    """What is here: versions, the first GPU, what fails on it (`fault`), and libraries that cannot be imported."""
    seen = torch.cuda.is_available()
    # Unsloth changes transformers and TRL as it is imported, so it comes before them; without a GPU it refuses
    versions, broken = optional(("unsloth", "bitsandbytes") if seen else ("bitsandbytes",))
    # what it imports is what is tried
    from academy.habitat.trainer.train import LIBRARIES

    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES} | versions,
        "gpu": torch.cuda.get_device_name(0) if seen else "",
        "fault": step("cuda") if seen else "",
        "broken": broken,
    }


def optional(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Of these libraries, versions of those that can be imported, and why those that are installed cannot."""
    versions, broken = {}, {}
    for name in names:
        if find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
        except Exception as problem:  # noqa: BLE001 - such libraries raise all kinds where a GPU or driver is not theirs
            broken[name] = _words(problem)
    return versions, broken


def step(device: str) -> str:
    """One small product and its gradient there, in the numbers of a training; what went wrong, else empty."""
    from academy.habitat.trainer.model import dtype_on

    try:
        a = torch.ones(64, 64, dtype=dtype_on(device), device=device, requires_grad=True)
        (a @ a).float().sum().backward()
        found = 0.0 if a.grad is None else float(a.grad.float().mean())  # waits for the device
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        return _words(problem)
    return "" if found == 2 * 64 else f"a gradient of {2 * 64} came out as {found:g}"


def _words(problem: Exception) -> str:
    """One line, for CUDA's own are many."""
    said = str(problem).strip().partition("\n")[0]
    return f"{type(problem).__name__}: {said}"[:LONGEST]


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(look()).decode() + "\n")
