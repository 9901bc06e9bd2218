"""Live runtimes by name: this project's own, and those of installed packages (entry points "academy.runtimes")."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from academy.models.base_model import BaseModel
from academy.serving.runtimes.base import Admit, LiveRuntime, RuntimeContext, RuntimeFactory
from academy.settings import Settings
from academy.system.plugins import Group, load_plugin

GROUP: Group = "academy.runtimes"
RUNTIMES: Mapping[str, str] = {
    "peft": "academy.serving.runtimes.peft_live:make",
    "llamacpp": "academy.serving.runtimes.llamacpp:make",
    "vllm": "academy.serving.runtimes.vllm:make",
    "ollama": "academy.serving.runtimes.ollama:make",
}
"""Name -> "module:factory". A module is imported only when its runtime is asked for."""


def make_runtime(
    settings: Settings,
    base: BaseModel,
    name: str,
    url: str = "",
    admit: Admit | None = None,
    merged_gguf: Callable[[Path], Path] | None = None,
    seen_as: str = "",
) -> LiveRuntime:
    """A live runtime for this base model, not started yet. RuntimeContext describes the arguments.

    Raises InputError for an unknown name, and for a URL or folder that the runtime needs and lacks or does not take.
    """
    factory: RuntimeFactory = load_plugin(GROUP, name, RUNTIMES)
    return factory(
        RuntimeContext(settings=settings, base=base, admit=admit, url=url, seen_as=seen_as, merged_gguf=merged_gguf)
    )
