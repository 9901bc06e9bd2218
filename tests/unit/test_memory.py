"""A training's memory estimate from a configuration alone, compared with real small models and published ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from academy.errors import BaseModelError
from academy.habitat.memory import (
    CORRECTION,
    CUDA_CONTEXT,
    CUDA_WORKSPACE,
    GIB,
    ROOM,
    Plan,
    Shape,
    _bytes_per_token,
    _masks,
    correction_factor,
    default_plan,
    predict,
    read_shape,
    shape_of,
    without_checkpointing,
)
from academy.models.base_model import SEED_FOLDER
from academy.professor.recipe import Recipe

SMALL: dict[str, Any] = {
    "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "llama": {}, "mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {"head_dim": 32}, "phi": {}, "phi3": {},
    "gemma": {"head_dim": 64}, "gemma2": {"head_dim": 64}, "gemma3_text": {"head_dim": 64},
}  # fmt: skip
SHELF = {
    # published configurations, and their parameters in millions as published
    "Llama 3 8B": ({"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
                    "tie_word_embeddings": False}, 8030),
    "Qwen2.5 7B": ({"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
                    "tie_word_embeddings": False}, 7616),
    "Mistral 7B": ({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
                    "tie_word_embeddings": False}, 7242),
    "Phi-3 mini": ({"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
                    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32064,
                    "tie_word_embeddings": False}, 3821),
    "Gemma 2 2B": ({"model_type": "gemma2", "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000}, 2614),
}  # fmt: skip


def lora_model(kind: str, *, dropout: float = 0.0, half: bool = False) -> tuple[Any, Shape]:
    """A small random model of this kind with LoRA on all linear maps, and the shape of its configuration."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**(SMALL | KINDS[kind]))
    model = AutoModelForCausalLM.from_config(config)
    model = model.to(torch.bfloat16) if half else model
    lora = LoraConfig(r=16, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, lora).train(), shape_of(config.to_dict())


