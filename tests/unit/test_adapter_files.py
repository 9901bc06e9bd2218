"""An adapter that is not, byte for byte, the one of its manifest is refused, and so is one that could do harm."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from academy.adapters.adapter import (
    CONFIG,
    FILES,
    MANIFEST,
    TEMPLATE_FILE,
    WEIGHTS,
    canonical_config,
    digest_of_adapter,
    digests_of_files,
    open_adapter,
    read_adapter,
)
from academy.errors import AdapterError, TemplateError
from academy.professor.recipe import Recipe
from tests.adapters import BASE_DIGEST, PEFT_CONFIG, PLACE, RANK, make_adapter, make_tensors

FIRST = PLACE.format(0, "q_proj")
Header = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "adapter")


def test_a_sound_adapter_is_read(folder: Path) -> None:
    found = read_adapter(folder, base_digest=BASE_DIGEST, digest=digest_of_adapter(folder))
    assert found.digest == digest_of_adapter(folder)
    assert (found.path, found.manifest.recipe, found.manifest.canaries[0].answer) == (folder, Recipe(), "b")


# --- the files -------------------------------------------------------------------------------------------------------


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def replace_by_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip_last_byte, cut, replace_by_link, Path.unlink])
def test_altered_truncated_linked_or_missing_file_is_refused(
    folder: Path, name: str, damage: Callable[[Path], object]
) -> None:
    damage(folder / name)
    with pytest.raises(AdapterError, match=rf"{name} in .* is missing or was altered"):
        read_adapter(folder, base_digest=BASE_DIGEST)


def test_every_byte_of_the_weights_is_covered(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for place in (0, 8, len(content) // 2):
        (folder / WEIGHTS).write_bytes(content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :])
        with pytest.raises(AdapterError, match="was altered"):
            read_adapter(folder)


def test_linked_manifest_or_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(AdapterError, match="is missing or was altered"):
        read_adapter(tmp_path / "link")
    replace_by_link(folder / MANIFEST)
    with pytest.raises(AdapterError, match="is missing or was altered"):
        read_adapter(folder)


def test_pipe_or_folder_in_place_of_a_file_is_refused_at_once(folder: Path) -> None:
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)
    with pytest.raises(AdapterError, match="not a regular file"):
        read_adapter(folder)
    (folder / CONFIG).unlink()
    (folder / CONFIG).mkdir()
    with pytest.raises(AdapterError, match=f"{CONFIG} in .* cannot be read"):
        read_adapter(folder)


def test_other_adapter_than_expected_is_refused(tmp_path: Path) -> None:
    expected = digest_of_adapter(make_adapter(tmp_path / "one"))
    with pytest.raises(AdapterError, match="does not match its digest"):
        read_adapter(make_adapter(tmp_path / "other", value=2.0), digest=expected)


def test_manifest_with_another_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="does not match its digest"):
        read_adapter(make_adapter(tmp_path / "adapter", adapter="0" * 64))


def test_manifest_of_another_adapter_is_refused(folder: Path, tmp_path: Path) -> None:
    other = make_adapter(tmp_path / "other", value=2.0)
    (folder / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    with pytest.raises(AdapterError, match="missing or was altered"):
        read_adapter(folder)


def test_adapter_for_another_base_model_is_refused_with_its_error_code(folder: Path) -> None:
    with pytest.raises(AdapterError, match="ADAPTER_BASE_MODEL_MISMATCH"):
        read_adapter(folder, base_digest="c" * 64)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"not json", b"\xff\xfe", b"[" * 100_000])
def test_unreadable_manifest_is_refused(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(folder)


def test_manifest_with_an_unknown_or_duplicate_key_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(make_adapter(tmp_path / "more", more="than we know"))
    content = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(content.replace(b"{", b'{"base_name":"another",', 1))
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(folder)


def test_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="does not contain an adapter"):
        read_adapter(tmp_path / "none")


def test_digest_covers_only_the_three_files(tmp_path: Path) -> None:
    first, second = make_adapter(tmp_path / "first"), make_adapter(tmp_path / "second", examples=51)
    assert digest_of_adapter(first) == digest_of_adapter(second)
    for name, facts in enumerate(({"config": {"lora_alpha": 9}}, {"template": b"other"}, {"value": 2.0})):
        assert digest_of_adapter(make_adapter(tmp_path / str(name), **facts)) != digest_of_adapter(first)


def test_peft_configuration_has_one_canonical_form() -> None:
    other = {**PEFT_CONFIG, "target_modules": PEFT_CONFIG["target_modules"][::-1], "base_model_name_or_path": "/a/path",
             "auto_mapping": {"base_model_class": "X", "parent_library": "os"}}  # fmt: skip
    assert canonical_config(other, "seed") == canonical_config(PEFT_CONFIG, "seed")


class Harmful:
    """A pickle that runs code when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "sub", "x.py"])
