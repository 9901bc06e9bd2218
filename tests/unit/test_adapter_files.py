"""An adapter that is not, byte for byte, the one of its manifest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from academy.artifacts import digest_of, digest_of_file
from academy.errors import AdapterError
from academy.habitat.adapter import (
    CONFIG,
    FILES,
    MANIFEST,
    TEMPLATE_FILE,
    WEIGHTS,
    canonical_config,
    digest_of_adapter,
    read_adapter,
)
from academy.professor import Recipe

BASE_DIGEST = "b" * 64


def make_adapter(folder: Path, value: float = 1.0, config: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A tiny adapter of two tensors with its manifest."""
    folder.mkdir()
    tensors = {name: np.full((2, 4), value, dtype=np.float32) for name in ("layer.lora_A", "layer.lora_B")}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_bytes(canonical_config(config or {"r": 4, "target_modules": ["q", "k"]}, "seed"))
    (folder / TEMPLATE_FILE).write_text("{{ messages }}", encoding="utf-8")
    manifest = {
        "adapter": digest_of_adapter(folder), "files": {name: digest_of_file(folder / name) for name in FILES},
        "base_name": "seed", "base_digest": BASE_DIGEST, "dataset": "d", "train_digest": "t", "order": "o",
        "template": digest_of("template"), "special_tokens": {"eos_token": "<end>"},
        "recipe": Recipe().model_dump(mode="json"), "trainer": "test", "versions": {}, "threads": 1, "examples": 50,
        "supervised_tokens": 500, "steps": 10, "loss": 0.5, "canaries": [{"prompt": "a", "answer": "b"}],
    }  # fmt: skip
    (folder / MANIFEST).write_bytes(orjson.dumps({**manifest, **changes}))
    return folder


def test_a_sound_adapter_is_read(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    found = read_adapter(folder, base_digest=BASE_DIGEST, digest=digest_of_adapter(folder))
    assert found.digest == digest_of_adapter(folder)
    assert (found.path, found.manifest.recipe, found.manifest.canaries[0].answer) == (folder, Recipe(), "b")


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def replace_by_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [flip_last_byte, replace_by_link, Path.unlink])
def test_an_altered_linked_or_missing_file_is_refused(
    tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    folder = make_adapter(tmp_path / "adapter")
    damage(folder / name)
    with pytest.raises(AdapterError, match=rf"{name} in .* is missing or was altered"):
        read_adapter(folder, base_digest=BASE_DIGEST)


def test_a_first_byte_counts_like_any_other(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter")
    content = (folder / WEIGHTS).read_bytes()
    for place in (0, 8, len(content) // 2):
        (folder / WEIGHTS).write_bytes(content[:place] + bytes([content[place] ^ 128]) + content[place + 1 :])
        with pytest.raises(AdapterError, match="was altered"):
            read_adapter(folder)


def test_another_adapter_under_the_expected_name_is_refused(tmp_path: Path) -> None:
    expected = digest_of_adapter(make_adapter(tmp_path / "one"))
    with pytest.raises(AdapterError, match="another adapter than its name says"):
        read_adapter(make_adapter(tmp_path / "other", value=2.0), digest=expected)


def test_a_manifest_that_names_another_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="another adapter than its name says"):
        read_adapter(make_adapter(tmp_path / "adapter", adapter="0" * 64))


def test_an_adapter_for_another_base_model_is_refused_under_its_known_name(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="ADAPTER_BASE_MODEL_MISMATCH"):
        read_adapter(make_adapter(tmp_path / "adapter"), base_digest="c" * 64)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"\xff\xfe"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = make_adapter(tmp_path / "adapter")
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(folder)


def test_a_manifest_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot be read"):
        read_adapter(make_adapter(tmp_path / "adapter", more="than we know"))


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="There is no adapter"):
        read_adapter(tmp_path / "none")


def test_the_digest_is_of_the_tensors_and_no_matter_of_their_order_in_the_file(tmp_path: Path) -> None:
    first = make_adapter(tmp_path / "first")
    config: dict[str, Any] = {"target_modules": ["k", "q"], "r": 4}
    second = make_adapter(tmp_path / "second", config=config)
    tensors = {name: np.full((2, 4), 1.0, dtype=np.float32) for name in ("layer.lora_B", "layer.lora_A")}
    save_file(tensors, second / WEIGHTS, metadata={"written": "later"})
    assert digest_of_adapter(first) == digest_of_adapter(second)
    third = make_adapter(tmp_path / "third", config={**config, "r": 8})
    assert digest_of_adapter(third) != digest_of_adapter(first)
