"""Writes base models and adapters as GGUF files, for llama.cpp and tools that are built on it.

The weights are those of the safetensors files, in 32 bits unless another precision is requested. A model or adapter
that llama.cpp would compute differently from transformers and PEFT is refused, never written. A cached file is used
only if it still has the digest that was recorded when it was written.
"""

from __future__ import annotations

import errno
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import ValidationError
from safetensors import safe_open

from academy.adapters.adapter import CONFIG, WEIGHTS, Adapter
from academy.errors import AdapterError, BaseModelError
from academy.models.base_model import BaseModel
from academy.models.model_files import weight_files
from academy.records import Record
from academy.serving.export.gguf_vocabulary import vocabulary
from academy.store.files import digest_of_file, explain_disk_errors, publish_folder, write_file

Precision = Literal["f32", "f16", "bf16"]
FORMAT = 2
"""Increase it when the same model is written differently; cached files are then written again."""
CACHE_RECORD = "written.json"


class Layout(Record):
    """The name of a transformers architecture in llama.cpp."""

    name: str
    interleaved: bool  # whether the rows of queries and keys are interleaved


LAYOUTS = {
    "llama": Layout(name="llama", interleaved=True),
    "mistral": Layout(name="llama", interleaved=True),
    "qwen2": Layout(name="qwen2", interleaved=False),
    "qwen3": Layout(name="qwen3", interleaved=False),
}
HARMLESS = {
    "base_model_name_or_path", "inference_mode", "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "revision", "target_modules", "task_type", "exclude_modules",
    "layers_pattern", "layers_to_transform", "init_lora_weights", "bias",
}  # fmt: skip
"""Settings of an adapter that do not change how its two matrices are applied."""

Tensor = tuple[str, tuple[int, ...], Callable[[], "np.ndarray[Any, Any]"]]
"""Name, shape, and a function that reads it: only one tensor is in memory at a time."""


class CacheRecord(Record):
    """The description of a cached file, stored beside it."""

    of: str  # digest of the base model or adapter
    format: int
    precision: Precision
    sha256: str


def base_file(base: BaseModel, cache: Path, precision: Precision = "f32") -> Path:
    """The base model as a file in the cache, written where it is missing or damaged.

    It has no chat template: prompts come as token ids, and llama.cpp renders a template without limits when it starts.
    Raises BaseModelError for a model that cannot be written as GGUF.
    """
    place = cache / f"base-{base.digest[:16]}-{precision}" / f"base-{base.digest[:16]}.gguf"
    with base.unchanged() as folder:
        return _cached(
            place,
            base.digest,
            precision,
            partial(write_model, folder, name=base.name, template="", precision=precision),
        )


def adapter_file(adapter: Adapter, base: BaseModel, cache: Path) -> Path:
    """An adapter as a file in the cache, written where it is missing or damaged. Raises AdapterError."""
    place = cache / f"adapter-{adapter.digest[:16]}" / f"{adapter.digest}.gguf"
    with base.unchanged() as folder:
        return _cached(place, adapter.digest, "f32", lambda path: write_adapter(adapter.path, folder, path))


def write_model(
    folder: Path, target: Path, *, name: str, template: str | None = None, precision: Precision = "f32"
) -> None:
    """Write a transformers folder as a GGUF model.

    `template` is the chat template, empty for none; default: the tokenizer's own.
    Raises BaseModelError for an architecture, setting or tokenizer that llama.cpp treats differently.
    """
    import gguf

    config, layout = _known(folder)
    arch = _architecture(layout)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    writer = gguf.GGUFWriter(target, layout.name)
    kinds = {
        "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
        "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
        "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    }
    kind, file_type = kinds[precision]
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(Path(name).name)
    writer.add_file_type(file_type)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(_heads(config, keys=True))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    width = _head_width(config)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config.vocab_size)
    factors = _rope(config, width, writer)
    vocabulary(folder, config.vocab_size, template).add_to(writer)

    tensors = [] if factors is None else [("rope_freqs.weight", factors.shape, lambda: factors)]
    for original, shape, read in _stored(weight_files(name, folder)):
        if original == "lm_head.weight" and config.tie_word_embeddings:
            continue  # llama.cpp uses the embedding
        name_in_gguf = names.get_name(original, try_suffixes=(".weight", ".bias"))
        if name_in_gguf is None:
            raise BaseModelError(
                f"A GGUF file of the architecture {layout.name} cannot hold the tensor {original}.",
                "Choose another base model for llama.cpp.",
            )
        tensors.append((name_in_gguf, shape, _interleaved(read, _heads_of(original, config, layout))))
    _write(writer, tensors, kind)


