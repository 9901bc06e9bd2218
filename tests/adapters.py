"""Small adapters as the trainer writes them, made without a model in a few milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save_file

from academy.adapters.adapter import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    canonical_config,
    digest_of_adapter,
    digests_of_files,
    signed_manifest,
)
from academy.models.chat_template import FILE as TEMPLATE_FILE
from academy.models.chat_template import PLAIN, digest_of_template
from academy.professor.recipe import Recipe
from academy.store.signing import Keys

BASE_DIGEST = "b" * 64
RANK = 4
MODULES = ("q_proj", "v_proj")
PLACE = "base_model.model.model.layers.{}.self_attn.{}"
SPECIAL = {"eos_token": "<end>"}
PEFT_CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "seed", "bias": "none", "corda_config": None, "ensure_weight_tying": False,
    "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True,
    "init_lora_weights": True, "kasa_config": None, "layer_replication": None, "layers_pattern": None,
    "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 2 * RANK, "lora_bias": False, "lora_dropout": 0.0,
    "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core", "modules_to_save": None,
    "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16, "r": RANK,
    "rank_pattern": {}, "revision": None, "target_modules": list(MODULES), "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None, "use_dora": False,
    "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip
"""The configuration that PEFT 0.21.2 writes for the trainer's settings."""


def make_tensors(value: float = 1.0, rank: int = RANK, wide: int = 8, layers: int = 2) -> dict[str, Any]:
    """Pairs of A (rank, wide) and B (wide, rank) that hold `value`."""
    tensors = {}
    for layer in range(layers):
        for module in MODULES:
            place = PLACE.format(layer, module)
            tensors[f"{place}.lora_A.weight"] = np.full((rank, wide), value, dtype=np.float32)
            tensors[f"{place}.lora_B.weight"] = np.full((wide, rank), value, dtype=np.float32)
    return tensors


def make_adapter(
    folder: Path,
    value: float = 1.0,
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    weights: bytes | None = None,
    template: bytes = PLAIN.encode(),
    keys: Keys | None = None,
    **changes: Any,
) -> Path:
    """Write an adapter with its manifest, signed if keys are given. `config` and `changes` replace single values."""
    folder.mkdir(parents=True)
    if weights is None:
        save_file(dict(tensors or make_tensors(value)), folder / WEIGHTS, metadata={"format": "pt"})
    else:
        (folder / WEIGHTS).write_bytes(weights)
    (folder / CONFIG).write_bytes(
        orjson.dumps({**orjson.loads(canonical_config(PEFT_CONFIG, "seed")), **(config or {})})
    )
    (folder / TEMPLATE_FILE).write_bytes(template)
    manifest = {
        "adapter": digest_of_adapter(folder), "files": digests_of_files(folder),
        "base_name": "seed", "base_digest": BASE_DIGEST, "dataset": "d", "train_digest": "t", "order": f"order-{value}",
        "template": digest_of_template(template.decode(errors="replace"), SPECIAL), "special_tokens": SPECIAL,
        "recipe": Recipe().model_dump(mode="json"), "trainer": "test", "versions": {}, "threads": 1, "examples": 50,
        "supervised_tokens": 500, "steps": 10, "loss": 0.5, "canaries": [{"prompt": "a", "answer": "b"}],
    } | changes  # fmt: skip
    (folder / MANIFEST).write_bytes(signed_manifest(manifest, keys) if keys else orjson.dumps(manifest))
    return folder


def publish(adapters: Path, value: float = 1.0, **facts: Any) -> Path:
    """Write an adapter into a folder that is named by the beginning of its digest."""
    draft = make_adapter(adapters / f"made-{value}", value, **facts)
    return draft.rename(adapters / digest_of_adapter(draft)[:16])
