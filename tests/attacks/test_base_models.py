"""Attacks by the files of a base model: its folder comes from a stranger, and no person has looked inside."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.errors import AcademyError, BaseModelError, TemplateError
from academy.models import base_model
from academy.models.base_model import SEED_FOLDER, SUMS, BaseModel, check, resolve
from academy.models.model_settings import is_exponential
from academy.models.template_sandbox import render
from academy.models.weights import INDEX, SINGLE

OWN = ("config.json", "generation_config.json", SINGLE, "tokenizer.json", "tokenizer_config.json")
IN_OPEN = 0x20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A stranger's model: a copy of the seed's files."""
    folder = tmp_path / "stranger"
    folder.mkdir()
    for name in OWN:
        shutil.copyfile(SEED_FOLDER / name, folder / name)
    return folder


def changed(folder: Path, file: str, **values: Any) -> None:
    content = orjson.loads((folder / file).read_bytes())
    (folder / file).write_bytes(orjson.dumps({**content, **values}))


def refusal(folder: Path) -> str:
    with pytest.raises(BaseModelError) as caught:
        resolve(str(folder))
    assert caught.value.remedy
    return str(caught.value)


# ---- files


def test_an_index_names_no_file_outside_its_folder(model: Path) -> None:
    (model / SINGLE).rename(model.parent / "outside.safetensors")
    for place in ("../outside.safetensors", str(model.parent / "outside.safetensors"), "a/b.safetensors", "x.bin", 7):
        (model / INDEX).write_bytes(orjson.dumps({"weight_map": {"model.norm.weight": place}}))
        assert "not a safetensors file in its own folder" in refusal(model)


