"""`academy verify --live` and its flow, against the real command that serves: who answers by which name."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from academy.adapters.adapter import WEIGHTS
from academy.models.base_model import resolve
from academy.serving.gateway.client import GatewayClient
from academy.settings import Settings
from tests.conftest import Evolved
from tests.homes import RealHome

FLOW = """
from academy.operations.prefect_server import configure, prefect_server
from academy.settings import load_settings

s = load_settings()
configure(s)
with prefect_server(s) as server:
    server.wait()
    from flows.verify import verify
    print(verify(versions=['v1'])['answers'][1]['reason'])
"""


@contextmanager
def serving(home: RealHome, **settings: str) -> Iterator[GatewayClient]:
    """`academy serve` in a process of its own."""
    known = Settings(_env_file=None).model_copy(update={"home": home.path})  # type: ignore[call-arg]
    words = home.desk / "serve.err"
    process = home.start("serve", "--port", "0", stderr=words, **settings)
    try:
        until = time.monotonic() + 120
        while (found := GatewayClient.find(known, resolve("seed").digest)) is None:
            assert process.poll() is None, words.read_text(encoding="utf-8")
            assert time.monotonic() < until
            time.sleep(0.1)
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def flow(home: RealHome) -> subprocess.CompletedProcess[str]:
    """The flow as a worker runs it."""
    return subprocess.run(
        [sys.executable, "-c", FLOW], cwd=home.desk, env=home.environment(), capture_output=True, text=True, check=False
    )


def test_verify_live_without_a_gateway_is_an_error_with_a_remedy(evolved: Evolved) -> None:
    done = evolved.home.run("verify", "--live", "v1")
    assert (done.code, "Traceback" in done.err) == (2, False)
    assert "No gateway of this home serves" in done.err
    assert "Start it with `academy serve`" in done.err


def test_verify_live_holds_for_champion_and_version_until_the_version_is_refused(second_home: RealHome) -> None:
    home = second_home
    with serving(home) as gateway:
        done = home.run("verify", "--live", "v1", "v77", "--json")
        assert done.code == 2, "v77 does not exist"
        assert [(answer["name"], answer["version"], answer["reason"]) for answer in done.json["answers"]] == [
            ("champion", "v1", "holds"), ("v1", "v1", "holds"), ("v77", "v77", "not served"),
        ]  # fmt: skip
        assert all(answer["same"] == answer["asked"] == 8 for answer in done.json["answers"][:2])
        assert "The model 'v77' does not exist" in done.json["answers"][2]["sentence"]
        assert "loaded by a running process" in _archived_in_vain(home)
        assert home.run("models", "refuse", "v1", "--because", "it is rude").code == 0
        _emptied(gateway)
        done = home.run("verify", "--live")
        assert (done.code, "The champion v1 is refused" in done.out) == (2, True), done.out
        assert home.run("rollback", "base").code == 0
        assert gateway.status().status == "ready"
        assert gateway.identify("champion").holds
        assert home.run("models", "readmit", "v1", "--because", "it was not").code == 0
        assert home.run("models", "archive", "v1").code == 0
        assert gateway.identify("v1").holds, "it was not restored"
        assert "loaded by a running process" in _archived_in_vain(home)


@pytest.mark.campaign
def test_verify_flow_fails_for_a_refused_champion(second_home: RealHome) -> None:
    home = second_home
    with serving(home) as gateway:
        ran = flow(home)
        assert ran.stdout.strip().endswith("holds"), ran.stderr
        assert home.run("models", "refuse", "v1", "--because", "it is rude").code == 0
        _emptied(gateway)
        ran = flow(home)
        assert ran.returncode == 1
        assert "v1 is not verified: refusals. v1 was refused" in ran.stderr


def _emptied(gateway: GatewayClient) -> None:
    """Wait until it has dropped what was refused."""
    until = time.monotonic() + 30
    while gateway.status().loaded:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert "academy rollback" in gateway.status().because


def _archived_in_vain(home: RealHome) -> str:
    """What is said where the champion's adapter would be archived although it is loaded."""
    from academy.adapters.archive import AdapterStore
    from academy.errors import AdapterError

    (folder,) = (path for path in (home.path / "adapters").iterdir() if (path / WEIGHTS).is_file())
    with pytest.raises(AdapterError) as problem, AdapterStore(Path(home.path / "adapters")).exclusive(folder.name):
        pass
    return problem.value.message
