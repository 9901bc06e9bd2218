"""Which files of a base model's folder are loaded, which are ignored, and which are refused.

Every file that a loader opens (transformers, tokenizers, PEFT, our GGUF writer, vLLM) is in the digest. Files that no
loader opens are ignored: documentation, pictures, other formats of the weights, folders. Anything else is refused,
because a loader could read it, and the digest would not cover it: an `adapter_config.json`, for example, makes
transformers add an adapter without a word.
"""

from __future__ import annotations

import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NoReturn

from academy.errors import BaseModelError
from academy.models.weights import INDEX, SINGLE, read_index

MIB = 1 << 20
LOADED = {
    "config.json": 4 * MIB, "generation_config.json": MIB, "special_tokens_map.json": 4 * MIB,
    "added_tokens.json": 8 * MIB, "tokenizer_config.json": 16 * MIB, "tokenizer.json": 128 * MIB,
    "tokenizer*": 128 * MIB, "vocab*": 128 * MIB, "merges.txt": 64 * MIB, "spiece.model": 64 * MIB,
    "sentencepiece*.model": 64 * MIB, "*.tiktoken": 64 * MIB, "tiktoken.model": 64 * MIB, "tekken.json": 128 * MIB,
    "chat_template.jinja": MIB, "chat_template.json": MIB,
    "preprocessor_config.json": MIB, "processor_config.json": MIB, "video_preprocessor_config.json": MIB,
    "quantize_config.json": MIB, "quant_config.json": MIB, "*.safetensors.index.json": 64 * MIB,
}  # fmt: skip
"""Names of loaded files besides the weights, and the most bytes of each. Command A's tokenizer.json has 20 MB."""
TEMPLATES = "additional_chat_templates"
HUB_PATTERNS = (*LOADED, f"{TEMPLATES}/*.jinja", "*.safetensors")
"""What is downloaded from the hub."""
IGNORED = (
    # about the model
    ".*", "*.md", "*.rst", "*.txt", "*.pdf", "*.html", "*.ipynb", "*.csv", "*.tsv", "*.yaml", "*.yml", "*.jsonl",
    "*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "*.webp", "*.mp4", "*.webm", "*.wav", "*.mp3",
    "LICEN[SC]E*", "NOTICE*", "COPYING*", "COPYRIGHT*", "README*", "CITATION*", "Notice*", "License*",
    "USAGE_POLICY*", "USE_POLICY*", "SHA256SUMS", "*.sha256", "*.md5", "*.sig", "*.asc", "*.log", "*.lock",
    # weights for other programs, and pickles, which can run code
    "*.bin", "*.bin.index.json", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.npz", "*.npy", "*.h5", "*.h5.index.json",
    "*.msgpack", "*.msgpack.index.json", "*.ot", "*.tflite", "*.gguf", "*.ggml", "*.onnx", "*.onnx_data*",
    "*.mlmodel", "*.nemo", "*.mlx", "*.tar", "*.tar.gz", "*.zip", "params.json",
    # left by a training or an evaluation
    "trainer_state.json", "*_results.json", "configuration.json", "generation_config_for_text_generation.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "modules.json", "Modelfile", "template", "params",
)  # fmt: skip
"""Names of files that no loader opens."""
REASONS = (
    ("adapter_*", "an adapter, which transformers would add to the model without a word",
     "Merge it into the model, or move it to another folder. The Academy registers adapters by itself."),
    ("*.py", "Python code, which is never run here",
     "Move it to another folder. If the model needs it, choose a model that transformers supports."),
)  # fmt: skip
"""Names that are refused for a reason of their own: pattern, what it is, remedy."""
CODE_FOLDERS = ("custom_generate",)
"""Folders from which transformers imports code."""
SIZE = "The file is damaged, or it is not what its name says. Copy the model again."


