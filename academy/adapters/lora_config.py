"""An adapter's configuration: plain LoRA, rsLoRA or DoRA on linear layers, and nothing that loads or runs anything.

Every key that PEFT 0.21 writes is known here with the values that may stand there; any other key or value is refused
by its name. So a later PEFT cannot give a file a meaning that nobody has looked at. Raises AdapterError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from academy.adapters.tensors import Place
from academy.errors import AdapterError

LARGEST_RANK = 256
LARGEST_ALPHA = 4096
NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""Modules are told by names. PEFT reads some of them as regular expressions, and one can take for ever."""
LONGEST_NAME = 256
NAMES = 1024
KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?:(?P<part>A|B)\.weight|(?P<dora>magnitude_vector)(?:\.weight)?)"
)

ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",), "task_type": ("CAUSAL_LM", None), "bias": ("none",), "lora_bias": (False,),
    "init_lora_weights": (True, False, "gaussian"), "inference_mode": (True, False), "fan_in_fan_out": (True, False),
    "use_dora": (True, False), "use_rslora": (True, False), "use_qalora": (False,), "ensure_weight_tying": (False,),
    "megatron_core": ("megatron.core", None), "loftq_config": ({}, None),
}  # fmt: skip
ABSENT = frozenset((
    "alora_invocation_tokens", "arrow_config", "auto_mapping", "corda_config", "eva_config", "exclude_modules",
    "kasa_config", "layer_replication", "layers_pattern", "layers_to_transform", "lora_ga_config", "megatron_config",
    "modules_to_save", "monteclora_config", "revision", "runtime_config", "target_parameters",
    "trainable_token_indices", "use_bdlora", "velora_config",
))  # fmt: skip
"""May stand there with null alone: they import modules, read files, replace layers, or change the base model."""
CHECKED = frozenset(("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "target_modules",
                     "base_model_name_or_path", "peft_version", "qalora_group_size"))  # fmt: skip
NEEDED = frozenset(("peft_type", "r", "lora_alpha", "target_modules"))


def check_config(config: Any) -> dict[str, Any]:
    """Refuse whatever is not known to be harmless; returns the configuration."""
    if not isinstance(config, dict):
        _refuse("it is no object.")
    if missing := sorted(NEEDED - config.keys()):
        _refuse(f"{missing[0]} is missing.")
    for key, value in config.items():
        if key in ABSENT:
            if value is not None:
                _refuse(f"{key} is set, which an adapter that is served here cannot have.")
        elif key in ONLY:
            if not any(type(value) is type(one) and value == one for one in ONLY[key]):
                _refuse(f"{key} is {_shown(value)}; allowed is {' or '.join(_shown(one) for one in ONLY[key])}.")
        elif key not in CHECKED:
            _refuse(f"{_shown(key)} is no key of a LoRA configuration that is known here.")
    _check_numbers(config)
    targets = config["target_modules"]
    if not isinstance(targets, list) or not 0 < len(targets) <= NAMES or not all(map(_is_name, targets)):
        _refuse("target_modules is no list of names.")
    for name in ("base_model_name_or_path", "peft_version"):  # neither is ever looked up
        if not isinstance(config.get(name), str | None):
            _refuse(f"{name} is no text.")
    return config


def _check_numbers(config: Mapping[str, Any]) -> None:
    _whole("r", config["r"])
    _positive("lora_alpha", config["lora_alpha"])
    dropout = config.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        _refuse(f"lora_dropout is {_shown(dropout)}.")
    if type(config.get("qalora_group_size", 0)) is not int:  # of a method that is not allowed; PEFT writes it always
        _refuse("qalora_group_size is no whole number.")
    for name, check in (("rank_pattern", _whole), ("alpha_pattern", _positive)):
        for module, value in _pattern(name, config.get(name)).items():
            check(f"{name} of {module}", value)


def check_tensors(config: Mapping[str, Any], layout: Mapping[str, Place]) -> None:
    """Refuse tensors that are not pairs of A (rank, in) and B (out, rank) of the modules and ranks that are named."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, place in layout.items():
        match = KEY.fullmatch(name)
        if match is None:
            _refuse(f"the weights hold {name}, which is no part of a LoRA.")
        parts = found.setdefault(match["module"], {})
        part = match["part"] or "DoRA"
        if part in parts:
            _refuse(f"the weights hold two tensors for one place of {match['module']}.")
        parts[part] = place.shape
    wanted = {"A", "B", "DoRA"} if config.get("use_dora") else {"A", "B"}
    targets = tuple(config["target_modules"])
    for module, parts in found.items():
        if parts.keys() != wanted:
            _refuse(f"{module} has {' and '.join(sorted(parts))} instead of {' and '.join(sorted(wanted))}.")
        rank = of_module(config.get("rank_pattern"), module, config["r"])
        a, b, magnitude = parts["A"], parts["B"], parts.get("DoRA")
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            _refuse(f"the tensors of {module} have shapes {a} and {b}, which is not rank {rank}.")
        if magnitude is not None and (math.prod(magnitude) != b[0] or max(magnitude) != b[0]):
            _refuse(f"the magnitudes of {module} have the shape {magnitude}.")
        if not any(f".{module}".endswith(f".{target}") for target in targets):
            _refuse(f"the weights change {module}, which target_modules does not name.")
    for target in targets:
        if not any(f".{module}".endswith(f".{target}") for module in found):
            _refuse(f"target_modules names {target}, and the weights have no tensor for it.")


def of_module(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """A pattern's value for a module, by the end of the module's name."""
    return next((value for name, value in (pattern or {}).items() if f".{module}".endswith(f".{name}")), otherwise)


def _pattern(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > NAMES or not all(map(_is_name, value)):
        _refuse(f"{name} is no list of names with values.")
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME and NAME.fullmatch(value) is not None


def _whole(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= LARGEST_RANK:
        _refuse(f"{name} is {_shown(value)}; a rank is a whole number from 1 to {LARGEST_RANK}.")


def _positive(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value <= LARGEST_ALPHA:
        _refuse(f"{name} is {_shown(value)}; it must be over 0 and at most {LARGEST_ALPHA}.")


def _shown(value: Any) -> str:
    return ascii(value)[:80]


def _refuse(because: str) -> NoReturn:
    raise AdapterError(f"The adapter's configuration is refused: {because}", "Train again, or export a plain LoRA.")
