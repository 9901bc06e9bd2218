"""Which engine answers: the one place where a live runtime is chosen by its name."""

from __future__ import annotations

from typing import Literal, get_args

from academy.base_model import BaseModel
from academy.errors import InputError
from academy.serving.runtime import LiveRuntime
from academy.settings import Settings

Engine = Literal["peft", "llamacpp", "vllm", "ollama"]
ENGINES: tuple[str, ...] = get_args(Engine)


def make_runtime(settings: Settings, base: BaseModel, engine: str, url: str = "") -> LiveRuntime:
    """A runtime of this base model that was not started yet. `url` is where an engine answers that runs elsewhere.

    Raises InputError for an engine that is not there, and for an address where none is wanted.
    """
    del settings  # where engines that keep files of their own put them
    if engine not in ENGINES:
        raise InputError(f"'{engine}' is no runtime.", f"Choose one of {', '.join(ENGINES)}.")
    if engine != "peft":
        raise InputError(f"The runtime {engine} cannot be served with yet.", "Choose --runtime peft.")
    if url:
        raise InputError("The runtime peft answers in this process.", "Leave --runtime-url away.")
    from academy.serving.live import PeftLive

    return PeftLive(base)
