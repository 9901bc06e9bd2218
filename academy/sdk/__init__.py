"""The seed documents' Python classes: `from academy.sdk import GPUHabitat, ModelManager`. Each loads on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from academy.experience.lessons import LessonsStore
    from academy.sdk.dataset_curator import DatasetCurator
    from academy.sdk.gpu_habitat import GPUHabitat
    from academy.sdk.model_manager import ModelManager
    from academy.sdk.professor import Professor

__all__ = ["DatasetCurator", "GPUHabitat", "LessonsStore", "ModelManager", "Professor"]
_MODULES = {
    "DatasetCurator": "academy.sdk.dataset_curator",
    "GPUHabitat": "academy.sdk.gpu_habitat",
    "LessonsStore": "academy.experience.lessons",
    "ModelManager": "academy.sdk.model_manager",
    "Professor": "academy.sdk.professor",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