def write_adapter(folder: Path, base: Path, target: Path) -> None:
    """Write a PEFT folder's LoRA as a GGUF adapter for the base model in `base`, in 32 bits.

    Raises AdapterError for anything but plain LoRA on linear layers.
    """
    import gguf

    config, layout = _known(base)
    settings = orjson.loads((folder / CONFIG).read_bytes())
    refuse_other_than_plain(settings)
    names = gguf.get_tensor_name_map(_architecture(layout), config.num_hidden_layers)
    writer = gguf.GGUFWriter(target, layout.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings["lora_alpha"]))
    tensors = []
    for name, shape, read in _stored([folder / WEIGHTS]):
        module, mark, matrix = name.removesuffix(".weight").removeprefix("base_model.model.").rpartition(".lora_")
        name_in_gguf = names.get_name(module) if mark and matrix in ("A", "B") else None
        if name_in_gguf is None or (module == "lm_head" and config.tie_word_embeddings):
            raise AdapterError(
                f"A GGUF adapter cannot hold the adapter's tensor {name}.",
                "Serve it with PEFT, or export it merged.",
            )
        heads = _heads_of(f"{module}.weight", config, layout) if matrix == "B" else 0
        tensors.append(
            (f"{name_in_gguf}.weight.lora_{matrix.lower()}", shape, _finite(name, _interleaved(read, heads)))
        )
    _write(writer, tensors, gguf.GGMLQuantizationType.F32)


def refuse_other_than_plain(settings: dict[str, Any]) -> None:
    """Raise AdapterError for a PEFT configuration that GGUF adapters cannot express."""
    features = {
        "use_rslora": "rank-stabilised scaling (rsLoRA)",
        "use_dora": "weight decomposition (DoRA)",
        "modules_to_save": "fully trained modules (modules_to_save)",
        "lora_bias": "biases",
        "alpha_pattern": "a different alpha in some layers",
    }
    wrong = [feature for key, feature in features.items() if settings.get(key)]
    if settings.get("bias") not in (None, "none"):
        wrong.append("biases")
    if settings.get("peft_type") != "LORA":
        wrong.append(f"the type {settings.get('peft_type')}")
    if settings.get("init_lora_weights") not in (None, True, False, "gaussian"):
        wrong.append(f"the initialisation {settings['init_lora_weights']}, which changes the base model")
    allowed_settings = {"rank_pattern", *features, *HARMLESS}  # a layer's own rank is read from the matrix
    wrong += [key for key, value in sorted(settings.items()) if key not in allowed_settings and value]
    if wrong:
        raise AdapterError(
            f"llama.cpp cannot serve this adapter: it has {', '.join(dict.fromkeys(wrong))}.",
            "Serve it with PEFT, or export it merged.",
        )


def _cached(place: Path, digest: str, precision: Precision, write: Callable[[Path], None]) -> Path:
    """The cached file, written again unless its record and bytes are intact."""
    if _whole(place, digest, precision):
        return place
    if place.parent.exists():
        shutil.rmtree(place.parent)
    with publish_folder(place.parent) as folder:
        write(folder / place.name)
        record = CacheRecord(of=digest, format=FORMAT, precision=precision, sha256=digest_of_file(folder / place.name))
        write_file(folder / CACHE_RECORD, record.model_dump_json(indent=2).encode())
    return place


def _whole(place: Path, digest: str, precision: Precision) -> bool:
    try:
        record = CacheRecord.model_validate_json(place.with_name(CACHE_RECORD).read_bytes())
        return record == CacheRecord(of=digest, format=FORMAT, precision=precision, sha256=digest_of_file(place))
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return False