def test_extra_file_is_refused_and_never_run(folder: Path, name: str, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (folder / name).write_bytes(pickle.dumps(Harmful(mark)))
    with pytest.raises(AdapterError, match=f"contains {name}, which does not belong to an adapter"):
        read_adapter(folder)
    (folder / name).rename(tmp_path / name)
    assert not mark.exists()
    pickle.loads((tmp_path / name).read_bytes())  # noqa: S301  control: loading the pickle runs it
    assert mark.exists()


def test_pickle_in_place_of_the_weights_is_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    with pytest.raises(AdapterError, match="weights cannot be read"):
        read_adapter(make_adapter(tmp_path / "adapter", weights=pickle.dumps(Harmful(mark))))
    assert not mark.exists()


# --- the header of the weights ---------------------------------------------------------------------------------------


def weights_of(header: Header | bytes, data: bytes, length: int | None = None) -> bytes:
    """A safetensors file with this header, valid or not."""
    content = header if isinstance(header, bytes) else orjson.dumps(header)
    content += b" " * (-len(content) % 8)
    return (len(content) if length is None else length).to_bytes(8, "little") + content + data


def sound() -> tuple[Header, bytes]:
    """Header and data of a valid file."""
    content = save(make_tensors())
    length = int.from_bytes(content[:8], "little")
    return orjson.loads(content[8 : 8 + length]), content[8 + length :]


def refusal_of_weights(place: Path, weights: bytes) -> str:
    """The error message for an adapter with these weights."""
    with pytest.raises(AdapterError) as caught:
        read_adapter(make_adapter(place / "adapter", weights=weights))
    return caught.value.message


def test_valid_header_is_read(tmp_path: Path) -> None:
    read_adapter(make_adapter(tmp_path / "adapter", weights=weights_of(*sound())))


@pytest.mark.parametrize("length", [0, 1, 2**60, 2**64 - 1, 100_000])
def test_header_longer_than_the_file_is_refused(tmp_path: Path, length: int) -> None:
    assert "the header claims" in refusal_of_weights(tmp_path, weights_of(*sound(), length=length))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "I64"}, "a type other than"),
        ({"dtype": "F64"}, "a type other than"),
        ({"dtype": ["F32"]}, "a type other than"),
        ({"shape": [RANK, 2**62]}, "do not match its shape"),
        ({"shape": [-RANK, -8]}, "is not one or two numbers"),
        ({"shape": [True, 32]}, "is not one or two numbers"),
        ({"shape": []}, "is not one or two numbers"),
        ({"shape": [1, RANK, 8]}, "is not one or two numbers"),
        ({"shape": [32]}, "shapes"),
        ({"shape": [8, RANK]}, "shapes"),
        ({"shape": "48"}, "is not one or two numbers"),
        ({"data_offsets": [0, 2**63]}, "do not match its shape"),
        ({"data_offsets": [128, 256]}, "overlap or leave a gap"),
        ({"data_offsets": [64, 192]}, "overlap or leave a gap"),
        ({"data_offsets": [-128, 0]}, "are not two numbers"),
        ({"data_offsets": [128, 0]}, "do not match its shape"),
        ({"data_offsets": [0]}, "are not two numbers"),
        ({"data_offsets": [2, 130]}, "multiple of its number size"),
        ({"file": "/etc/passwd"}, "is not type, shape and offsets"),
    ],
)
def test_tensor_with_a_wrong_header_entry_is_refused(tmp_path: Path, change: Header, words: str) -> None:
    header, data = sound()
    name = f"{FIRST}.lora_A.weight"
    assert header[name]["data_offsets"] == [0, 128]
    header[name] |= change
    assert words in refusal_of_weights(tmp_path, weights_of(header, data))


