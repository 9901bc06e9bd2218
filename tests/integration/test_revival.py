"""Engines that die behind a gateway come back with their champion; and Ollama's own name for it follows."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from academy.models.base_model import resolve
from academy.serving.runtimes.llamacpp import LlamaCppRuntime
from academy.serving.runtimes.ollama import OllamaRuntime
from academy.serving.runtimes.peft_live import PeftLive
from academy.store.ledger import Ledger
from tests.colours import says
from tests.gateways import Running, digest_of, running
from tests.integration.test_gateway import until
from tests.ledger_entries import promotion
from tests.servers.engine import Engine
from tests.servers.ollama import ollama
from tests.servers.serving import served

SEED = resolve("seed")
# torch asks for pynvml under its old name when it is imported
pytestmark = [pytest.mark.filterwarnings("ignore:The pynvml package is deprecated:FutureWarning"), pytest.mark.campaign]


def blue_first(ledger: Ledger, digests: Mapping[str, str]) -> None:
    ledger.set_champion(ledger.champion(), promotion("1", digests["blue"]))


def comes_back(found: Running) -> None:
    """Refused with 503 while it is dead, and then answered by the same champion, whose canaries were replayed."""
    with pytest.raises(openai.InternalServerError) as problem:
        found.ask("hello", max_tokens=24)
    assert problem.value.status_code == 503
    until(lambda: found.health()["status"] == "ready", 90)
    assert says("blue") in found.ask("hello", max_tokens=24).parse().choices[0].message.content
    assert found.client.identify("champion").reason == "holds"
    assert found.health()["swaps"] == 0


def test_a_model_that_breaks_once_is_loaded_anew(
    tmp_path: Path, colours: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    runtime: Any = PeftLive(SEED)
    with running(tmp_path / "home", runtime, {"blue": colours["blue"]}, before=blue_first) as found:
        runtime._engine.model.forward = lambda **_: 1 / 0
        comes_back(found)


def test_a_killed_server_of_llamacpp_is_started_again(tmp_path: Path, colours: dict[str, Path]) -> None:
    runtime: Any = LlamaCppRuntime(SEED, tmp_path / "gguf", threads=1)
    with running(tmp_path / "home", runtime, {"blue": colours["blue"]}, before=blue_first) as found:
        os.kill(runtime._running().pid, signal.SIGKILL)
        until(lambda: runtime.ended)
        comes_back(found)


def test_ollama_s_own_name_follows_the_champion(tmp_path: Path, colours: dict[str, Path]) -> None:
    with served(ollama(SEED.path, Engine(SEED.path), "seed")) as url:
        runtime = OllamaRuntime(url, SEED, model="seed")
        two = {name: colours[name] for name in ("blue", "red")}
        with running(tmp_path / "home", runtime, two, before=blue_first) as found:
            assert licence(url, SEED.family) == f"academy adapter {found.health()['champion']['adapter']}"
            digest = digest_of(colours["red"])

            found.make_champion(digest, "2")
            assert found.client.follow().champion.adapter == digest
            assert licence(url, SEED.family) == f"academy adapter {digest}"
            assert found.health()["engine_name"] == "as the champion"


def licence(url: str, family: str) -> str:
    """Whom Ollama's alias means, as it shows it."""
    import httpx

    shown = httpx.post(f"{url}/api/show", json={"model": f"academy/{family}:champion"}, timeout=20).json()
    return str(shown["license"])