@pytest.mark.parametrize("name", [SINGLE, "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_link_out_of_the_folder_is_not_followed(model: Path, name: str) -> None:
    (model / name).rename(model.parent / "elsewhere")
    (model / name).symlink_to(model.parent / "elsewhere")
    assert "outside of its folder" in refusal(model)


def test_links_of_the_hub_cache_are_followed(tmp_path: Path, model: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(OWN):
        (model / name).rename(blobs / str(number))
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert resolve(str(snapshot)).digest == resolve("seed").digest


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", SINGLE, "chat_template.jinja", "whatever"])
@pytest.mark.timeout(20)
def test_a_pipe_or_a_device_is_not_read(model: Path, name: str) -> None:
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    assert "not a regular file" in refusal(model) or name == "whatever"
    (model / name).unlink()
    (model / name).symlink_to("/dev/zero")
    assert "/dev/zero" in refusal(model) or name == "whatever"


ADAPTER = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("adapter_config.json", orjson.dumps({**ADAPTER, "base_model_name_or_path": "stranger/model"})),
        ("adapter_model.safetensors", b""),
        ("modeling_stranger.py", b"open('marker', 'w')"),
        ("custom_generate/generate.py", b"open('marker', 'w')"),
        ("model-extra.safetensors", b""),
        ("new_library_settings.json", b"{}"),
        ("library.so", b""),
    ],
)
def test_a_file_that_changes_answers_is_never_beside_the_digest(model: Path, name: str, content: bytes) -> None:
    """It is refused with its name."""
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_bytes(content)
    assert Path(name).parts[0] in refusal(model)


def test_two_forms_of_weights_are_refused(model: Path) -> None:
    (model / INDEX).write_bytes(orjson.dumps({"weight_map": {"a": SINGLE}}))
    assert "programs differ in which they load" in refusal(model)


REAL_FILES = (
    "README.md", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", ".gitattributes", "figures/benchmark.png",
    "original/consolidated.00.pth", "original/params.json", "onnx/model.onnx", "model-q4.gguf", "flax_model.msgpack",
    "tf_model.h5", "rust_model.ot", "pytorch_model.bin", "pytorch_model.bin.index.json", "training_args.bin",
    "params.json", "trainer_state.json", "all_results.json", "64.tflite", "coreml/a.bin",
    "checkpoint-500/optimizer.pt", ".cache/huggingface/download/x.lock", "SYSTEM_PROMPT.txt", "thumbnail.png",
)  # fmt: skip
"""Files beside those that are loaded, in repositories of Llama, Mistral, Qwen, GPT-2, SmolLM, Zephyr and DeepSeek."""


@pytest.mark.slow
def test_files_of_real_models_are_ignored_and_never_opened(model: Path) -> None:
    """The kernel says which files are opened, also by libraries that are not written in Python."""
    digest = resolve(str(model)).digest
    for name in REAL_FILES:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(b"not what it says")
    base = resolve(str(model))
    assert base.digest == digest
    from academy.serving.runtimes.peft import open_model

    opened = _opened(model, lambda: (open_model(base), base.open_template(), base.count_tokens(["a"])))
    covered = {str(stamp.path.relative_to(model)) for stamp in check(base.name, model)}
    assert {SINGLE, "config.json", "tokenizer.json", "tokenizer_config.json"} <= opened
    assert opened <= covered


def _opened(folder: Path, action: Callable[[], object]) -> set[str]:
    """The files of a folder and its folders that are opened during an action (inotify)."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    places = {}
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        places[libc.inotify_add_watch(watch, os.fsencode(place), IN_OPEN)] = place
    action()
    names, events = set(), os.read(watch, 1 << 20)
    os.close(watch)
    while events:
        number, _, _, length = struct.unpack_from("iIII", events)
        if name := events[16 : 16 + length].rstrip(b"\0").decode():
            names.add(str((places[number] / name).relative_to(folder)))
        events = events[16 + length :]
    return {name for name in names if not (folder / name).is_dir()}


def test_a_file_that_changes_after_the_digest_is_not_loaded(model: Path) -> None:
    base = resolve(str(model))
    changed(model, "tokenizer_config.json", chat_template="{{ 'other' }}")
    with pytest.raises(BaseModelError, match="have changed"):
        base.open_template()


def test_a_file_that_changes_during_the_load_is_noticed(model: Path) -> None:
    base, status = resolve(str(model)), (model / "config.json").stat()
    with pytest.raises(BaseModelError, match="while they were loaded"), base.unchanged() as folder:
        content = (folder / "config.json").read_bytes()
        (folder / "config.json").write_bytes(b"{}")
        (folder / "config.json").write_bytes(content)
        os.utime(folder / "config.json", ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_trainer_refuses_another_model_than_that_of_its_order(model: Path) -> None:
    with (
        pytest.raises(BaseModelError, match="have changed"),
        BaseModel(name="stranger", path=model, digest="0" * 64).unchanged(),
    ):
        pytest.fail("loaded")


# ---- settings


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("value", ["stranger/kernel", "stranger/kernel@main:fn", {"": "stranger/kernel"}, [["a/b"]]])
def test_no_kernel_is_loaded_from_the_hub(model: Path, key: str, value: Any) -> None:
    changed(model, "config.json", text_config={key: value})
    assert key in refusal(model)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("where", [None, "text_config"])
def test_no_code_of_the_model_is_run(model: Path, file: str, where: str | None) -> None:
    code = {"auto_map": {"AutoTokenizer": ["stranger.Tokenizer", None]}}
    changed(model, file, **({where: code} if where else code))
    assert "needs its own code" in refusal(model)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"transformers_weights": "pytorch_model.bin"}),
        ("config.json", {"quantization_config": {"quant_method": "stranger"}}),
        ("config.json", {"tokenizer_class": "AutoModel"}),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaForCausalLM"}),
        ("tokenizer_config.json", {"tokenizer_class": "AutoTokenizer"}),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}),
        ("tokenizer_config.json", {"merges_file": "../merges.txt"}),
        ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["tokenizer.4/../../x.json"]}),
    ],
)
def test_settings_name_no_other_files_and_classes(model: Path, file: str, values: dict[str, Any]) -> None:
    changed(model, file, **values)
    assert file in refusal(model)


@pytest.mark.parametrize(
    "values",
    [
        {"num_hidden_layers": 20_000},
        {"vision_config": {"num_layers": 10**9}},
        {"num_experts": 10**6},
        {"max_position_embeddings": 10**30},
        {"max_position_embeddings": "many"},
    ],
)
@pytest.mark.timeout(20)
def test_a_number_does_not_make_the_library_build_for_hours(model: Path, values: dict[str, Any]) -> None:
    text = orjson.loads((model / "config.json").read_bytes())
    import json

    (model / "config.json").write_text(json.dumps({**text, **values}))
    assert "config.json" in refusal(model)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"[]", b"\xff", b"", b"NaN"])
def test_json_that_is_not_an_object_is_refused_with_a_sentence(model: Path, file: str, content: bytes) -> None:
    (model / file).write_bytes(content)
    assert file in refusal(model)


def test_a_name_that_occurs_twice_is_refused(model: Path) -> None:
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace("{", '{"vocab_size": 1,', 1))
    assert "twice" in refusal(model)


def test_a_file_of_gigabytes_is_not_read(model: Path) -> None:
    for name in ("tokenizer.json", "config.json", "vocab.json", "chat_template.jinja"):
        with (model / name).open("ab") as stream:
            stream.truncate(1 << 40)  # sparse
        began = time.monotonic()
        assert name in refusal(model)
        assert time.monotonic() - began < 1
        (model / name).unlink()
        if (SEED_FOLDER / name).exists():
            shutil.copyfile(SEED_FOLDER / name, model / name)


# ---- weights


def _weights(header: Any, size: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else orjson.dumps(header)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(size)


def _tensor(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "content",
    [
        _weights({}, length=1 << 40),
        _weights({}, length=(1 << 64) - 1),
        _weights({"a": _tensor(0, 4, [1 << 40, 1 << 40])}, 4),
        _weights({"a": _tensor(0, 4, [0, 1 << 47])}, 4),
        _weights({"a": _tensor(0, 8, [2]), "b": _tensor(4, 8, [1])}, 8),
        _weights({"a": _tensor(0, 4, [1]), "b": _tensor(8, 12, [1])}, 12),
        _weights({"a": _tensor(0, 4, [1])}, 4096),
        _weights({"a": _tensor(-4, 0, [1])}, 4),
        _weights({"a": _tensor(0, 4, [1], "PICKLE")}, 4),
        _weights(b'{"a":%b,"a":%b}' % ((orjson.dumps(_tensor(0, 4, [1])),) * 2), 4),
        _weights({"a": _tensor(0, 4, [1] * 1000)}, 4),
        _weights({"__metadata__": {"a": {}}, "a": _tensor(0, 4, [1])}, 4),
        _weights(b"[" * 100_000),
        b"",
    ],
)  # fmt: skip
def test_a_header_takes_no_memory_and_hides_nothing(model: Path, content: bytes) -> None:
    (model / SINGLE).write_bytes(content)
    began = time.monotonic()
    assert SINGLE in refusal(model)
    assert time.monotonic() - began < 1


def test_a_sparse_header_of_gigabytes_is_not_read(model: Path) -> None:
    with (model / SINGLE).open("wb") as stream:
        stream.write((1 << 35).to_bytes(8, "little"))
        stream.truncate(1 << 36)
    assert "claims a header" in refusal(model)


def test_a_tensor_is_not_in_two_files(model: Path) -> None:
    (model / SINGLE).rename(model / "a.safetensors")
    shutil.copyfile(model / "a.safetensors", model / "b.safetensors")
    (model / INDEX).write_bytes(orjson.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert "and so has another file" in refusal(model)


# ---- tokenizer


@pytest.mark.parametrize("pattern", ["(a+)+$", "(?:a|aa)+$", r"((\s*x)*)*y", r"(?:[ab]*c?){2,}", "(?:(?:a|b)c)*"])
def test_a_pattern_of_exponential_time_is_refused(model: Path, pattern: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    changed(model, "tokenizer.json", pre_tokenizer=split)
    assert "exponential" in refusal(model)


def test_a_text_is_not_blown_up(model: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 20}
    changed(model, "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [step] * 6})
    assert "times longer" in refusal(model)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*",
        r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|[一-龥぀-ゟ゠-ヿ]+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    ],
)  # fmt: skip
def test_patterns_of_real_tokenizers_are_accepted(pattern: str) -> None:
    """Llama 3, GPT-2, GPT-4o, DeepSeek V3 and BLOOM."""
    assert not is_exponential(pattern)


# ---- chat templates

BOMBS = {
    "tabs": "{{ ('\t'*90000).expandtabs(90000) }}",
    "format": "{{ ('{0:99999}'*50000).format(1) }}",
    "format_map": "{{ ('{a:99999}'*50000).format_map({'a': 1}) }}",
    "width": "{{ '{:{w}}'.format(1, w=99999999) }}",
    "indent": "{{ ('\n'*1000000)|indent(99999, true, true) }}",
    "json": "{{ range(90000)|list|tojson(indent=99999) }}",
    "translate": "{{ ('a'*4000000).translate({97: 'b'*4000000}) }}",
    "bytes": "{{ (5).to_bytes(2, 'big') * 1000000000 }}",
    "sum": "{{ range(90000)|batch(1)|sum(start=[])|length }}",
    "slices": "{% set x = 'a'*4000000 %}{% set y = [" + ",".join(["x[1:]"] * 9000) + "] %}",
    "split": "{% set x = [" + ",".join(["('a '*2000000).split()"] * 200) + "] %}",
    "generator": "{{ ([{'a': 'x'*4000000}]*90000)|map(attribute='a')|join }}",
    "joined": "{{ ''.join(([{'a': 'x'*4000000}]*90000)|map(attribute='a')) }}",
    "dictionaries": "{% set n = namespace(x=none) %}{% for i in range(90000) %}{% set n.x = "
    "{'a': n.x, 'b': range(90000)|list} %}{% endfor %}",
    "mapped": "{{ range(90000)|map('center', 90000)|list }}",
    "loops": "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "power": "{{ 9 ** 99999 }}",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.campaign
def test_a_template_takes_no_more_time_and_memory_than_its_limits(name: str) -> None:
    program = (
        "import resource, sys, time\nfrom tests.attacks.test_base_models import BOMBS, TemplateError, render\n"
        "before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        "try:\n    render(BOMBS[sys.argv[1]], {'messages': []})\nexcept TemplateError as problem:\n    print(problem)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.process_time() - began)\n"
    )
    limits = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))}
    output = subprocess.run(
        [sys.executable, "-c", program, name], capture_output=True, text=True, timeout=60, check=True, **limits
    ).stdout.splitlines()
    kibibytes, seconds = map(float, output[-1].split())
    assert len(output) > 1
    assert kibibytes < 600 << 10
    assert seconds < 10


@pytest.mark.parametrize("name", ["tabs", "format", "indent", "bytes", "sum", "generator"])
def test_a_template_that_makes_large_values_is_stopped(name: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateError):
        render(BOMBS[name], {"messages": []})
    assert time.process_time() - began < 2


def test_no_library_renders_the_template_by_itself(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that never ends stops at the limit, and transformers, which has none, never sees it."""
    from transformers import PreTrainedTokenizerBase

    def rendered(*args: object, **options: object) -> None:
        pytest.fail("transformers rendered the template")

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", rendered)
    changed(model, "tokenizer_config.json", chat_template=BOMBS["recursion"])
    template = resolve(str(model)).open_template()
    with pytest.raises(AcademyError):
        template.prompt([{"role": "user", "content": "a"}])


# ---- the seed


def test_an_altered_seed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "seed"
    shutil.copytree(SEED_FOLDER, copy)
    monkeypatch.setattr(base_model, "SEED_FOLDER", copy)
    assert resolve("seed").digest
    weights = bytearray((copy / SINGLE).read_bytes())
    weights[-1] ^= 1
    (copy / SINGLE).write_bytes(weights)
    with pytest.raises(BaseModelError, match=r"altered: model\.safetensors"):
        resolve("seed")
    (copy / SUMS).unlink()
    with pytest.raises(BaseModelError, match="altered"):
        resolve("seed")


@pytest.mark.campaign
def test_llama_cpp_starts_with_a_template_that_never_ends(model: Path, tmp_path: Path) -> None:
    """llama.cpp renders a model's template at its start, without limits: our files for it have none."""
    import asyncio

    pytest.importorskip("xllamacpp")
    from academy.serving.runtimes.llamacpp import LlamaCppRuntime

    changed(model, "tokenizer_config.json", chat_template=BOMBS["loops"])
    runtime = LlamaCppRuntime(resolve(str(model)), tmp_path / "cache")

    async def started() -> None:
        try:
            await asyncio.wait_for(runtime.start(), 50)
        finally:
            await runtime.close()

    asyncio.run(started())