def test_data_outside_of_all_tensors_is_refused(tmp_path: Path) -> None:
    header, data = sound()
    assert "the tensors end at byte" in refusal_of_weights(tmp_path, weights_of(header, data + b"hidden"))


def test_duplicate_name_is_refused(tmp_path: Path) -> None:
    header, data = sound()
    duplicate = orjson.dumps(header)[:-1] + b"," + orjson.dumps(header)[1:]
    assert "has a duplicate name" in refusal_of_weights(tmp_path / "names", weights_of(duplicate, data))
    inner = orjson.dumps(header).replace(b'"dtype":"F32"', b'"dtype":"F32","dtype":"F32"', 1)
    assert "has a duplicate name" in refusal_of_weights(tmp_path / "types", weights_of(inner, data))


@pytest.mark.parametrize("name", ["../../x.lora_A.weight", "a b.lora_A.weight", "", "x" * 600, "\u0430.lora_A.weight"])
def test_tensor_name_with_unusual_characters_is_refused(tmp_path: Path, name: str) -> None:
    header, data = sound()
    header[name] = header.pop(f"{FIRST}.lora_A.weight")
    assert "other characters than" in refusal_of_weights(tmp_path, weights_of(header, data))


@pytest.mark.parametrize("header", [b"[]", b"{}", b"1", b"{", b'{"__metadata__":{"a":1}}', b"\xff" * 8, b"[" * 200_000])
def test_invalid_header_is_refused(tmp_path: Path, header: bytes) -> None:
    assert refusal_of_weights(tmp_path, weights_of(header, b""))


def test_too_many_tensors_are_refused(tmp_path: Path) -> None:
    header = {f"t{n}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]} for n in range(65_537)}
    assert "it has 65,537 tensors" in refusal_of_weights(tmp_path, weights_of(header, bytes(4 * 65_537)))


def test_header_of_many_megabytes_is_refused_before_parsing(tmp_path: Path) -> None:
    assert "the header claims" in refusal_of_weights(tmp_path, weights_of(b"{" + b" " * (17 << 20), b""))


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [(0, 0), (-1, -1)])
def test_nan_or_infinity_is_refused_in_every_type(tmp_path: Path, kind: str, bad: float, at: tuple[int, int]) -> None:
    import torch
    from safetensors.torch import save as save_torch

    tensors = {name: torch.tensor(value).to(getattr(torch, kind)) for name, value in make_tensors(-65504.0).items()}
    read_adapter(make_adapter(tmp_path / "sound", weights=save_torch(tensors)))
    tensors[f"{FIRST}.lora_B.weight"][at] = bad
    assert "lora_B.weight contains NaN or an infinite number" in refusal_of_weights(tmp_path, save_torch(tensors))


