"""Attacks by a second reader on the servers of a home: addresses of killed servers, two homes, two readings of JSON."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn

from academy.access.guarded_connections import ConnectionLimits
from academy.access.guarded_server import GuardedServer
from academy.access.layer import AccessLayer
from academy.access.peers import account_of, listener_account, socket_account
from academy.access.rules import AccessRules, Refusal, Request, admit
from academy.access.secret import write_private
from academy.errors import InputError, ServingError
from academy.operations.prefect_server import AUTH_FILE, URL_FILE, OwnServer, running
from academy.serving.gateway.client import GatewayClient
from academy.serving.gateway.discovery import FOLDER, DiscoveryFile
from academy.serving.gateway.server import listening
from academy.settings import Settings, load_settings
from tests.attacks.test_addresses import bind
from tests.servers.pages import free_port
from tests.strangers import AS_ROOT, NOBODY

FAMILY = "f" * 64
SECRET = "s" * 43
SQUATTER = """
import json, socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
server.settimeout(3)
body = json.dumps({"status": "ready", "because": "", "champion": {"version": "v9", "adapter": "0" * 64,
    "generation": 1, "row": 1}, "loaded": [], "in_flight": {}, "swaps": 0, "holds": True}).encode()
try:
    while True:
        client = server.accept()[0]
        client.settimeout(1)
        print(client.recv(65536), flush=True)
        client.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\nconnection: close\\r\\n\\r\\n" % len(body) + body)
        client.close()
except TimeoutError:
    pass
"""
needs_root = pytest.mark.skipif(not AS_ROOT, reason="root only: another account")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a new home."""
    return load_settings(tmp_path / "home")


