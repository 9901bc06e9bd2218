"""The table of runtimes: names, options that do not fit, and a runtime that an installed package adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from academy.errors import InputError
from academy.models.base_model import resolve
from academy.serving.runtimes.table import GROUP, RUNTIMES, make_runtime
from academy.settings import Settings
from academy.system.plugins import plugin_names
from tests.gateways import running
from tests.plugins import install_plugin

OUTSIDE_RUNTIME = '''
"""A runtime outside the project: it answers every conversation with its last message in capital letters."""

from academy.serving.runtimes.base import Capabilities, Piece


class Shouting:
    name = "shouting"
    capabilities = Capabilities(hot=True, rslora=False, dora=False, logprobs=False, tolerance=0.3)
    loaded = frozenset()
    ended = False

    def __init__(self, context):
        context.refuse_seen_as("shouting")
        self.family = context.base.family

    async def start(self):
        pass

    async def load(self, adapter):
        raise NotImplementedError

    async def unload(self, adapter):
        pass

    async def point(self, adapter):
        return ""

    async def chat(self, turn, adapter):
        text = turn.messages[-1]["content"].upper()
        yield Piece(text=text)
        yield Piece(finish="stop", prompt_tokens=1, tokens=1)

    async def close(self):
        pass
'''


def make(tmp_path: Path, name: str, **options: Any) -> Any:
    settings = Settings(_env_file=None).model_copy(update={"home": tmp_path})  # type: ignore[call-arg]
    return make_runtime(settings, resolve("seed"), name, **options)


def test_vllm_gets_the_adapters_folder_as_its_server_sees_it(tmp_path: Path) -> None:
    url = "http://127.0.0.1:1"
    assert make(tmp_path, "vllm", url=url, seen_as="/adapters")._seen_as == "/adapters"
    assert make(tmp_path, "vllm", url=url)._seen_as is None


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("abacus", {}, "no runtime 'abacus'"),
        ("peft", {"url": "http://127.0.0.1:1"}, "takes no URL"),
        ("vllm", {}, "vllm needs the address of its server"),
        ("vllm", {"url": "http://127.0.0.1:1", "seen_as": "adapters"}, "'adapters' is not absolute"),
        ("peft", {"seen_as": "/adapters"}, "peft does not take --seen-as"),
        ("llamacpp", {"seen_as": "/adapters"}, "llamacpp does not take --seen-as"),
        ("ollama", {"url": "http://127.0.0.1:1"}, "does not name the Ollama model"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_a_fix(
    tmp_path: Path, name: str, options: dict[str, str], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as problem:
        make(tmp_path, name, **options)
    assert problem.value.remedy


def test_an_unknown_runtime_is_refused_with_the_known_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.runtimes", "shouting", OUTSIDE_RUNTIME, "Shouting")
    with pytest.raises(InputError) as problem:
        make(tmp_path, "abacus")
    assert problem.value.remedy == "Choose one of peft, llamacpp, vllm, ollama, shouting."


def test_a_runtime_of_an_installed_package_answers_through_the_gateway(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path, monkeypatch, "academy.runtimes", "shouting", OUTSIDE_RUNTIME, "Shouting")
    assert plugin_names(GROUP, RUNTIMES) == ["peft", "llamacpp", "vllm", "ollama", "shouting"]
    with running(tmp_path / "home", make(tmp_path, "shouting")) as gateway:
        answer = gateway.ask("good morning")
        assert answer.parse().choices[0].message.content == "GOOD MORNING"
        assert answer.headers["x-academy-version"] == "base"
        assert httpx.get(f"{gateway.url}/healthz").json()["runtime"] == "shouting"
    with pytest.raises(InputError, match="shouting does not take --seen-as"):
        make(tmp_path, "shouting", seen_as="/adapters")
