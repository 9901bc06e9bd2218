"""Users ask while champions change: every answer shows by its text who made it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bench.swap import house, measure
from tests.homes import RealHome


@pytest.mark.parametrize("swaps", [12, pytest.param(50, marks=pytest.mark.campaign)])
def test_no_answer_is_dropped_mixed_or_mislabelled_while_champions_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colours: dict[str, Path], swaps: int
) -> None:
    """16 clients, by the real command in its own process."""
    monkeypatch.setenv("ACADEMY_SERVE_KEEP", "2")
    with house(tmp_path / "home", "peft", colours) as found:
        row = measure(found, clients=16, swaps=swaps, replies=100)
        assert (row["dropped"], row["mixed"], row["mislabelled"]) == (0, 0, 0), row
        assert (row["swaps"], row["champions seen"]) == (swaps, 4)
        assert row["replies"] >= 100
        assert len(found.client.status().loaded) == 2
        note = tmp_path / "home" / "serving" / "default.json"
        assert note.is_file()
        os.kill(found.pid, signal.SIGTERM)
        until = time.monotonic() + 60
        while note.exists():
            assert time.monotonic() < until
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--runtime", "abacus"), "There is no runtime 'abacus'. Choose one of peft, llamacpp, vllm, ollama."),
        (("--name", "../x"), "is no name for a gateway"),
        (("--host", "192.0.2.1"), "no key is set"),
        (("--host", "203.0.113.9", "--port", "0"), "no key is set"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = RealHome(tmp_path / "home").run("serve", *arguments)
    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err


def test_a_port_that_is_taken_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = RealHome(tmp_path / "home").run("serve", "--port", str(taken.getsockname()[1]))
    assert (done.code, "cannot be used" in done.err) == (2, True)


def test_a_gateway_can_be_killed_and_started_again(tmp_path: Path) -> None:
    """SIGKILL leaves a note that nobody believes, and no lock."""
    from academy.models.base_model import resolve
    from academy.serving.gateway.client import GatewayClient
    from academy.settings import Settings

    home = RealHome(tmp_path / "home")
    settings = Settings(_env_file=None).model_copy(update={"home": home.path})  # type: ignore[call-arg]
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