def _known(folder: Path) -> tuple[Any, Layout]:
    """The configuration of a transformers folder and its layout. Raises BaseModelError for an unknown one."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    layout = LAYOUTS.get(config.model_type)
    wrong = ""
    if layout is None:
        wrong = f"the architecture {config.model_type}"
    elif getattr(config, "quantization_config", None):
        wrong = "weights that are already quantised"
    elif config.hidden_act != "silu":
        wrong = f"the activation {config.hidden_act}"
    elif getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        wrong = "attention in a sliding window"
    elif config.rope_parameters.get("rope_type", "default") not in ("default", "linear", "llama3"):
        wrong = f"rotary positions of the type {config.rope_parameters['rope_type']}"
    if wrong or layout is None:
        raise BaseModelError(
            f"This base model cannot be written as GGUF: it has {wrong}.",
            f"Supported architectures: {', '.join(LAYOUTS)}. Serve it with PEFT, or use llama.cpp's own converter.",
        )
    return config, layout


def _architecture(layout: Layout) -> Any:
    import gguf

    return next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == layout.name)


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _heads(config: Any, *, keys: bool) -> int:
    few = getattr(config, "num_key_value_heads", None) if keys else None
    return int(few or config.num_attention_heads)


def _rope(config: Any, width: int, writer: Any) -> np.ndarray[Any, Any] | None:
    """Write the rotary settings; returns the factor of each frequency where they differ."""
    import gguf

    rope = config.rope_parameters
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    match rope.get("rope_type", "default"):
        case "linear":
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(float(rope["factor"]))
        case "llama3":
            # transformers' own formula (modeling_rope_utils, llama3): the divisor of each frequency
            low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
            old, factor = float(rope["original_max_position_embeddings"]), float(rope["factor"])
            divisors = []
            for n in range(0, width, 2):
                wave = 2 * math.pi * float(rope["rope_theta"]) ** (n / width)
                smooth = min(1.0, max(0.0, (old / wave - low) / (high - low)))
                divisors.append(1 / ((1 - smooth) / factor + smooth))
            return np.array(divisors, dtype=np.float32)
    return None


def _heads_of(name: str, config: Any, layout: Layout) -> int:
    """The number of heads in a tensor's rows, where llama.cpp needs them interleaved; else 0."""
    if not layout.interleaved or not name.rpartition(".")[0].endswith(("q_proj", "k_proj")):
        return 0
    return _heads(config, keys=".k_proj." in name)


def _interleaved(read: Callable[[], Any], heads: int) -> Callable[[], np.ndarray[Any, Any]]:
    """Interleave the halves of each head's rows: llama.cpp rotates neighbours, transformers rotates halves."""
    if not heads:
        return read

    def interleaved_rows() -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = read()
        halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))

    return interleaved_rows


def _finite(name: str, read: Callable[[], Any]) -> Callable[[], np.ndarray[Any, Any]]:
    def finite() -> np.ndarray[Any, Any]:
        rows: np.ndarray[Any, Any] = read()
        if not np.isfinite(rows).all():
            raise AdapterError(f"The adapter's tensor {name} contains NaN or infinite values.", "Train again.")
        return rows

    return finite


def _stored(files: Iterable[Path]) -> Iterator[Tensor]:
    """The tensors of safetensors files, read in 32 bits."""

    def reader(path: Path, name: str) -> Callable[[], np.ndarray[Any, Any]]:
        def read() -> np.ndarray[Any, Any]:
            with safe_open(path, framework="pt") as file:  # numpy has no bfloat16
                tensor: np.ndarray[Any, Any] = file.get_tensor(name).float().numpy()
                return tensor

        return read

    for path in files:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
        for name, shape in shapes.items():
            yield name, shape, reader(path, name)


def _write(writer: Any, tensors: Iterable[Tensor], kind: Any) -> None:
    """Write the header, then the tensors one by one. Vectors stay in 32 bits, as llama.cpp requires."""
    import gguf

    whole = gguf.GGMLQuantizationType.F32
    kinds = [whole if len(shape) == 1 else kind for _, shape, _ in tensors]
    sizes = {whole: 4, gguf.GGMLQuantizationType.F16: 2, gguf.GGMLQuantizationType.BF16: 2}
    for (name, shape, _), tensor_kind in zip(tensors, kinds, strict=True):
        size = math.prod(shape) * sizes[tensor_kind]
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=tensor_kind)
    with explain_disk_errors(Path(writer.path).parent):
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for (_, _, read), tensor_kind in zip(tensors, kinds, strict=True):
                writer.write_tensor_data(gguf.quants.quantize(read(), tensor_kind))
        except OSError as problem:
            if problem.errno is None:  # numpy reports a short write without an error number
                raise OSError(errno.ENOSPC, str(problem)) from problem
            raise
        finally:
            writer.close()
