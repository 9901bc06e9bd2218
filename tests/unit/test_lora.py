"""LoRA layers compared with PEFT's own, and refilled batches compared with answers generated one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.errors import AdapterError
from academy.models.base_model import resolve

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 8, "lora_alpha": 16},
    "rslora": {"r": 4, "lora_alpha": 12, "use_rslora": True},
    "dora": {"r": 8, "lora_alpha": 16, "use_dora": True},
    "patterns": {"r": 8, "lora_alpha": 16, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=KINDS)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A PEFT model with a random adapter of one kind, and the adapter's folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    from academy.serving.runtimes.peft import open_model

    model, _ = open_model(resolve("seed"))
    torch.manual_seed(1)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", **KINDS[request.param]))
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            with torch.no_grad():
                parameter.add_(0.05 * torch.randn_like(parameter).abs())
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model.eval(), folder


def attached(folder: Path) -> tuple[Any, Any]:
    """The base model with the adapter attached, and its layers."""
    from safetensors.torch import load

    from academy.serving.runtimes.lora_layers import AdapterLayers
    from academy.serving.runtimes.peft import open_model

    model, _ = open_model(resolve("seed"))
    layers = AdapterLayers(model)
    config = orjson.loads((folder / "adapter_config.json").read_bytes())
    layers.attach("one", config, load((folder / "adapter_model.safetensors").read_bytes()))
    return model, layers


def test_outputs_equal_those_of_peft(adapted: tuple[Any, Path]) -> None:
    import torch

    theirs, folder = adapted
    ids = torch.randint(10, 500, (3, 24))
    ours, layers = attached(folder)
    with torch.inference_mode():
        expected, base = theirs(ids).logits, ours(ids).logits
        layers.active.adapter = "one"
        logits = ours(ids).logits
        assert not torch.equal(base, expected)
        if theirs.peft_config["default"].use_dora:  # PEFT multiplies an identity matrix for the same product
            torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-4)
        else:
            assert torch.equal(logits, expected)
        with theirs.disable_adapter():
            assert torch.equal(base, theirs(ids).logits)
        layers.detach("one")
        assert torch.equal(ours(ids).logits, base)


def test_adapter_that_does_not_fit_changes_nothing(adapted: tuple[Any, Path]) -> None:
    import torch
    from safetensors.torch import load

    _, folder = adapted
    config = orjson.loads((folder / "adapter_config.json").read_bytes())
    tensors = load((folder / "adapter_model.safetensors").read_bytes())
    model, layers = attached(folder)
    first = next(key for key in sorted(tensors) if "lora_A" in key)
    for wrong in (
        {**tensors, "base_model.model.lm_head.weight": torch.zeros(2, 2)},
        {**tensors, first: tensors[first][:, 1:]},
        {**tensors, first.replace("layers.0", "layers.99"): tensors[first]},
        {key: tensor for key, tensor in tensors.items() if key != first},
    ):
        with pytest.raises(AdapterError):
            layers.attach("two", config, wrong)
    assert not any("two" in getattr(layer, "updates", {}) for layer in model.modules())


@pytest.mark.slow
def test_refilled_batch_gives_the_same_answers_as_single_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    from academy.models.chat_template import ChatTemplate
    from academy.serving.runtimes import decoding
    from academy.serving.runtimes.peft import open_model

    base = resolve("seed")
    model, _ = open_model(base)
    template = ChatTemplate.of(base.path)
    chance = random.Random(3)
    words = ("lantern", "harbour", "twelve", "a", "the", "quiet", "engine", "under")
    prompts = [
        template.prompt([{"role": "user", "content": f"Repeat exactly: {' '.join(chance.choices(words, k=k))}"}])
        for k in (1 + n % 12 for n in range(40))
    ]
    prompts.sort(key=len)
    pad, end = template.tokenizer.pad_token_id, template.tokenizer.eos_token_id
    monkeypatch.setattr(decoding, "BATCH", 8)
    monkeypatch.setattr(decoding, "REFILLED_AT", 2)
    sizes: list[int] = []
    joined = decoding.Rows.join
    monkeypatch.setattr(decoding.Rows, "join", lambda self, some: (sizes.append(len(self)), joined(self, some))[1])
    together, firsts = decoding.greedy(model, prompts, pad, end, 24)
    assert max(sizes) > 0, "no prompt joined a running batch"
    alone = [decoding.greedy(model, [prompt], pad, end, 24)[0][0] for prompt in prompts]
    assert together == alone
    assert len({len(answer) for answer in alone}) > 3
    assert min(firsts) > 0
    assert decoding.greedy(model, [], pad, end, 24) == ([], [])
    monkeypatch.setattr(decoding, "CACHE_TOKENS", 100)
    assert decoding.greedy(model, prompts[:9], pad, end, 24)[0] == alone[:9]
