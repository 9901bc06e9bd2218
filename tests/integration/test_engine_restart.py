"""Engines that die behind a gateway restart with their champion; Ollama's alias follows the champion."""

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
pytestmark = pytest.mark.campaign


def blue_first(ledger: Ledger, digests: Mapping[str, str]) -> None:
    ledger.set_champion(ledger.champion(), promotion("1", digests["blue"]))


def assert_recovers(server: Running) -> None:
    """Requests get 503 while the engine is dead, then answers of the same champion, whose canaries were replayed."""
    with pytest.raises(openai.InternalServerError) as problem:
        server.ask("hello", max_tokens=24)
    assert problem.value.status_code == 503
    until(lambda: server.health()["status"] == "ready", 90)
    assert says("blue") in server.ask("hello", max_tokens=24).parse().choices[0].message.content
    assert server.client.identify("champion").reason == "holds"
    assert server.health()["swaps"] == 0


def test_broken_model_is_loaded_again(
    tmp_path: Path, colours: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    runtime: Any = PeftLive(SEED)
    with running(tmp_path / "home", runtime, {"blue": colours["blue"]}, before=blue_first) as server:
        runtime._engine.model.forward = lambda **_: 1 / 0
        assert_recovers(server)


def test_killed_llamacpp_server_is_restarted(tmp_path: Path, colours: dict[str, Path]) -> None:
    runtime: Any = LlamaCppRuntime(SEED, tmp_path / "gguf", threads=1)
    with running(tmp_path / "home", runtime, {"blue": colours["blue"]}, before=blue_first) as server:
        os.kill(runtime._running().pid, signal.SIGKILL)
        until(lambda: runtime.ended)
        assert_recovers(server)


def test_ollama_alias_follows_the_champion(tmp_path: Path, colours: dict[str, Path]) -> None:
    with served(ollama(SEED.path, Engine(SEED.path), "seed")) as url:
        runtime = OllamaRuntime(url, SEED, model="seed")
        adapters = {name: colours[name] for name in ("blue", "red")}
        with running(tmp_path / "home", runtime, adapters, before=blue_first) as server:
            assert licence(url, SEED.family) == f"academy adapter {server.health()['champion']['adapter']}"
            digest = digest_of(colours["red"])

            server.make_champion(digest, "2")
            assert server.client.follow().champion.adapter == digest
            assert licence(url, SEED.family) == f"academy adapter {digest}"
            assert server.health()["engine_name"] == "as the champion"


def licence(url: str, family: str) -> str:
    """The licence text of the model behind Ollama's alias."""
    import httpx

    model = httpx.post(f"{url}/api/show", json={"model": f"academy/{family}:champion"}, timeout=20).json()
    return str(model["license"])
