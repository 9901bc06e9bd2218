"""`python -m academy.habitat.trainer.smoke`: can a trainer run here? Prints one line of JSON.

It imports what every training imports and what only some do: bitsandbytes if it is installed, and Unsloth if a GPU is
visible as well. A visible GPU does one step of arithmetic, because torch may see a GPU for which it has no kernels.
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
"""Length limit of an error's text."""


def smoke_test() -> dict[str, Any]:
    """Versions, the first GPU, what fails on it (`fault`), and libraries that cannot be imported (`broken`)."""
    has_gpu = torch.cuda.is_available()
    # importing Unsloth changes transformers and TRL, so it comes before them; without a GPU it cannot be imported
    versions, failures = optional_libraries(("unsloth", "bitsandbytes") if has_gpu else ("bitsandbytes",))
    # the import itself is the test
    from academy.habitat.trainer.train import LIBRARIES

    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES} | versions,
        "gpu": torch.cuda.get_device_name(0) if has_gpu else "",
        "fault": compute_on("cuda") if has_gpu else "",
        "broken": failures,
    }


def optional_libraries(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the libraries that can be imported, and the errors of those that are installed and cannot."""
    versions, failures = {}, {}
    for name in names:
        if find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
        except Exception as problem:  # noqa: BLE001 - with a wrong GPU or driver, such libraries raise errors of any kind
            failures[name] = _one_line(problem)
    return versions, failures


def compute_on(device: str) -> str:
    """Compute a small product and its gradient in a training's data type. Returns what failed, or an empty string."""
    from academy.habitat.trainer.model import dtype_on

    try:
        a = torch.ones(64, 64, dtype=dtype_on(device), device=device, requires_grad=True)
        (a @ a).float().sum().backward()
        gradient = 0.0 if a.grad is None else float(a.grad.float().mean())  # waits for the device
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        return _one_line(problem)
    return "" if gradient == 2 * 64 else f"a gradient is {gradient:g} instead of {2 * 64}"


def _one_line(problem: Exception) -> str:
    """The first line of an error; CUDA's errors have many."""
    first_line = str(problem).strip().partition("\n")[0]
    return f"{type(problem).__name__}: {first_line}"[:LONGEST]


if __name__ == "__main__":
    sys.stdout.write(orjson.dumps(smoke_test()).decode() + "\n")