def test_tensors_equal_the_file_in_every_type(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save as save_torch

    numbers = np.random.default_rng(0)
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        tensors = {
            name: torch.tensor(numbers.normal(size=value.shape)).to(kind) for name, value in make_tensors().items()
        }
        adapter_files = open_adapter(make_adapter(tmp_path / str(kind), weights=save_torch(tensors)))
        assert adapter_files.tensors.keys() == tensors.keys()
        assert all(adapter_files.tensors[name].dtype == kind for name in tensors)
        assert all(torch.equal(adapter_files.tensors[name], tensors[name]) for name in tensors)


# --- the configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_mapping", {"base_model_class": "X", "parent_library": "os"}),
        ("megatron_core", "os"),
        ("megatron_config", {"a": 1}),
        ("loftq_config", {"loftq_bits": 4}),
        ("eva_config", {}),
        ("corda_config", {"cache_file": "/etc/passwd"}),
        ("runtime_config", {"ephemeral_gpu_offload": True}),
        ("modules_to_save", ["lm_head"]),
        ("modules_to_save", []),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 4]]),
        ("target_parameters", ["x"]),
        ("arrow_config", {"top_k": 1}),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", 1),
        ("bias", "all"),
        ("lora_bias", True),
        ("lora_bias", 0),
        ("use_qalora", True),
        ("peft_type", "IA3"),
        ("task_type", "SEQ_CLS"),
        ("_custom_modules", {}),
        ("trust_remote_code", True),
        ("revision", "main"),
        ("r", 10**9),
        ("r", 0),
        ("r", True),
        ("r", 4.0),
        ("rank_pattern", {"q_proj": 10**9}),
        ("rank_pattern", {"(a+)+$": 4}),
        ("rank_pattern", {"q_proj": 8}),
        ("rank_pattern", []),
        ("alpha_pattern", {"q_proj": 1e30}),
        ("lora_alpha", 10**9),
        ("lora_alpha", -1),
        ("lora_alpha", "8"),
        ("lora_dropout", 1.0),
        ("target_modules", "all-linear"),
        ("target_modules", ".*"),
        ("target_modules", []),
        ("target_modules", ["q_proj", "v_proj", "k_proj"]),
        ("target_modules", ["q_proj"]),
        ("target_modules", ["(q|v)_proj"]),
        ("base_model_name_or_path", ["seed"]),
        ("use_dora", True),
    ],
)  # fmt: skip
def test_harmful_configuration_is_refused_by_name(tmp_path: Path, key: str, value: Any) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / CONFIG).write_text(json.dumps({**PEFT_CONFIG, key: value}))  # not orjson, which cannot write such numbers
    folder = with_config(folder)
    with pytest.raises(AdapterError) as caught:
        read_adapter(folder)
    assert caught.value.message.startswith("The adapter's configuration is refused: ")
    names = (key, "shapes", "has A and B instead", "which is not in target_modules")
    assert any(name in caught.value.message for name in names)
    assert len(caught.value.message) < 400


def with_config(folder: Path) -> Path:
    """Update the manifest to the current files."""
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    manifest |= {"adapter": digest_of_adapter(folder), "files": digests_of_files(folder)}
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest))
    return folder


@pytest.mark.parametrize("key", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_incomplete_configuration_is_refused(folder: Path, key: str) -> None:
    (folder / CONFIG).write_bytes(orjson.dumps({name: value for name, value in PEFT_CONFIG.items() if name != key}))
    with pytest.raises(AdapterError, match=f"{key} is missing"):
        read_adapter(with_config(folder))


def test_rank_patterns_rslora_and_dora_are_read(tmp_path: Path) -> None:
    tensors = make_tensors()
    for name in [name for name in tensors if "v_proj" in name]:
        tensors[name] = np.ones((2, 8) if "lora_A" in name else (8, 2), dtype=np.float32)
    config = {"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.0.self_attn.v_proj": 3}, "use_rslora": True}
    read_adapter(make_adapter(tmp_path / "ranks", tensors=tensors, config=config))
    dora = make_tensors()
    for name in [name for name in dora if "lora_A" in name]:
        dora[name.replace("lora_A.weight", "lora_magnitude_vector")] = np.ones(8, dtype=np.float32)
    read_adapter(make_adapter(tmp_path / "dora", tensors=dora, config={"use_dora": True}))
    with pytest.raises(AdapterError, match="instead of A and B"):
        read_adapter(make_adapter(tmp_path / "no dora", tensors=dora))


@pytest.mark.parametrize(
    "extra", ["model.embed_tokens.weight", f"{FIRST}.lora_embedding_A", f"{FIRST}.base_layer.weight"]
)
def test_tensor_outside_of_a_lora_is_refused(tmp_path: Path, extra: str) -> None:
    tensors = {**make_tensors(), extra: np.ones((4, 4), dtype=np.float32)}
    with pytest.raises(AdapterError, match="which does not belong to a LoRA"):
        read_adapter(make_adapter(tmp_path / "adapter", tensors=tensors))