def loaded_files(name: str, folder: Path) -> tuple[Path, ...]:
    """The files of a base model that are loaded, in order of their names.

    Raises BaseModelError for a folder without a base model; for a file that is not known, not a regular file or too
    large; for a link out of the folder; and for weights in an ambiguous form.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as problem:
        raise BaseModelError(
            f"The base model's folder {folder} cannot be read: {problem.strerror}.", "Check its permissions."
        ) from problem
    if odd := next((entry for entry in names if not entry.isprintable()), ""):
        _refuse(name, f"contains a file whose name cannot be printed: {ascii(odd)[:120]}", "Remove or rename it.")
    weights = weight_files(name, folder)
    loaded = list(weights)
    for entry in names:
        path = folder / entry
        if path.is_dir():
            loaded += _of_folder(name, path)
        elif path in weights:
            _check_file(name, folder, path, None)
        elif pattern := next((pattern for pattern in LOADED if fnmatchcase(entry, pattern)), ""):
            _check_file(name, folder, path, LOADED[pattern])
            loaded.append(path)
        elif not any(fnmatchcase(entry, pattern) for pattern in IGNORED):
            _check_unknown(name, folder, entry)
    return tuple(sorted(loaded))


def weight_files(name: str, folder: Path) -> tuple[Path, ...]:
    """The safetensors files that transformers loads. Raises BaseModelError."""
    single, index = folder / SINGLE, folder / INDEX
    if not (folder / "config.json").exists() or not (single.exists() or index.exists()):
        raise BaseModelError(
            f"{name} does not contain a base model: config.json and {SINGLE} (or {INDEX}) are required.",
            "Other weight formats are refused because they can run code. Convert the model to safetensors.",
        )
    if not index.exists():
        return (single,)
    if single.exists():
        _refuse(
            name, f"has both {SINGLE} and {INDEX}; programs differ in which they load", "Remove the one that is wrong."
        )
    _check_file(name, folder, index, LOADED["*.safetensors.index.json"])
    return tuple(folder / shard for shard in read_index(name, index))


def _of_folder(name: str, path: Path) -> list[Path]:
    """The loaded files of a folder inside the model's folder. Loaders open no other folder than that of templates."""
    if path.name in CODE_FOLDERS and any(path.rglob("*.py")):
        _refuse(name, f"contains code in {path.name}/, which is never run here", "Move that folder to another place.")
    if path.name != TEMPLATES:
        return []
    files = sorted(path.glob("*.jinja"))
    for file in files:
        _check_file(name, path.parent, file, LOADED["chat_template.jinja"])
    return files


def _check_unknown(name: str, folder: Path, entry: str) -> None:
    """Refuse a file that is neither loaded nor ignored. Safetensors files that an index does not list are ignored."""
    if entry.startswith("adapter_") or not entry.endswith(".safetensors"):
        for pattern, what, remedy in REASONS:
            if fnmatchcase(entry, pattern):
                _refuse(name, f"contains {entry}: {what}", remedy)
        _refuse(
            name,
            f"contains {entry!r}, a file that is not known: a loader could read it, and the digest does not cover it",
            "Move it to a folder inside the model's folder, where no loader looks.",
        )
    if not (folder / INDEX).exists():
        _refuse(
            name,
            f"contains {entry} beside {SINGLE}; some programs load all safetensors files",
            "Move it to a folder inside the model's folder, or add an index.",
        )


def _check_file(name: str, folder: Path, path: Path, most: int | None) -> None:
    """Refuse a file that does not exist, lies elsewhere, is not a regular file or is too large."""
    entry = path.relative_to(folder)
    try:
        target = path.resolve(strict=True)
        status = target.stat()
    except (OSError, RuntimeError):
        _refuse(name, f"lacks the file {entry}, or its link leads nowhere", "Copy the model again.")
    whole = folder.resolve()
    places = [whole, *([whole.parents[1] / "blobs"] if whole.parent.name == "snapshots" else [])]
    if not any(target.is_relative_to(place) for place in places):
        _refuse(name, f"has {entry} as a link to {target}, outside of its folder", "Put the file itself there.")
    if not stat.S_ISREG(status.st_mode):
        _refuse(name, f"has {entry}, which is not a regular file", "Copy the model again.")
    if most is not None and status.st_size > most:
        _refuse(name, f"has {entry} of {status.st_size:,} bytes (maximum {most:,})", SIZE)


def _refuse(name: str, because: str, remedy: str) -> NoReturn:
    raise BaseModelError(f"The base model {name} is refused: it {because}.", remedy)
