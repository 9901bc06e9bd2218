"""Implementations of a seam by name: our own, and those that installed packages add by an entry point.

A package adds one in its pyproject.toml:

    [project.entry-points."academy.runtimes"]
    mine = "my_package.runtime:MyRuntime"

Nothing is imported until its name is requested, so an installed package that no setting names runs no code here.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from academy.errors import InputError

Group = Literal["academy.sources", "academy.suites", "academy.runtimes", "academy.backends"]


def plugin_names(group: Group, own: Mapping[str, str]) -> list[str]:
    """Names of all implementations, our own first. Loads none of them."""
    return [*own, *sorted({point.name for point in entry_points(group=group)} - own.keys())]


def load_plugin(group: Group, name: str, own: Mapping[str, str]) -> Any:
    """Load the implementation called `name`. `own` maps our names to "module:attribute".

    A package cannot replace one of our names. Raises InputError for an unknown name, a name that two packages claim,
    and an implementation that does not import.
    """
    kind = group.partition(".")[2].removesuffix("s")
    if name in own:
        return EntryPoint(name=name, value=own[name], group=group).load()
    points = list(entry_points(group=group, name=name))
    if not points:
        raise InputError(f"There is no {kind} {name!r}.", f"Choose one of {', '.join(plugin_names(group, own))}.")
    if len(points) > 1:
        packages = " and ".join(sorted(point.dist.name if point.dist else "an unknown package" for point in points))
        raise InputError(f"{packages} both provide a {kind} {name!r}.", "Uninstall one of them.")
    try:
        return points[0].load()
    except Exception as problem:  # code of another package may raise anything while it is imported
        reason = (
            str(problem)
            if isinstance(problem, ImportError | AttributeError)
            else f"{type(problem).__name__}: {problem}"
        )
        raise InputError(
            f"The {kind} {name!r} cannot be loaded from {points[0].value}: {reason}.",
            "Fix or reinstall the package that provides it.",
        ) from problem
