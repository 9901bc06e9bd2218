"""The configuration of a base model: nothing in it may name code, other files, or sizes that no machine has.

transformers reads these files and does what they say: it imports modules, loads kernels from the hub, opens other
files, and builds as many layers as a number asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import orjson

from academy.errors import BaseModelError
from academy.models.strict_json import strict_json

CODE_KEYS = frozenset(("auto_map", "custom_pipelines", "custom_generate"))
ATTENTION = re.compile(r"_*(?:attn|attention|experts)_implementation(?:_internal)?")
"""Keys whose value can be the name of a repository with kernels."""
BUILT_IN = frozenset(("eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm"))
"""Implementations that are part of torch and transformers."""
FILE_KEYS = frozenset(("transformers_weights", "gguf_file"))
VOCABULARY_KEYS = frozenset(("vocab_file", "merges_file", "tokenizer_file", "spm_file", "sp_model_file"))
PLAIN_FILE = re.compile(r"[\w][\w.-]*", re.ASCII)
TOKENIZER = re.compile(r"(?!Auto)\w*Tokenizer(?:Fast)?|TokenizersBackend|SentencePieceBackend|PythonBackend", re.ASCII)
"""Names of classes that are tokenizers. With another name transformers would load any class of its own."""
QUANTISED = frozenset(("bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4"))
LAYERS = re.compile(r"(?!max_)(?:\w+_)?(?:layers?|blocks|depth)")
EXPERTS = re.compile(r"(?:\w+_)?experts")
MOST_EXPERTS = 4096
MOST_LABELS = 4096
"""transformers makes a name for each label."""
LONGEST_CONTEXT = 1 << 31
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
REPEATED = re.compile(r"\*|\+|\{\d*,\}")
GROWTH = 64
"""How many times longer a tokenizer may make a text."""


def check_settings(name: str, files: Mapping[str, Path]) -> None:
    """Check the JSON files of a base model. Raises BaseModelError for settings that load code or other files."""
    for file, path in files.items():
        if file.endswith("config.json") or file in TOKENIZER_FILES or file == "chat_template.json":
            content = strict_json(path.read_bytes(), f"{file} of {name}", "Copy the model again.")
            if not isinstance(content, dict):
                _refuse(name, file, "is not a JSON object", "Copy the model again.")
            for key, value in _settings(content):
                _check_code(name, file, key, value)
            if file == "config.json":
                _check_model(name, content)
            elif file == "tokenizer_config.json":
                _check_tokenizer_config(name, content)
    if "tokenizer.json" in files:
        _check_tokenizer(name, files["tokenizer.json"])


def check_sizes(name: str, config: Path, tensors: int) -> None:
    """Raises BaseModelError for a configuration with more layers than there are tensors."""
    for key, value in _settings(orjson.loads(config.read_bytes())):
        _check_size(name, key, value, tensors)


def _settings(value: Any) -> Iterator[tuple[str, Any]]:
    """All names and values of an object and of what is inside of it."""
    values = [value]
    while values:
        inner = values.pop()
        if isinstance(inner, dict):
            yield from inner.items()
            values += inner.values()
        elif isinstance(inner, list):
            values += inner


def _check_code(name: str, file: str, key: str, value: Any) -> None:
    if key in CODE_KEYS and value:
        raise BaseModelError(
            f"The base model {name} needs its own code ({key} in {file}).", "Choose one that transformers supports."
        )
    if ATTENTION.fullmatch(key):
        choices = value.values() if isinstance(value, dict) else [value]
        if not all(choice is None or choice in BUILT_IN for choice in choices if not isinstance(choice, dict | list)):
            _refuse(
                name, file, f"has {key} = {_quoted(value)}, which can load code from the hub",
                f"Remove it from {file}, or use one of {', '.join(sorted(BUILT_IN))}.",
            )  # fmt: skip
        if any(isinstance(choice, dict | list) for choice in choices):
            _refuse(name, file, f"has a nested {key}", f"Remove it from {file}.")
    if key in FILE_KEYS and value is not None:
        _refuse(name, file, f"names another file for the weights ({key})", f"Remove {key} from {file}.")
    if key == "tokenizer_class" and value is not None and not (isinstance(value, str) and TOKENIZER.fullmatch(value)):
        _refuse(
            name, file, f"has tokenizer_class = {_quoted(value)}, which is not a tokenizer", "Choose another model."
        )
    if key == "quantization_config" and value is not None:
        method = value.get("quant_method", "bitsandbytes") if isinstance(value, dict) else value
        if method not in QUANTISED:
            _refuse(
                name, file, f"has weights that are quantised by {_quoted(method)}",
                f"Use a model without quantised weights, or one of {', '.join(sorted(QUANTISED))}.",
            )  # fmt: skip


def _check_size(name: str, key: str, value: Any, tensors: int) -> None:
    """Building a layer takes time and memory, whether or not it has weights."""
    if type(value) is not int:
        return
    most = tensors if LAYERS.fullmatch(key) else MOST_EXPERTS if EXPERTS.fullmatch(key) else None
    most = MOST_LABELS if key == "num_labels" else most
    if most is not None and value > most:
        _refuse(
            name, "config.json", f"has {key} = {value:,} (maximum {most:,} for {tensors:,} tensors)",
            "Download the model again from a source that you trust.",
        )  # fmt: skip


def _check_model(name: str, content: Mapping[str, Any]) -> None:
    for key in ("max_position_embeddings", "n_positions"):
        value = content.get(key)
        if value is not None and not (type(value) is int and 0 < value < LONGEST_CONTEXT):
            _refuse(name, "config.json", f"has {key} = {_quoted(value)}, which is not a length", "Correct it.")


def _check_tokenizer_config(name: str, content: Mapping[str, Any]) -> None:
    file = "tokenizer_config.json"
    if content.get("init_inputs"):
        _refuse(name, file, "has init_inputs, which can name other files", f"Remove init_inputs from {file}.")
    for key in sorted(VOCABULARY_KEYS & content.keys()):
        value = content[key]
        if value is not None and not (isinstance(value, str) and PLAIN_FILE.fullmatch(value)):
            _refuse(name, file, f"names a file outside of its folder ({key})", f"Remove {key} from {file}.")
    versions = content.get("fast_tokenizer_files")
    if versions is not None and not (
        isinstance(versions, list) and all(isinstance(v, str) and PLAIN_FILE.fullmatch(v) for v in versions)
    ):
        _refuse(name, file, "names tokenizers outside of its folder (fast_tokenizer_files)", "Remove that setting.")


def _check_tokenizer(name: str, path: Path) -> None:
    """Refuse rules that take exponential time, at which the tokenizers library aborts, or that blow texts up."""
    try:
        content = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as problem:
        raise BaseModelError(
            f"tokenizer.json of {name} is not valid JSON ({problem}).", "Copy the model again."
        ) from None
    if not isinstance(content, dict):
        _refuse(name, "tokenizer.json", "is not a JSON object", "Copy the model again.")
    rules = [content.get(part) for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder")]
    growth = 1.0
    for key, value in _settings(rules):
        if key == "Regex" and isinstance(value, str) and is_exponential(value):
            _refuse(
                name, "tokenizer.json", f"has the pattern {_quoted(value)}, which can take exponential time",
                "Choose another model.",
            )  # fmt: skip
        if key in ("content", "prepend") and isinstance(value, str):
            growth *= max(1, len(value))
    if growth > GROWTH:
        _refuse(name, "tokenizer.json", f"makes texts more than {GROWTH} times longer", "Choose another model.")


def is_exponential(pattern: str) -> bool:
    """Whether a pattern repeats a group without limit that holds a choice or another repetition without limit.

    Without such a group a search that backtracks takes polynomial time. The patterns of real tokenizers have none.
    """
    groups: list[bool] = []  # of each open group: whether it holds a choice or a repetition
    place = 0
    while place < len(pattern):
        character = pattern[place]
        place += 1
        closed = False
        if character == "\\":
            braces = re.compile(r"[pPx]\{[^{}]{0,100}\}").match(pattern, place)
            place = braces.end() if braces else place + 1
        elif character == "[":
            place = _end_of_class(pattern, place)
        elif character == "(":
            groups.append(False)
            continue
        elif character == ")" and groups:
            closed = groups.pop()
            if groups and closed:
                groups[-1] = True
        elif character == "|" and groups:
            groups[-1] = True
            continue
        repetition = REPEATED.match(pattern, place)
        if repetition:
            if closed:
                return True
            place = repetition.end()
            if groups:
                groups[-1] = True
    return False


def _end_of_class(pattern: str, place: int) -> int:
    """The place after a class of characters, which can hold other classes."""
    depth, first = 1, place
    while place < len(pattern) and depth:
        character = pattern[place]
        if character == "\\":
            place += 1
        elif character == "[":
            depth += 1
        elif character == "]" and pattern[first:place] not in ("", "^"):
            depth -= 1
        place += 1
    return place


def _quoted(value: Any) -> str:
    return ascii(value)[:80]


def _refuse(name: str, file: str, because: str, remedy: str) -> NoReturn:
    raise BaseModelError(f"The base model {name} is refused: {file} {because}.", remedy)