def kept(model: Any, rows: int, length: int, *, half: bool, packed: bool = False) -> int:
    """Bytes that the layers really keep for the backward pass, as autograd stores them, without parameters.

    Rows are filled up, or `packed` into one.
    """
    import torch

    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    stored: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        if tensor.untyped_storage().data_ptr() not in own:
            stored[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.randint(3, 500, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, :10] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    if packed:  # as TRL's collator makes them
        given = {"input_ids": ids.reshape(1, -1), "position_ids": torch.arange(length).repeat(rows)[None]}
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        model.get_base_model().model(**given, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in stored.values())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_adapter_are_those_of_the_real_model(kind: str) -> None:
    model, shape = lora_model(kind)
    adapter = sum(one.numel() for one in model.parameters() if one.requires_grad)
    base = sum(one.numel() for one in model.parameters()) - adapter
    assert shape.adapter_weights(16) == adapter
    assert shape.linear_weights + shape.other_weights == pytest.approx(base, rel=0.01)  # biases do not count


@pytest.mark.parametrize(("dropout", "half"), [(0.0, False), (0.05, False), (0.0, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_layers_keep_the_bytes_that_torch_stores(kind: str, dropout: float, half: bool) -> None:
    """In float32 as on CPUs, and in bfloat16 under autocast as on GPUs; but here on a CPU with its attention kernel."""
    model, shape = lora_model(kind, dropout=dropout, half=half)
    rows, length = 4, 96
    recipe = Recipe(dropout=dropout)
    predicted = rows * length * shape.layers * _bytes_per_token(shape, recipe, 2 if half else 4, length)
    assert predicted == pytest.approx(kept(model, rows, length, half=half), rel=0.1)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "phi", "gemma2"])
def test_packed_rows_need_a_mask_per_layer(kind: str, half: bool) -> None:
    model, shape = lora_model(kind, half=half)
    rows, length = 8, 96
    tokens, wide = rows * length, 2 if half else 4
    recipe = Recipe(packing=True)
    found = kept(model, rows, length, half=half, packed=True)
    alone = kept(model, 1, tokens, half=half, packed=True)  # one example of this length needs no mask
    masks = _masks(shape, recipe, wide, tokens, tokens, shape.layers) - tokens**2  # all layers share one
    repeated = 2 * (shape.queries - shape.keys) * wide * tokens * shape.layers  # of keys and values, only with a mask
    assert found - alone == masks + repeated
    layers = tokens * shape.layers * _bytes_per_token(shape, recipe, wide, tokens)
    assert layers + masks == pytest.approx(found, rel=0.1)
    assert _masks(shape, Recipe(batch_size=1), wide, tokens, tokens, shape.layers) == 0


def test_a_packed_batch_is_one_mask_row_and_a_padded_batch_is_not() -> None:
    shape = shape_of(SHELF["Llama 3 8B"][0])
    plan = default_plan("cuda")
    padded, packed = (predict(shape, Recipe(packing=packing), plan) for packing in (False, True))
    length, tokens = 2048, 4 * 2048
    # in bfloat16, of the recomputed layer, and the mask itself
    assert packed.activations - padded.activations == 3 * tokens * (tokens - length)
    single = predict(shape, Recipe(batch_size=1), plan)  # no row is padded
    assert padded.activations - 4 * single.activations == 3 * tokens * length


def test_the_seed_models_shape_comes_from_its_configuration() -> None:
    shape = read_shape(SEED_FOLDER)
    assert shape.linear_weights + shape.other_weights == 3_246_528
    assert shape.note == ""


@pytest.mark.parametrize("name", SHELF)
def test_common_models_have_the_published_number_of_parameters(name: str) -> None:
    config, millions = SHELF[name]
    shape = shape_of(config)
    assert (shape.linear_weights + shape.other_weights) / 1e6 == pytest.approx(millions, rel=0.01)


def test_a_prediction_is_the_sum_of_its_parts_and_grows_with_the_recipe() -> None:
    shape = shape_of(SHELF["Llama 3 8B"][0])
    usual = predict(shape, Recipe(), default_plan("cuda"))
    assert usual.weights == pytest.approx(8030e6 * 2, rel=0.01)
    assert usual.total == usual.weights + usual.adapter + usual.activations + usual.logits + usual.overhead
    without = predict(shape, Recipe(), Plan(device="cuda"))
    assert without.activations > 5 * usual.activations
    assert predict(shape, Recipe(four_bit=True), default_plan("cuda")).weights < 0.38 * usual.weights
    assert predict(shape, Recipe(batch_size=8), default_plan("cuda")).activations == 2 * usual.activations
    assert predict(shape, Recipe(rank=32), default_plan("cuda")).adapter == 2 * usual.adapter
    assert predict(shape, Recipe(), default_plan("cpu")).weights == 2 * usual.weights
    four = predict(shape, Recipe(), default_plan("cuda").model_copy(update={"processes": 4, "sharded": True}))
    assert 0.25 * usual.weights < four.weights < 0.4 * usual.weights  # and the weights gathered at the moment
    assert (four.adapter, four.activations) == (usual.adapter // 4, usual.activations), "accumulation is shared"
    slow = Plan(device="cpu", processes=2, sharded=True)
    assert predict(shape, Recipe(), slow).weights == 1.5 * predict(shape, Recipe(), default_plan("cpu")).weights
    assert predict(shape, Recipe(), default_plan("cuda"), longest=256).activations < usual.activations / 7


def test_correction_of_a_small_model_excludes_the_fixed_overhead() -> None:
    """cuBLAS alone reserves more than the seed model needs; the prediction includes it, and adds it only once."""
    shape, recipe, plan = read_shape(SEED_FOLDER), Recipe(batch_size=8, max_length=128), default_plan("cuda")
    found = predict(shape, recipe, plan)
    own = found.weights + found.adapter + found.activations + found.logits
    assert found.measurable == own + CUDA_WORKSPACE
    assert found.total == found.measurable + CUDA_CONTEXT
    measured = own + CUDA_WORKSPACE - 2**25  # without a bias, no map uses cublasLt
    ratio = measured / found.measurable
    assert CORRECTION[0] < ratio < CORRECTION[1]
    assert measured > CORRECTION[1] * own, "without the workspace the correction would reach its limit"
    assert predict(shape, recipe, plan, ratios=[ratio]).total == pytest.approx(measured + CUDA_CONTEXT, abs=1)


@given(st.integers(1, 128), st.integers(128, 8192), st.booleans(), st.integers(1, 200 * GIB))
def test_checkpointing_is_off_only_where_memory_allows(batch: int, length: int, packing: bool, free: int) -> None:
    shape, recipe = shape_of(SHELF["Llama 3 8B"][0]), Recipe(batch_size=batch, max_length=length, packing=packing)
    plan = default_plan("cuda").model_copy(update={"library": "trl"})
    whole = plan.model_copy(update={"checkpointing": False})
    chosen = without_checkpointing(shape, recipe, plan, free)
    fits = predict(shape, recipe, whole).total <= ROOM * free
    assert chosen == (whole if fits else plan)
    assert predict(shape, recipe, whole).total >= predict(shape, recipe, plan).total
    slow = Plan(device="cpu", checkpointing=True)
    assert without_checkpointing(shape, recipe, slow, 2**50) == slow, "set by the user, or by a fallback step"


def test_checkpointing_depends_on_earlier_trainings_and_the_longest_example() -> None:
    shape, recipe, plan = shape_of(SHELF["Llama 3 8B"][0]), Recipe(batch_size=1), default_plan("cuda")
    free = round(predict(shape, recipe, Plan(device="cuda")).total / ROOM) + 1
    assert not without_checkpointing(shape, recipe, plan, free).checkpointing
    assert without_checkpointing(shape, recipe, plan, free, ratios=[1.2]).checkpointing
    assert without_checkpointing(shape, recipe, plan, free - 3 * GIB).checkpointing
    assert not without_checkpointing(shape, recipe, plan, free - 3 * GIB, longest=256).checkpointing


def test_examples_cannot_be_longer_than_the_recipe_allows() -> None:
    shape = read_shape(SEED_FOLDER)
    plan = default_plan("cpu")
    assert predict(shape, Recipe(max_length=512), plan, longest=5000) == predict(shape, Recipe(max_length=512), plan)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "mixture of experts (mixtral)"),
        ({"model_type": "mamba", "hidden_size": 64}, "of a mamba model cannot be predicted"),
        ({"model_type": "llama", **SMALL, "hidden_size": 0}, "hidden_size above zero"),
        ({"model_type": "llama", **SMALL, "vocab_size": "many"}, "of a llama model cannot be predicted"),
        ({}, "of a unknown model"),
    ],
)
def test_an_unpredictable_model_is_rejected_with_a_message(config: dict[str, Any], said: str) -> None:
    with pytest.raises(BaseModelError) as refusal:
        shape_of(config)
    assert said in refusal.value.message
    assert refusal.value.remedy


