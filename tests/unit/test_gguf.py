"""GGUF files: they contain the weights of the safetensors, and models that llama.cpp would compute differently fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from academy.adapters.adapter import CONFIG, WEIGHTS
from academy.errors import AdapterError, BaseModelError, HomeError
from academy.models.base_model import BaseModel, resolve
from academy.serving.export.gguf import CACHE_RECORD, base_file, refuse_other_than_plain, write_adapter, write_model
from academy.serving.export.gguf_vocabulary import NEAREST, vocabulary

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "target_modules": ["q_proj"]}
LAYER = "base_model.model.model.layers.0"
HEADS, WIDTH = 6, 192


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return resolve("seed")


def make_lora(folder: Path, tensors: dict[str, np.ndarray[Any, Any]], **settings: Any) -> Path:
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_bytes(orjson.dumps({**PLAIN, **settings}))
    return folder


def tensors_of(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}


def text_of(path: Path, key: str) -> Any:
    return gguf.GGUFReader(path).fields[key].contents()


@pytest.mark.slow
def test_adapter_rows_are_interleaved_only_for_queries_and_keys(tmp_path: Path, base: BaseModel) -> None:
    up = np.arange(WIDTH * 2, dtype=np.float32).reshape(WIDTH, 2)
    down = np.ones((2, WIDTH), dtype=np.float32)
    lora = make_lora(
        tmp_path / "lora",
        {f"{LAYER}.self_attn.{name}_proj.lora_{side}.weight": up if side == "B" else down
         for name in ("q", "v") for side in "AB"},
    )  # fmt: skip
    target = tmp_path / "lora.gguf"
    write_adapter(lora, base.path, target)
    tensors = tensors_of(target)
    head = up.reshape(HEADS, 2, WIDTH // HEADS // 2, 2)[0]  # the two halves of the first head's rows
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_b"][:4], [head[0, 0], head[1, 0], head[0, 1], head[1, 1]])
    assert np.array_equal(tensors["blk.0.attn_v.weight.lora_b"], up)
    assert np.array_equal(tensors["blk.0.attn_q.weight.lora_a"], down)
    assert (text_of(target, "general.type"), text_of(target, "adapter.type")) == ("adapter", "lora")
    assert (text_of(target, "adapter.lora.alpha"), text_of(target, "general.architecture")) == (6.0, "llama")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_rslora": True}, "rsLoRA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "biases"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha in some layers"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"peft_type": "IA3"}, "the type IA3"),
        ({"something_new": {"deep": 1}}, "something_new"),
    ],
)
def test_adapter_that_is_not_plain_lora_is_refused(settings: dict[str, Any], words: str) -> None:
    refuse_other_than_plain(PLAIN)
    with pytest.raises(AdapterError, match=words):
        refuse_other_than_plain({**PLAIN, **settings})


@pytest.mark.parametrize("name", ["model.embed_tokens.lora_embedding_A", "lm_head.lora_A.weight", "model.norm.weight"])
def test_tensor_that_gguf_cannot_hold_is_refused(tmp_path: Path, base: BaseModel, name: str) -> None:
    lora = make_lora(tmp_path / "lora", {f"base_model.model.{name}": np.ones((2, 2), dtype=np.float32)})
    with pytest.raises(AdapterError, match="cannot hold"):
        write_adapter(lora, base.path, tmp_path / "lora.gguf")


def test_nan_is_refused(tmp_path: Path, base: BaseModel) -> None:
    rows = np.full((WIDTH, 2), np.nan, dtype=np.float32)
    lora = make_lora(tmp_path / "lora", {f"{LAYER}.self_attn.q_proj.lora_B.weight": rows})
    with pytest.raises(AdapterError, match="NaN or infinite"):
        write_adapter(lora, base.path, tmp_path / "lora.gguf")


def seed_with(folder: Path, base: BaseModel, **changes: Any) -> Path:
    """The seed model's folder with another configuration."""
    folder.mkdir()
    for path in base.path.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = orjson.loads((base.path / "config.json").read_bytes())
    (folder / "config.json").write_bytes(orjson.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt_neox"}, "the architecture gpt_neox"),
        ({"hidden_act": "gelu"}, "the activation gelu"),
        ({"model_type": "mistral", "sliding_window": 64}, "sliding window"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}, "of the type dynamic"),
    ],
)
def test_base_model_that_llama_cpp_computes_differently_is_refused(
    tmp_path: Path, base: BaseModel, changes: dict[str, Any], words: str
) -> None:
    folder = seed_with(tmp_path / "model", base, **changes)
    with pytest.raises(BaseModelError, match=words):
        write_model(folder, tmp_path / "model.gguf", name="other")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("precision", ["f32", "bf16", "f16"])
def test_base_model_weights_equal_those_of_its_files(tmp_path: Path, base: BaseModel, precision: Any) -> None:
    from safetensors import safe_open

    write_model(base.path, tmp_path / "base.gguf", name="seed", precision=precision)
    reader = gguf.GGUFReader(tmp_path / "base.gguf")
    weights = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    with safe_open(base.path / "model.safetensors", framework="pt") as original:
        embedding = original.get_tensor("model.embed_tokens.weight").float().numpy()
        value = original.get_tensor("model.layers.5.self_attn.v_proj.weight").float().numpy()
    assert np.allclose(weights["token_embd.weight"], embedding, atol=0 if precision != "f16" else 1e-3)
    assert np.allclose(weights["blk.5.attn_v.weight"], value, atol=0 if precision != "f16" else 1e-3)
    assert "output.weight" not in weights  # llama.cpp uses the embedding


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda path: path.with_name(CACHE_RECORD).unlink()])
def test_damaged_cache_file_is_written_again(tmp_path: Path, base: BaseModel, damage: Callable[[Path], object]) -> None:
    path = base_file(base, tmp_path)
    content, inode = path.read_bytes(), path.stat().st_ino
    assert base_file(base, tmp_path).stat().st_ino == inode  # an intact file is not written again
    damage(path)
    assert base_file(base, tmp_path).read_bytes() == content
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == sorted([path.name, CACHE_RECORD])


def test_full_disk_is_reported_and_leaves_no_file(small_disk: Path, base: BaseModel) -> None:
    with pytest.raises(HomeError, match="is full"):
        base_file(base, small_disk)
    assert not [path for path in small_disk.rglob("*") if path.is_file()]


def test_seed_tokenizer_gets_the_nearest_rule_and_a_clean_template(base: BaseModel) -> None:
    written = vocabulary(base.path, 3072)
    assert (written.split, written.alike, written.begins, written.eos) == (NEAREST, False, False, 5)
    assert "generation %}" not in written.template
    assert "<|assistant|>" in written.template


def test_known_splitting_rule_is_named(tmp_path: Path, base: BaseModel) -> None:
    folder = seed_with(tmp_path / "model", base)
    tokenizer = orjson.loads((base.path / "tokenizer.json").read_bytes())
    tokenizer["pre_tokenizer"] = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_bytes(orjson.dumps(tokenizer))
    written = vocabulary(folder, 3080)
    assert (written.split, written.alike) == ("gpt-2", True)
    assert written.tokens[3072:3074] == ("[PAD3072]", "[PAD3073]")
