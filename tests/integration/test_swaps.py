"""The real command serves while champions change; the text of every answer shows which adapter made it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from academy.home.identity import claim_home
from bench.swap import measure, serving_home
from tests.homes import RealHome


@pytest.mark.parametrize("swaps", [12, pytest.param(50, marks=pytest.mark.campaign)])
def test_no_answer_is_dropped_mixed_or_mislabelled_while_champions_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: dict[str, Path], swaps: int
) -> None:
    """16 clients, by the real command in its own process."""
    monkeypatch.setenv("ACADEMY_SERVE_KEEP", "2")
    with serving_home(tmp_path / "home", "peft", colours) as home:
        row = measure(home, clients=16, swaps=swaps, replies=100)
        assert (row["dropped"], row["mixed"], row["mislabelled"]) == (0, 0, 0), row
        assert (row["swaps"], row["champions seen"]) == (swaps, 4)
        assert row["replies"] >= 100
        assert len(home.client.status().loaded) == 2
        discovery = tmp_path / "home" / "serving" / "default.json"
        assert discovery.is_file()
        os.kill(home.pid, signal.SIGTERM)
        until = time.monotonic() + 60
        while discovery.exists():
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--runtime", "abacus"), "no runtime 'abacus'. Choose one of peft, llamacpp, vllm, ollama."),
        (("--name", "../x"), "is not a valid gateway name"),
        (("--host", "192.0.2.1"), "no key is set"),
        (("--host", "203.0.113.9", "--port", "0"), "no key is set"),
    ],
)
def test_invalid_options_are_refused_in_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    done = RealHome(tmp_path / "home").run("serve", *arguments)
    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err


def test_port_in_use_is_refused_before_loading(tmp_path: Path) -> None:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = RealHome(tmp_path / "home").run("serve", "--port", str(listener.getsockname()[1]))
    assert (done.code, "cannot be used" in done.err) == (2, True)


def test_gateway_can_be_killed_and_restarted(tmp_path: Path) -> None:
    """SIGKILL leaves a discovery file, which is ignored, and no lock."""
    from academy.models.base_model import resolve
    from academy.serving.gateway.client import GatewayClient
    from academy.settings import Settings

    home = RealHome(tmp_path / "home")
    settings = Settings(_env_file=None).model_copy(update={"home": home.path})  # type: ignore[call-arg]
    claim_home(home.path)  # before this process looks for the gateway's files in it
    family = resolve("seed").digest

    def started(process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 120
        while GatewayClient.find(settings, family) is None:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)

    for number in (signal.SIGKILL, signal.SIGTERM):
        process = home.start("serve", "--port", "0", stderr=tmp_path / "words")
        started(process)
        process.send_signal(number)
        assert process.wait(30) == (0 if number == signal.SIGTERM else -number)
        assert GatewayClient.find(settings, family) is None
        assert (settings.folder("serving") / "default.json").exists() is (number == signal.SIGKILL)