def test_incomplete_pair_is_refused(tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors[f"{FIRST}.lora_B.weight"]
    with pytest.raises(AdapterError, match="has A instead of A and B"):
        read_adapter(make_adapter(tmp_path / "adapter", tensors=tensors))


@pytest.mark.parametrize("template", [b"{{ x }}" * (10 << 17), b"\xff\xfe"])
def test_too_large_or_binary_template_is_refused(tmp_path: Path, template: bytes) -> None:
    with pytest.raises(AdapterError, match=f"{TEMPLATE_FILE} in .* cannot be read|template in .* is not UTF-8 text"):
        read_adapter(make_adapter(tmp_path / "adapter", template=template))


@pytest.mark.slow
def test_template_can_access_only_the_messages() -> None:
    from academy.models.base_model import SEED_FOLDER
    from academy.models.chat_template import ChatTemplate

    tokenizer = ChatTemplate.of(SEED_FOLDER).tokenizer
    template = ChatTemplate(tokenizer, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(TemplateError, match="is unsafe"):
        template.prompt([{"role": "user", "content": "a"}])


# --- what changes while it is read -----------------------------------------------------------------------------------


def test_changes_after_reading_have_no_effect(folder: Path) -> None:
    adapter_files = open_adapter(folder)
    for name in (*FILES, MANIFEST):
        path = folder / name
        path.write_bytes(b"\0" * path.stat().st_size)  # in place: a memory-mapped file would change too
        path.unlink()
    assert adapter_files.adapter.manifest.examples == 50
    assert adapter_files.config["r"] == RANK
    assert all(tensor.eq(1).all() for tensor in adapter_files.tensors.values())


def test_files_swapped_during_reading_are_refused_or_read_unchanged(tmp_path: Path) -> None:
    """A thread replaces the weights with links, other weights and the valid ones as fast as it can."""
    folder = make_adapter(tmp_path / "adapter", value=1.0)
    evil = make_adapter(tmp_path / "evil", value=2.0)
    right = (folder / WEIGHTS).read_bytes()
    over = threading.Event()

    def swap() -> None:
        n = 0
        while not over.is_set():
            n += 1
            staging = tmp_path / f"staged-{n}"
            if n % 3 == 0:
                staging.symlink_to(evil / WEIGHTS)
            else:
                staging.write_bytes((evil / WEIGHTS).read_bytes() if n % 3 == 1 else right)
            staging.replace(folder / WEIGHTS)

    racer = threading.Thread(target=swap)
    racer.start()
    outcomes = {"read": 0, "refused": 0}
    try:
        for _ in range(20_000):
            try:
                adapter_files = open_adapter(folder)
            except AdapterError:
                outcomes["refused"] += 1
                continue
            outcomes["read"] += 1
            assert all(tensor.eq(1).all() for tensor in adapter_files.tensors.values())
            if min(outcomes.values()) >= 20:
                break
    finally:
        over.set()
        racer.join()
    assert min(outcomes.values()) >= 20, "neither side may win every race"


ADAPTER: dict[str, bytes] = {}


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from((*FILES, MANIFEST)), data=st.data())
def test_any_changed_byte_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    if not ADAPTER:
        sound_folder = make_adapter(tmp_path_factory.mktemp("sound") / "adapter")
        ADAPTER.update({file: (sound_folder / file).read_bytes() for file in (*FILES, MANIFEST)})
    folder = tmp_path_factory.mktemp("changed")
    for file, content in ADAPTER.items():
        (folder / file).write_bytes(content)
    place = data.draw(st.integers(0, len(ADAPTER[name]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != ADAPTER[name][place]))
    content = ADAPTER[name][:place] + bytes([byte]) + ADAPTER[name][place + 1 :]
    (folder / name).write_bytes(content)
    try:
        adapter_files = open_adapter(folder, base_digest=BASE_DIGEST)
    except AdapterError:
        return
    assert name == MANIFEST  # the digest covers all other files; the signature covers the manifest
    assert {k: v.tolist() for k, v in adapter_files.tensors.items()} == {
        k: v.tolist() for k, v in load(ADAPTER[WEIGHTS]).items()
    }


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_arbitrary_weights_give_tensors_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """The manifest agrees with the bytes, so only the parser is tested."""
    header, numbers = sound()
    content = bytearray(weights_of(header, numbers))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - len(numbers) - 1))] = data.draw(st.integers(0, 255))
    try:
        adapter_files = open_adapter(make_adapter(tmp_path_factory.mktemp("made") / "adapter", weights=bytes(content)))
    except AdapterError:
        return
    assert all(tensor.isfinite().all() for tensor in adapter_files.tensors.values())
