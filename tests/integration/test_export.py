"""Versions exported by `academy export` answer in other tools as they do here."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from academy.adapters.adapter import BESIDE, MANIFEST, WEIGHTS, read_adapter
from academy.errors import AdapterError, InputError
from academy.models.base_model import BaseModel, resolve
from academy.models.chat_template import ChatTemplate
from academy.serving.export.export import export, export_request
from academy.serving.export.gguf import base_file
from academy.serving.runtimes.base import Turn
from academy.serving.runtimes.llamacpp import LlamaCppRuntime
from academy.serving.runtimes.llamacpp_process import LlamaCppServer, launch
from academy.serving.runtimes.llamacpp_server import ServerOptions
from academy.store.ledger import BASE
from tests.colours import UNSEEN, publish_adapter, says
from tests.conftest import Evolved

if TYPE_CHECKING:
    from academy.serving.runtimes.peft import PeftRuntime


REQUESTS = (*UNSEEN, "Repeat this word: lantern", "Grüße an alle", "print:\n\n    x = 1\n")
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        "attention_bias": True,
    },
    "mistral": {"sliding_window": None, "head_dim": 32},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}  # fmt: skip


@pytest.fixture(scope="module")
def base() -> BaseModel:
    return resolve("seed")


@pytest.fixture(scope="module")
def blue(colours: dict[str, Path]) -> Path:
    return colours["blue"]


@pytest.fixture(scope="module")
def peft(base: BaseModel, blue: Path) -> PeftRuntime:
    from academy.serving.runtimes.peft import PeftRuntime

    runtime = PeftRuntime(base)
    runtime.load(blue)
    return runtime


def greedy(model: Any, tokenizer: Any, request: str) -> str:
    """An answer by transformers alone, with the settings of the exported folder."""
    import torch

    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": request}], add_generation_prompt=True, tokenize=False
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


async def complete(server: LlamaCppServer, prompt: list[int], scales: list[float], tokens: int = 24) -> str:
    lora = [{"id": place, "scale": scale} for place, scale in enumerate(scales)]
    body = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "lora": lora}
    return str((await server.complete(body))["content"]).strip()


def options_for(model: Path, adapters: tuple[Path, ...] = ()) -> ServerOptions:
    return ServerOptions(model=model, adapters=adapters, slots=1, context=256, threads=1, exact=True, key="export")


def test_exported_adapter_loads_with_peft_alone(tmp_path: Path, base: BaseModel, blue: Path, peft: PeftRuntime) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = read_adapter(blue)
    result = export(adapter, base, tmp_path / "out", export_request("adapter", None))
    again = read_adapter(result.folder, base_digest=base.digest, beside=BESIDE)
    assert again == adapter.model_copy(update={"path": result.folder})
    with pytest.raises(
        AdapterError, match="does not belong to an adapter"
    ):  # a home allows no other files in the folder
        read_adapter(result.folder)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base.path, dtype="float32"), str(result.folder)
    )
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    assert tokenizer.chat_template == ChatTemplate.of(base.path, blue).text
    answers = [greedy(model.eval(), tokenizer, request) for request in REQUESTS]
    assert answers == peft.generate(REQUESTS, adapter.digest, 24)
    assert says("blue") in answers


@pytest.mark.parametrize(("precision", "kind"), [(None, "bfloat16"), ("f32", "float32")])
def test_merged_model_loads_with_transformers_alone(
    tmp_path: Path, base: BaseModel, blue: Path, peft: PeftRuntime, precision: str | None, kind: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    adapter = read_adapter(blue)
    result = export(adapter, base, tmp_path / "out", export_request("merged", precision))
    assert orjson.loads((result.folder / "config.json").read_bytes())["dtype"] == kind
    model = AutoModelForCausalLM.from_pretrained(result.folder, dtype="float32").eval()
    answers = [greedy(model, AutoTokenizer.from_pretrained(result.folder), request) for request in REQUESTS]
    assert answers == peft.generate(REQUESTS, adapter.digest, 24)
    assert resolve(str(result.folder)).parameters >= base.parameters  # the Academy accepts it as a base model


@pytest.mark.parametrize("form", ["gguf", "merged-gguf", "modelfile"])
def test_gguf_files_give_the_answers_of_peft(
    tmp_path: Path, base: BaseModel, blue: Path, peft: PeftRuntime, form: str
) -> None:
    adapter = read_adapter(blue)
    result = export(adapter, base, tmp_path / "out", export_request(form, None))
    assert any("does not know how this tokenizer splits" in note for note in result.notes)
    template = ChatTemplate.of(base.path, blue)
    prompts = [template.prompt([{"role": "user", "content": request}]) for request in REQUESTS]
    lora = result.folder / f"{adapter.digest}.gguf"

    async def run() -> list[list[str]]:
        adapters = (lora,) if form == "gguf" else ()
        model = next(path for path in result.folder.glob("*.gguf") if path != lora)
        server = await launch(options_for(model, adapters), [adapter.digest] * len(adapters))
        try:
            return [
                [await complete(server, prompt, scales) for prompt in prompts]
                for scales in ([[1.0], [0.0]] if adapters else [[]])
            ]
        finally:
            await server.end()

    answers = asyncio.run(run())
    assert answers[0] == peft.generate(REQUESTS, adapter.digest, 24)
    if form == "gguf":
        assert answers[1] == peft.generate(REQUESTS, BASE, 24)
    assert not (result.folder / "merged").exists()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_supported_architectures_give_the_answers_of_peft(tmp_path: Path, base: BaseModel, kind: str) -> None:
    """With grouped heads, separate output weights and each architecture's positions; all weights are random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from academy.serving.runtimes.peft import PeftRuntime

    torch.manual_seed(5)
    settings = AutoConfig.for_model(
        kind, vocab_size=3072, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.3,
        eos_token_id=5, bos_token_id=1, pad_token_id=0, **ARCHITECTURES[kind],
    )  # fmt: skip
    model: Any = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    for name, weights in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weights, std=0.5)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(base.path).save_pretrained(tmp_path / "model")
    other = resolve(str(tmp_path / "model"))
    tuned: Any = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    folder = publish_adapter(tuned.eval(), other, ChatTemplate.of(other.path), tmp_path, [("hello", "hello")])
    runtime = PeftRuntime(other)
    digest = runtime.load(folder)
    long = "a longer request that goes over the positions of the first training " * 5

    async def run() -> None:
        live = LlamaCppRuntime(other, tmp_path / "cache", threads=1)
        await live.start()
        try:
            assert await live.load(folder) == digest
            for adapter in (BASE, digest):
                for request in ("hello", "Which one?", long):
                    turn = Turn(messages=({"role": "user", "content": request},), max_new_tokens=12)
                    text = "".join([piece.text async for piece in live.chat(turn, adapter)])
                    # random bytes: llama.cpp omits a character that the limit cut in two
                    expected = runtime.generate([request], adapter, 12)[0]
                    assert text.rstrip(" \n\ufffd").strip() == expected.rstrip(" \n\ufffd").strip()
        finally:
            await live.close()

    asyncio.run(run())
    assert runtime.generate(["hello"], BASE, 12) != runtime.generate(["hello"], digest, 12)


