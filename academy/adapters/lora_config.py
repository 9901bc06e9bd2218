"""An adapter's configuration: plain LoRA, rsLoRA or DoRA on linear layers, and nothing that loads or runs code.

This module lists every key that PEFT 0.21 writes with its allowed values. Any other key or value is refused by name,
so a later PEFT cannot give a file a meaning that was not reviewed. Raises AdapterError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from academy.adapters.tensors import TensorSpan
from academy.errors import AdapterError

LARGEST_RANK = 256
LARGEST_ALPHA = 4096
NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
"""Names of modules. PEFT reads some of them as regular expressions, which could run without end."""
MAX_NAME = 256
MAX_NAMES = 1024
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
"""Keys that must be null: they import modules, read files, replace layers, or change the base model."""
CHECKED = frozenset(("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "target_modules",
                     "base_model_name_or_path", "peft_version", "qalora_group_size"))  # fmt: skip
NEEDED = frozenset(("peft_type", "r", "lora_alpha", "target_modules"))


def check_config(config: Any) -> dict[str, Any]:
    """Return the configuration if all keys and values are allowed."""
    if not isinstance(config, dict):
        _refuse("it is not a JSON object.")
    if missing := sorted(NEEDED - config.keys()):
        _refuse(f"{missing[0]} is missing.")
    for key, value in config.items():
        if key in ABSENT:
            if value is not None:
                _refuse(f"{key} is set, which is not supported here.")
        elif key in ONLY:
            if not any(type(value) is type(choice) and value == choice for choice in ONLY[key]):
                _refuse(f"{key} is {_quoted(value)}; allowed: {' or '.join(_quoted(choice) for choice in ONLY[key])}.")
        elif key not in CHECKED:
            _refuse(f"the key {_quoted(key)} is unknown.")
    _check_numbers(config)
    targets = config["target_modules"]
    if not isinstance(targets, list) or not 0 < len(targets) <= MAX_NAMES or not all(map(_is_name, targets)):
        _refuse("target_modules is not a list of names.")
    for name in ("base_model_name_or_path", "peft_version"):  # informational only
        if not isinstance(config.get(name), str | None):
            _refuse(f"{name} is not a text.")
    return config


def _check_numbers(config: Mapping[str, Any]) -> None:
    _whole("r", config["r"])
    _positive("lora_alpha", config["lora_alpha"])
    dropout = config.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        _refuse(f"lora_dropout is {_quoted(dropout)}.")
    if type(config.get("qalora_group_size", 0)) is not int:  # PEFT always writes it, for a method that is not allowed
        _refuse("qalora_group_size is not an integer.")
    for name, check in (("rank_pattern", _whole), ("alpha_pattern", _positive)):
        for module, value in _pattern(name, config.get(name)).items():
            check(f"{name} of {module}", value)


def check_tensors(config: Mapping[str, Any], layout: Mapping[str, TensorSpan]) -> None:
    """Refuse tensors that are not pairs of A (rank, in) and B (out, rank) for the configured modules and ranks."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, span in layout.items():
        match = KEY.fullmatch(name)
        if match is None:
            _refuse(f"the weights contain {name}, which does not belong to a LoRA.")
        parts = shapes.setdefault(match["module"], {})
        part = match["part"] or "DoRA"
        if part in parts:
            _refuse(f"the weights contain two {part} tensors for {match['module']}.")
        parts[part] = span.shape
    expected_parts = {"A", "B", "DoRA"} if config.get("use_dora") else {"A", "B"}
    targets = tuple(config["target_modules"])
    for module, parts in shapes.items():
        if parts.keys() != expected_parts:
            _refuse(f"{module} has {' and '.join(sorted(parts))} instead of {' and '.join(sorted(expected_parts))}.")
        rank = of_module(config.get("rank_pattern"), module, config["r"])
        a, b, magnitude = parts["A"], parts["B"], parts.get("DoRA")
        if len(a) != 2 or len(b) != 2 or a[0] != rank or b[1] != rank:
            _refuse(f"the tensors of {module} have shapes {a} and {b}, not rank {rank}.")
        if magnitude is not None and (math.prod(magnitude) != b[0] or max(magnitude) != b[0]):
            _refuse(f"the magnitudes of {module} have the shape {magnitude}.")
        if not any(f".{module}".endswith(f".{target}") for target in targets):
            _refuse(f"the weights change {module}, which is not in target_modules.")
    for target in targets:
        if not any(f".{module}".endswith(f".{target}") for module in shapes):
            _refuse(f"target_modules contains {target}, but the weights have no tensor for it.")


def of_module(pattern: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """The value of a pattern whose name matches the end of the module's name."""
    return next((value for name, value in (pattern or {}).items() if f".{module}".endswith(f".{name}")), otherwise)


def _pattern(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_NAMES or not all(map(_is_name, value)):
        _refuse(f"{name} is not a mapping of names to values.")
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_NAME and NAME.fullmatch(value) is not None


def _whole(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= LARGEST_RANK:
        _refuse(f"{name} is {_quoted(value)}; a rank is an integer from 1 to {LARGEST_RANK}.")


def _positive(name: str, value: Any) -> None:
    if type(value) not in (int, float) or not 0 < value <= LARGEST_ALPHA:
        _refuse(f"{name} is {_quoted(value)}; it must be above 0 and at most {LARGEST_ALPHA}.")


def _quoted(value: Any) -> str:
    return ascii(value)[:80]


def _refuse(because: str) -> NoReturn:
    raise AdapterError(f"The adapter's configuration is refused: {because}", "Train again, or export a plain LoRA.")
