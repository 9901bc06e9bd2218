"""The chat template: which token ends an answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.errors import TemplateError
from academy.models.base_model import SEED_FOLDER
from academy.models.chat_template import ChatTemplate, Message
from academy.serving.export.gguf_vocabulary import vocabulary

TALK: list[Message] = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "because"}]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The seed model like Gemma: its turns end with another token than its texts."""
    folder = Path(shutil.copytree(SEED_FOLDER, tmp_path / "model"))
    change(folder / "tokenizer_config.json", eos_token="<|begin|>")
    change(folder / "generation_config.json", eos_token_id=[1, 5])
    return folder


def change(file: Path, **said: Any) -> None:
    """Other values of some keys."""
    file.write_bytes(orjson.dumps({**orjson.loads(file.read_bytes()), **said}))


def test_answer_ends_with_the_model_s_end_of_turn_token(model: Path) -> None:
    usual, other = ChatTemplate.of(SEED_FOLDER), ChatTemplate.of(model)
    assert other.tokenizer.eos_token == "<|end|>"
    assert other.example(TALK) == usual.example(TALK)
    assert other.digest == usual.digest
    assert ChatTemplate(other.tokenizer, usual.text).tokenizer.eos_token_id == 5
    assert vocabulary(model, 300).eos == vocabulary(SEED_FOLDER, 300).eos == 5


@pytest.mark.parametrize("ends", [1, [1], [], None, [1, 99_999], "5", [4], -5])
def test_unused_end_token_is_ignored(model: Path, ends: Any) -> None:
    change(model / "generation_config.json", eos_token_id=ends)
    with pytest.raises(TemplateError, match=r"does not end an answer with <\|begin\|>"):
        ChatTemplate.of(model).example(TALK)


@pytest.mark.parametrize("content", [b"no json", b"[]", None])
def test_missing_or_invalid_generation_config_changes_nothing(model: Path, content: bytes | None) -> None:
    file = model / "generation_config.json"
    file.unlink() if content is None else file.write_bytes(content)
    assert ChatTemplate.of(model).tokenizer.eos_token == "<|begin|>"
