"""Which engine is chosen by which name, and what is refused before anything is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from academy.errors import InputError
from academy.models.base_model import resolve
from academy.serving.runtimes.table import make_runtime
from academy.settings import Settings


def made(tmp_path: Path, engine: str, **given: Any) -> Any:
    settings = Settings(_env_file=None).model_copy(update={"home": tmp_path})  # type: ignore[call-arg]
    return make_runtime(settings, resolve("seed"), engine, **given)


def test_vllm_is_told_where_it_sees_the_adapters(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1"
    assert made(tmp_path, "vllm", url=url, seen_as="/adapters")._seen_as == "/adapters"
    assert made(tmp_path, "vllm", url=url)._seen_as is None


@pytest.mark.parametrize(
    ("engine", "given", "sentence"),
    [
        ("abacus", {}, "is no runtime"),
        ("peft", {"url": "http://127.0.0.1:1"}, "answers in this process"),
        ("vllm", {}, "Where vllm answers is not said"),
        ("vllm", {"url": "http://127.0.0.1:1", "seen_as": "adapters"}, "is no absolute path"),
        ("peft", {"seen_as": "/adapters"}, "reads no folder of adapters elsewhere"),
        ("ollama", {"url": "http://127.0.0.1:1"}, "is not said"),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path: Path, engine: str, given: dict[str, str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as problem:
        made(tmp_path, engine, **given)
    assert problem.value.remedy
