"""Attacks on the addresses of a home's servers: another account takes one and waits for what clients send."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from academy.access.secret import home_secret, secret_file, write_private
from academy.errors import InputError
from academy.operations.listeners import listen
from academy.operations.prefect_app import CLIENT_AUTH
from academy.operations.prefect_server import AUTH_FILE, URL_FILE, OwnServer, running, use_own_server
from academy.settings import Settings, load_settings
from tests.servers.pages import free_port
from tests.strangers import AS_ROOT, NOBODY

STRANGER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
server.settimeout(3)
try:
    while True:
        client = server.accept()[0]
        client.settimeout(1)
        print(client.recv(65536), flush=True)
except TimeoutError:
    pass
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a new home. What is set in the environment ends with the test."""
    for name in ("PREFECT_API_URL", CLIENT_AUTH):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    return load_settings(home)


def bind(host: str, port: int) -> int:
    """The errno with which taking an address fails; 0 if it succeeds."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as problem:
            return problem.errno or -1
    return 0


def test_the_other_loopback_address_of_a_port_is_taken_too() -> None:
    """`localhost` may mean ::1, where a stranger would show pages of their own."""
    sockets = listen(free_port())
    try:
        port = sockets[0].getsockname()[1]
        hosts = [listener.getsockname()[0] for listener in sockets]
        assert hosts == (["127.0.0.1", "::1"] if bind("::1", 0) == 0 else ["127.0.0.1"])
        assert {bind(host, port) for host in hosts} == {errno.EADDRINUSE}
    finally:
        for listener in sockets:
            listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_does_not_start_beside_a_squatter(host: str) -> None:
    if bind(host, 0):
        return  # a machine without IPv6 has no second address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as squatter:
        squatter.bind((host, 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of {host} is in use"):
            listen(port)


def test_the_address_stays_taken_while_the_server_is_down(settings: Settings) -> None:
    server = OwnServer(settings)
    try:
        assert server.process is not None
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        assert bind("127.0.0.1", port) == errno.EADDRINUSE
    finally:
        server.end()


def test_clients_are_given_a_string_of_the_server_and_not_the_secret(settings: Settings) -> None:
    server = OwnServer(settings)
    try:
        strings = [os.environ[CLIENT_AUTH]]
    finally:
        server.end()
    server = OwnServer(settings)
    strings.append(os.environ[CLIENT_AUTH])
    server.end()
    assert len(set(strings)) == 2, "each server has its own"
    assert not any(home_secret(settings) in text for text in strings)


@pytest.mark.skipif(not AS_ROOT, reason="root only: another account")
def test_a_stranger_at_the_address_of_a_killed_server_gets_nothing(settings: Settings) -> None:
    with subprocess.Popen(
        ["/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-I", "-c", STRANGER],
        stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={}, text=True,
    ) as stranger:  # fmt: skip
        assert stranger.stdout is not None
        url = f"http://127.0.0.1:{int(stranger.stdout.readline())}/api"
        (settings.folder("prefect") / URL_FILE).write_text(url)
        write_private(settings, AUTH_FILE, "academy:" + "x" * 43)
        assert running(settings) == ""
        assert stranger.stdout.read() == ""


def test_the_string_of_a_running_server_is_read_from_a_private_file(settings: Settings) -> None:
    path = write_private(settings, AUTH_FILE, "academy:" + "x" * 43)
    assert path.parent == secret_file(settings).parent
    assert path.stat().st_mode & 0o777 == 0o600
    use_own_server(settings, "http://127.0.0.1:1/api")
    assert os.environ[CLIENT_AUTH] == "academy:" + "x" * 43