@pytest.mark.parametrize("form", ["adapter", "merged", "gguf", "merged-gguf", "modelfile"])
@pytest.mark.parametrize("name", [WEIGHTS, MANIFEST])
def test_files_altered_after_the_check_are_not_exported(
    tmp_path: Path, base: BaseModel, blue: Path, form: str, name: str
) -> None:
    shutil.copytree(blue, tmp_path / "home")
    adapter = read_adapter(tmp_path / "home")
    file = tmp_path / "home" / name
    content = bytearray(file.read_bytes())
    if name == MANIFEST:
        content = bytearray(content.replace(adapter.manifest.dataset.encode(), b"0" * 64, 1))
    else:
        content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(AdapterError, match=r"altered|changed during the export"):
        export(adapter, base, tmp_path / "out", export_request(form, None))
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def test_folder_that_is_not_empty_is_refused_and_kept(tmp_path: Path, base: BaseModel, blue: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="already exists"):
        export(read_adapter(blue), base, tmp_path / "out", export_request("adapter", None))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize(
    ("form", "precision", "message"),
    [
        ("zip", None, "Unknown format zip"),
        ("gguf", "q4", "Unknown precision q4"),
        ("adapter", "f16", "precision of its training"),
    ],
)
def test_invalid_requests_are_refused(form: str, precision: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_request(form, precision)


def test_export_command_writes_a_version(evolved: Evolved, tmp_path: Path, base: BaseModel) -> None:
    home = evolved.home
    for form, file in (("adapter", "adapter_model.safetensors"), ("gguf", f"base-{base.digest[:16]}.gguf")):
        done = home.run("export", "v1", "--format", form, "--to", tmp_path / form, "--json")
        assert done.code == 0, done.err
        assert file in orjson.loads(done.out)["files"]
        assert (tmp_path / form / file).is_file()
    # the runtime's own file is the same without a chat template
    exported = (tmp_path / "gguf" / f"base-{base.digest[:16]}.gguf").read_bytes()
    served = base_file(base, tmp_path / "cache").read_bytes()
    assert b"tokenizer.chat_template" in exported
    assert b"tokenizer.chat_template" not in served
    assert exported[-1_000_000:] == served[-1_000_000:]
    again = home.run("export", "v1", "--to", tmp_path / "adapter")
    assert again.code == 2
    assert "already exists" in again.err
    weights = next(home.path.glob("adapters/*/adapter_model.safetensors"))
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        refused = home.run("export", "v1", "--to", tmp_path / "damaged")
    finally:
        weights.write_bytes(whole)
    assert refused.code == 2
    assert "was altered" in refused.err
    assert not (tmp_path / "damaged").exists()
