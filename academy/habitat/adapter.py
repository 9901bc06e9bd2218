"""An adapter on the disk: safetensors, configuration, chat template and a manifest.

Its digest covers the tensors and the configuration in canonical form (sorted keys and modules) and no time, so the
same training gives the same digest. Reading one refuses what could run code or what was altered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from academy.artifacts import Record, canonical, digest_of_bytes, digest_of_file
from academy.errors import AdapterError
from academy.professor import Recipe
from academy.template import FILE as TEMPLATE_FILE

WEIGHTS, CONFIG, MANIFEST = "adapter_model.safetensors", "adapter_config.json", "manifest.json"
FILES = (WEIGHTS, CONFIG, TEMPLATE_FILE)


class Canary(Record):
    """A prompt and what the adapter answered to it, greedily, at the end of its training; and what the base said."""

    prompt: str
    answer: str
    logprobs: tuple[float, ...] = ()  # natural, of each token that was generated, the end token among them
    prompt_tokens: int = 0  # of the prompt as the template renders it
    base_answer: str = ""
    base_logprobs: tuple[float, ...] = ()  # what the base alone gives the adapter's tokens
    base_answer_logprobs: tuple[float, ...] = ()  # of each token of the base's own answer


class Manifest(Record):
    """What an adapter is made of. It holds no time: the same training writes the same manifest."""

    adapter: str  # the digest
    files: dict[str, str]  # name -> sha256
    base_name: str
    base_digest: str
    dataset: str
    train_digest: str
    order: str
    template: str
    special_tokens: dict[str, str]
    recipe: Recipe
    trainer: str  # which library trained it
    versions: dict[str, str]
    threads: int  # of the training: another number gives other last digits, so other bytes
    examples: int
    supervised_tokens: int
    steps: int
    loss: float  # of the last logged step
    canaries: tuple[Canary, ...]
    signature: str = ""


class Adapter(Record):
    """A reference to an adapter whose files were checked."""

    path: Path
    manifest: Manifest

    @property
    def digest(self) -> str:
        """The adapter's identity."""
        return self.manifest.adapter


def digest_of_adapter(folder: Path) -> str:
    """sha256 over tensors (by name: type, shape, bytes) and canonical configuration."""
    weights = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = orjson.loads(weights[8 : 8 + length])
    chunks = []
    for name, entry in sorted(header.items()):
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            chunks += [canonical([name, entry["dtype"], entry["shape"]]), weights[begin:end]]
    return digest_of_bytes(canonical(orjson.loads((folder / CONFIG).read_bytes())), *chunks)


def canonical_config(config: dict[str, Any], base_name: str) -> bytes:
    """PEFT writes modules in the order of a hash seed, and the base model's path: sort the one, name the other."""
    settled = {key: sorted(value) if isinstance(value, list) else value for key, value in config.items()}
    settled["base_model_name_or_path"] = base_name
    return orjson.dumps(settled, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


def read_adapter(folder: Path, *, base_digest: str | None = None, digest: str | None = None) -> Adapter:
    """Check an adapter's files against its manifest and return it.

    Raises AdapterError where a file is missing or altered, where it is not the expected adapter, or where it was
    trained on another base model than `base_digest`.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except FileNotFoundError as problem:
        raise AdapterError(
            f"There is no adapter in {folder}.", "Train again: the same order gives the same bytes."
        ) from problem
    except ValidationError as problem:
        raise AdapterError(
            f"The manifest in {folder} cannot be read.", "The adapter is refused; train again."
        ) from problem
    for name in FILES:
        path = folder / name
        if path.is_symlink() or not path.is_file() or digest_of_file(path) != manifest.files.get(name):
            raise AdapterError(f"{name} in {folder} is missing or was altered.", "The adapter is refused; train again.")
    if digest_of_adapter(folder) != manifest.adapter or (digest and digest != manifest.adapter):
        raise AdapterError(
            f"{folder} holds another adapter than its name says.", "The adapter is refused; train again."
        )
    if base_digest and manifest.base_digest != base_digest:
        raise AdapterError(
            f"ADAPTER_BASE_MODEL_MISMATCH: the adapter was trained on {manifest.base_name}, another base model.",
            "Choose the base model that it was trained on, with --base-model.",
        )
    return Adapter(path=folder, manifest=manifest)
