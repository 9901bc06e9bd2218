"""Which engine answers: the one place where a live runtime is chosen by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from academy.errors import InputError
from academy.models.base_model import BaseModel
from academy.serving.runtimes.base import Admit, LiveRuntime
from academy.settings import Settings

Engine = Literal["peft", "llamacpp", "vllm", "ollama"]
ENGINES: tuple[str, ...] = get_args(Engine)


def make_runtime(
    settings: Settings,
    base: BaseModel,
    engine: str,
    url: str = "",
    admit: Admit | None = None,
    merged_gguf: Callable[[Path], Path] | None = None,
    seen_as: str = "",
) -> LiveRuntime:
    """A runtime of this base model that was not started yet. `url` is where an engine answers that runs elsewhere.

    `admit` decides what it loads; `merged_gguf` writes base and adapter as one file for engines that take no adapters;
    `seen_as` is where vLLM's server sees this home's folder of adapters, if that is elsewhere than here. Raises
    InputError for an engine that is not there, and for an address where none is wanted or one is missing.
    """
    key = settings.endpoint_key.get_secret_value()
    if engine not in ENGINES:
        raise InputError(f"'{engine}' is no runtime.", f"Choose one of {', '.join(ENGINES)}.")
    if seen_as and engine != "vllm":
        raise InputError(f"The runtime {engine} reads no folder of adapters elsewhere.", "Leave --seen-as away.")
    if seen_as and not PurePosixPath(seen_as).is_absolute():
        raise InputError(f"'{seen_as}' is no absolute path.", "Give the folder as vLLM's server sees it: /adapters.")
    if engine == "peft":
        if url:
            raise InputError("The runtime peft answers in this process.", "Leave --runtime-url away.")
        from academy.serving.runtimes.peft_live import PeftLive

        return PeftLive(base, admit)
    if engine == "llamacpp":
        from academy.serving.runtimes.llamacpp import LlamaCppRuntime

        return LlamaCppRuntime(base, settings.folder("gguf"), url=url, key=key, admit=admit)
    if not url:
        raise InputError(f"Where {engine} answers is not said.", "Give --runtime-url http://host:port.")
    if engine == "vllm":
        from academy.serving.runtimes.vllm import VllmRuntime

        return VllmRuntime(url, base, seen_as=seen_as or None, key=key, admit=admit)
    from academy.serving.runtimes.ollama import OllamaRuntime

    place, _, model = url.partition("#")
    if not model:
        raise InputError(
            "Which of Ollama's models is the base model is not said.", "Give --runtime-url http://host:port#model."
        )
    return OllamaRuntime(
        place, base, model=model, merged_gguf=merged_gguf, key=key, admit=admit,
    )  # fmt: skip
