"""How to install what an optional part of the Academy needs, on the machine that lacks it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

DISTRIBUTION = "the-academy"
ROOT = Path(__file__).parents[2]
"""The clone, if the Academy runs from one."""


def install_remedy(extra: str) -> str:
    """A command that installs the packages of an extra for this Python.

    It names the packages themselves, because no registry has a distribution of the Academy. In a clone the command
    also keeps the versions that were tried together.
    """
    packages = [shlex.quote(str(requirement)) for requirement in _packages(extra)]
    if not packages:
        return f"Install what the extra `{extra}` in the Academy's pyproject.toml names."
    constraints = ROOT / "constraints.txt"
    pins = ["-c", shlex.quote(str(constraints))] if constraints.is_file() else []
    return f"Run: {' '.join([shlex.quote(sys.executable), '-m', 'pip', 'install', *pins, *packages])}"


def _packages(extra: str) -> Iterator[Requirement]:
    """The requirements of an extra. None where the code is mounted and not installed, as in training containers."""
    try:
        requirements = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return
    for requirement in requirements:
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            requirement.marker = None
            yield requirement
