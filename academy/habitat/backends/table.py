"""Finds a training backend by name: our own, and those of installed packages (entry points "academy.backends")."""

from __future__ import annotations

from academy.errors import InputError
from academy.habitat.backends.base import TrainingBackend
from academy.system.plugins import Group, load_plugin, plugin_names

GROUP: Group = "academy.backends"
AUTO, PROCESS, CONTAINER = "auto", "process", "container"
BACKENDS = {
    PROCESS: "academy.habitat.backends.process:ProcessBackend",
    CONTAINER: "academy.habitat.backends.container:ContainerBackend",
}
"""Name -> "module:class". A module is imported only when its backend is asked for."""


def find_backend(name: str) -> type[TrainingBackend]:
    """The backend of this name. Raises InputError for an unknown one, and for a package that cannot be imported."""
    names = plugin_names(GROUP, BACKENDS)
    if name not in names:
        raise InputError(
            f"ACADEMY_TRAINING_BACKEND={name} is not a training backend.",
            f"Set it to {', '.join((AUTO, *names[:-1]))} or {names[-1]}, or install the package that adds {name}.",
        )
    implementation: type[TrainingBackend] = load_plugin(GROUP, name, BACKENDS)
    return implementation