def test_an_unknown_layout_is_estimated_like_the_widest_with_a_note() -> None:
    strange, known = shape_of({"model_type": "novel", **SMALL}), shape_of({"model_type": "llama", **SMALL})
    assert strange.note == "the layout of novel is unknown: it is estimated like the widest known layout"
    plan = default_plan("cpu")
    assert predict(strange, Recipe(), plan).total > predict(known, Recipe(), plan).total
    assert predict(strange, Recipe(), plan).note == strange.note


def test_a_vision_model_counts_only_its_text_part() -> None:
    text = {"model_type": "gemma3_text", **SMALL}
    found = shape_of({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert found.note == "only the text part is counted"
    assert found.model_copy(update={"note": ""}) == shape_of({**text, "tie_word_embeddings": True})


def test_an_invalid_configuration_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(BaseModelError, match="cannot be read"):
        read_shape(tmp_path)


def test_four_bit_model_files_are_counted_as_four_bit() -> None:
    config = SHELF["Llama 3 8B"][0]
    four = shape_of({**config, "quantization_config": {"load_in_4bit": True}})
    asked = predict(shape_of(config), Recipe(four_bit=True), Plan(device="cuda"))
    assert predict(four, Recipe(), Plan(device="cuda")).weights == asked.weights
    assert asked.weights / GIB == pytest.approx(5.6, abs=0.3)


@given(st.lists(st.floats(1e-3, 1e3), max_size=8))
def test_earlier_trainings_correct_a_prediction_within_limits(ratios: list[float]) -> None:
    factor = correction_factor(ratios)
    assert CORRECTION[0] <= factor <= CORRECTION[1]
    assert ratios or factor == 1.0
    shape = read_shape(SEED_FOLDER)
    for device in ("cpu", "cuda"):
        one = predict(shape, Recipe(), default_plan(device), ratios=ratios)  # type: ignore[arg-type]
        fixed = CUDA_CONTEXT if device == "cuda" else 0  # torch does not measure it
        assert one.total == pytest.approx(one.measurable * factor + fixed, abs=1)


def test_the_median_of_earlier_trainings_ignores_an_outlier() -> None:
    assert correction_factor([1.1, 1.2, 50.0]) == 1.2


def test_a_configuration_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(orjson.dumps({"model_type": "llama", **SMALL}))
    assert read_shape(tmp_path) == shape_of({"model_type": "llama", **SMALL})