@contextmanager
def squatter(host: str = "127.0.0.1") -> Iterator[tuple[int, Callable[[], str]]]:
    """Another account that listens at a port and answers as a gateway would. Its port, and what it was sent."""
    with subprocess.Popen(
        ["/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable, "-I", "-c", SQUATTER, host],
        stdout=subprocess.PIPE, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={}, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.stdout.read


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104  the stranger's
def test_stranger_at_the_address_of_a_killed_gateway_gets_no_token_and_is_not_believed(
    settings: Settings, host: str
) -> None:
    with squatter(host) as (port, received):
        discovery = DiscoveryFile(
            name="default", url=f"http://127.0.0.1:{port}", token=SECRET, pid=1, family=FAMILY
        )  # fmt: skip
        (settings.folder(FOLDER) / "default.json").write_bytes(orjson.dumps(discovery.model_dump()))
        assert GatewayClient.find(settings, FAMILY) is None
        client = GatewayClient(discovery, SECRET)  # it was found while the gateway ran
        for request in (client.status, client.verify, lambda: client.ask([{"role": "user", "content": "hello"}])):
            with pytest.raises(ServingError, match="another account has its address"):
                request()
        assert received() == ""


@needs_root
def test_listener_at_all_addresses_is_known_by_its_account() -> None:
    with squatter("0.0.0.0") as (port, _):  # noqa: S104  the stranger's
        assert listener_account(("127.0.0.1", port)) == NOBODY


@pytest.mark.campaign
@pytest.mark.slow
def test_server_of_another_home_at_the_address_of_a_killed_one_is_not_used(tmp_path: Path) -> None:
    """Both homes are of this account. The runs and orders of one would go to the workers of the other."""
    other = load_settings(tmp_path / "other")
    server = OwnServer(other)
    try:
        server.wait()
        url = os.environ.pop("PREFECT_API_URL")
        settings = load_settings(tmp_path / "home")
        (settings.folder("prefect") / URL_FILE).write_text(url)
        assert running(settings) == "", "its own string is gone"
        write_private(settings, AUTH_FILE, f"academy:{SECRET}")
        assert running(settings) == "", "the server does not accept it"
        write_private(settings, AUTH_FILE, os.environ["PREFECT_API_AUTH_STRING"])
        assert running(settings) == url
    finally:
        server.end()


def test_password_of_another_home_is_refused_though_the_account_is_right() -> None:
    address = ("127.0.0.1", 1000)
    rules = AccessRules(owners=frozenset({7}), tokens=(SECRET,))
    for header in ("Basic eDp5", "Basic", "Basic ???"):
        request = Request(
            scheme="http", headers=(("host", "localhost"), ("authorization", header)), client=address, server=address
        )
        outcome = admit(request, rules, lambda _client, _server: 7)
        assert isinstance(outcome, Refusal), header
        assert outcome.status == 401


HIT_AND_RUN = """
import socket, struct, sys
client = socket.socket()
client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
client.bind(("127.0.0.1", 0))
print(client.getsockname()[1], flush=True)
client.connect(("127.0.0.1", int(sys.argv[1])))
client.sendall(sys.argv[2].encode())
sys.stdin.readline()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.close()
"""
HANDSHAKE = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
HANDSHAKE += "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize(("method", "more"), [("POST", "content-length: 0\r\n"), ("GET", HANDSHAKE)])
def test_stranger_who_has_left_is_not_taken_for_the_owner_who_connects_from_the_same_port(
    method: str, more: str
) -> None:
    """A blind request waits while its account is looked up; meanwhile its port gets to a program of the owner."""
    reached, arrived, proceed = [], threading.Event(), threading.Event()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        reached.append(scope["path"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def nobody(_token: str) -> str:
        arrived.set()
        proceed.wait(20)
        return ""

    rules = AccessRules(owners=frozenset({0}), tokens=(SECRET,))
    config = uvicorn.Config(AccessLayer(app, rules, holder_of=nobody), log_config=None, lifespan="off")
    server = GuardedServer(config, ConnectionLimits())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        request = f"{method} /blind HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\n{more}\r\n"
        python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
        with subprocess.Popen(
            [python, "-I", "-c", HIT_AND_RUN, str(port), request], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={}, text=True,
        ) as stranger:  # fmt: skip
            assert stranger.stdout is not None
            its_port = int(stranger.stdout.readline())
            assert arrived.wait(20)
            stranger.communicate("leave\n", timeout=20)
        with socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.1", its_port)) as owner:
            proceed.set()
            time.sleep(0.5)
            owner.sendall(b"GET /open HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert b"200 OK" in owner.recv(65536)
        server.should_exit = True
        thread.join(20)
    assert reached == ["/open"]


MANY_SOCKETS = """
import resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
pairs = []
listener = socket.create_server(("127.0.0.2", 0), backlog=4096)
try:
    while len(pairs) < 8000:
        pairs.append((socket.create_connection(listener.getsockname()), listener.accept()[0]))
except OSError:
    pass
print(len(pairs), flush=True)
sys.stdin.readline()
"""


@needs_root
@pytest.mark.campaign
@pytest.mark.slow
def test_sockets_of_a_stranger_do_not_delay_the_owner() -> None:
    """Each request asks for an account. A list of all sockets takes long where a stranger has opened many."""
    python = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
    with subprocess.Popen(
        [python, "-I", "-c", MANY_SOCKETS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env={}, text=True,
    ) as stranger:  # fmt: skip
        assert stranger.stdout is not None
        assert int(stranger.stdout.readline()) > 500
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as client,
        ):
            began = time.process_time()
            for _ in range(50):
                assert account_of(client.getsockname(), listener.getsockname()) == os.getuid()
            assert time.process_time() - began < 1.0
        stranger.communicate("end\n", timeout=20)


@pytest.mark.parametrize(
    ("family", "host", "name"),
    [(socket.AF_INET, "127.0.0.1", "127.0.0.1"), (socket.AF_INET6, "::1", "::1"),
     (socket.AF_INET6, "127.0.0.1", "::ffff:127.0.0.1")],
)  # fmt: skip
def test_kernel_tells_the_account_of_an_open_socket_only(family: socket.AddressFamily, host: str, name: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        server = listener.getsockname()[:2]
        with socket.socket(family) as client:
            client.connect((name, server[1]))
            accepted, address = listener.accept()
            with accepted:
                client_address = address[:2]
                assert socket_account(client_address, server) == account_of(client_address, server) == os.getuid()
                assert socket_account(("127.0.0.9", address[1]), server) is None
                client.shutdown(socket.SHUT_WR)
                assert socket_account(client_address, server) is None
                client.close()
                assert socket_account(client_address, server) is None
    assert socket_account(("evil.example", 1), server) is None


def test_stranger_cannot_listen_at_the_port_of_a_gateway_that_loads_its_model() -> None:
    """A port that is only bound goes to the first listener. `localhost` may mean ::1."""
    port = free_port()
    hosts = ["127.0.0.1"] if bind("::1", 0) else ["127.0.0.1", "::1"]
    with listening("127.0.0.1", port) as listeners:
        assert [listener.getsockname()[0] for listener in listeners] == hosts
        assert {bind(host, port) for host in hosts} == {errno.EADDRINUSE}
    assert {bind(host, port) for host in hosts} == {0}, "they end together"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_gateway_does_not_start_beside_a_squatter(host: str) -> None:
    if bind(host, 0):
        return  # a machine without IPv6 has no second address
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as squatter_socket:
        port = squatter_socket.getsockname()[1]
        with pytest.raises(InputError, match=f"Port {port} of {host} cannot be used"), listening("127.0.0.1", port):
            pass
