"""Who may connect to a server of a home: real sockets, other accounts, foreign pages."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
import websockets.sync.client as websocket_client
from websockets.exceptions import InvalidStatus

from academy.access.layer import ADMISSION, AccessLayer
from academy.access.peers import account_of, listener_account
from academy.access.rules import AccessRules, Admission, Refusal, Request, admit
from academy.access.secret import home_secret, secret_file
from academy.errors import HomeError
from academy.settings import Settings
from tests.strangers import AS_ROOT, owners, request_bytes, send_as_stranger

SECRET = "s" * 43
RULES = AccessRules(owners=owners(), tokens=(SECRET,), public=("/health",))
OWNER = AccessRules(owners=frozenset({os.getuid()}), tokens=(SECRET,))
HOSTS = ("127.0.0.1", "::1")


class Echo:
    """Answers with the admission of the request, and counts what reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        self.reached.append(scope["path"])
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": scope[ADMISSION].by})
            await send({"type": "websocket.close"})
            return
        body = orjson.dumps(scope[ADMISSION].model_dump())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class Server:
    """A layer before an echo, on a loopback address."""

    def __init__(self, host: str, rules: AccessRules) -> None:
        self.echo = Echo()
        self.host = host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind((host, 0))
        self.port = int(self.listener.getsockname()[1])
        self.name = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        config = uvicorn.Config(
            AccessLayer(self.echo, rules), log_config=None, proxy_headers=False, lifespan="off", ws="websockets-sansio"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve([self.listener])), daemon=True)
        self.thread.start()
        until = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < until
            time.sleep(0.01)

    def send(self, request: bytes) -> tuple[int, dict[str, str], Any]:
        with socket.create_connection((self.host, self.port), timeout=20) as client:
            client.sendall(request)
            return answer_of(read_all(client))

    def as_stranger(self, request: bytes, after: str = "read") -> tuple[int, dict[str, str], Any]:
        return answer_of(send_as_stranger(self.host, self.port, request, after))

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)


def read_all(client: socket.socket) -> bytes:
    content = b""
    while part := client.recv(65536):
        content += part
    return content


def answer_of(content: bytes) -> tuple[int, dict[str, str], Any]:
    head, _, body = content.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, orjson.loads(body) if body.startswith(b"{") else None


@pytest.fixture(scope="module", params=HOSTS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """For tests with a stranger."""
    running = Server(request.param, RULES)
    yield running
    running.end()


@pytest.fixture(scope="module", params=HOSTS)
def own(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server whose owner is this account."""
    running = Server(request.param, OWNER)
    yield running
    running.end()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_owner_needs_no_token_on_loopback(own: Server) -> None:
    status, _, body = own.send(request_bytes(host=own.name))
    assert (status, body) == (200, {"by": "account", "account": os.getuid(), "key": ""})


def test_another_account_is_refused_in_one_sentence(server: Server) -> None:
    reached = len(server.echo.reached)
    status, headers, problem = server.as_stranger(
        request_bytes("/flow_runs", host=server.name, method="POST", body=b"{}")
    )
    assert status == 401
    assert headers["content-type"] == "application/problem+json"
    assert headers["www-authenticate"].startswith("basic realm=")
    assert problem["status"] == 401
    assert problem["detail"].endswith("needs the home's secret or a token here.")
    if AS_ROOT:
        assert problem["detail"].split()[:2] == ["The", "account"]
    assert len(server.echo.reached) == reached, "nothing behind the layer saw the request"


@pytest.mark.parametrize("header", [f"Bearer {SECRET}", f"bearer {SECRET}", basic("anybody", SECRET)])
def test_another_account_is_admitted_with_the_secret(server: Server, header: str) -> None:
    status, _, body = server.as_stranger(request_bytes(host=server.name, authorization=header))
    assert (status, body["by"]) == (200, "token")


@pytest.mark.parametrize(
    "header", ["Bearer wrong", "Bearer", basic("a", "wrong"), "Basic ???", "Bearer \u00e9", SECRET]
)
def test_another_account_with_a_wrong_token_is_refused(server: Server, header: str) -> None:
    assert server.as_stranger(request_bytes(host=server.name, authorization=header))[0] == 401


def test_another_account_that_closes_its_socket_is_not_taken_for_root(server: Server) -> None:
    """The kernel has no account for a socket whose process has closed it: a blind request must not get through."""
    reached = len(server.echo.reached)
    for _ in range(30 if AS_ROOT else 5):
        send_as_stranger(server.host, server.port, request_bytes("/blind", host=server.name, method="POST"), "close")
    time.sleep(0.5)
    assert b"200 OK" not in send_as_stranger(server.host, server.port, request_bytes(host=server.name), "half")
    assert len(server.echo.reached) == reached


def test_another_account_reads_public_paths_only(server: Server) -> None:
    assert server.as_stranger(request_bytes("/health", host=server.name))[0] == 200
    assert server.as_stranger(request_bytes("/health", host=server.name, method="POST"))[0] == 401
    assert server.as_stranger(request_bytes("/health/x", host=server.name))[0] == 401
    assert server.as_stranger(request_bytes("/health", host="evil.example"))[0] == 403


def test_a_token_of_a_proxy_is_needed_for_what_it_forwards(own: Server) -> None:
    for name in ("x_forwarded_for", "forwarded", "via", "x_real_ip", "x_forwarded_host"):
        status, _, problem = own.send(request_bytes(host=own.name, **{name: "203.0.113.7"}))
        assert (status, problem["detail"]) == (401, "A request through a proxy needs the home's secret or a token.")
    assert own.send(request_bytes(host=own.name, x_forwarded_for="::1", authorization=f"Bearer {SECRET}"))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4200", "127.0.0.1.evil.example", "localhost.evil.example", "evil@127.0.0.1",
             "192.0.2.1", "0.0.0.1", "", "[::2]", "127.0.0.1:x", "localhost/", "2130706433"]
)  # fmt: skip
def test_dns_rebinding_is_refused(own: Server, host: str) -> None:
    assert own.send(request_bytes(host=host))[0] == 403


def test_loopback_names_are_accepted(own: Server) -> None:
    for host in ("localhost", f"LocalHost:{own.port}", "127.0.0.1:1", "127.9.9.9", "[::1]", f"[::1]:{own.port}"):
        assert own.send(request_bytes(host=host))[0] == 200, host


def test_pages_of_another_origin_are_refused(own: Server) -> None:
    foreign = ["http://evil.example", "null", "http://localhost:8888", f"https://{own.name}", f"http://{own.name}.evil"]
    for origin in foreign:
        for method in ("GET", "POST", "OPTIONS"):
            status, headers, problem = own.send(request_bytes(host=own.name, method=method, origin=origin))
            assert (status, problem["detail"]) == (403, "Pages of another origin may not use this server."), origin
            assert "access-control-allow-origin" not in headers


def test_the_servers_own_page_is_admitted(own: Server) -> None:
    assert own.send(request_bytes(host=own.name, origin=f"http://{own.name}", method="POST"))[0] == 200


def test_a_page_of_another_port_of_this_machine_is_refused_without_an_origin(own: Server) -> None:
    for site in ("same-site", "cross-site"):
        for mode, dest in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty")):
            request = request_bytes(host=own.name, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest)
            assert own.send(request)[0] == 403, (site, mode, dest)
        link = {"sec_fetch_site": site, "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
        assert own.send(request_bytes(host=own.name, **link))[0] == 200, "a link that a person follows"
        assert own.send(request_bytes(host=own.name, method="POST", **link))[0] == 403, "a form of that page"
    for site in ("none", "same-origin"):
        assert own.send(request_bytes(host=own.name, sec_fetch_site=site))[0] == 200


def test_a_password_that_the_browser_repeats_does_not_help_a_foreign_page(own: Server) -> None:
    header = basic("me", SECRET)
    request = request_bytes(host=own.name, origin="http://evil.example", authorization=header)
    assert own.send(request)[0] == 403
    assert own.send(request_bytes(host=own.name, sec_fetch_site="cross-site", authorization=header))[0] == 403


def test_two_headers_that_decide_are_refused(own: Server) -> None:
    for lines in (b"host: evil.example", b"origin: http://%s\r\norigin: http://evil.example" % own.name.encode()):
        request = request_bytes(host=own.name).replace(b"content-length", lines + b"\r\ncontent-length", 1)
        assert own.send(request)[0] in (400, 403), lines


def test_each_request_of_an_open_connection_is_checked(own: Server) -> None:
    with socket.create_connection((own.host, own.port), timeout=20) as client:
        client.sendall(request_bytes(host=own.name, close=False))
        assert b"200 OK" in client.recv(65536)
        client.sendall(request_bytes(host="evil.example", close=False))
        assert b"403" in read_all(client).partition(b"\r\n")[0], "the connection ends with the refusal"


def test_an_open_connection_of_another_account_stays_refused(server: Server) -> None:
    """The second request comes in the same packet."""
    twice = request_bytes(host=server.name, close=False) + request_bytes("/second", host=server.name)
    reached = len(server.echo.reached)
    assert server.as_stranger(twice)[0] == 401
    assert len(server.echo.reached) == reached


def test_a_port_that_another_account_reuses_is_looked_up_again(server: Server) -> None:
    """No answer about a connection is kept: the same port may belong to another account a moment later."""
    if not AS_ROOT:
        assert account_of((server.host, 1), (server.host, server.port)) is None
        return
    with socket.create_connection((server.host, server.port)) as client:
        name = client.getsockname()[:2]
        assert account_of(name, (server.host, server.port)) == os.getuid()
    assert account_of(name, (server.host, server.port)) is None


def test_websockets_follow_the_same_rules(own: Server) -> None:
    url = f"ws://{own.name}/events"
    with websocket_client.connect(url) as socket_:
        assert socket_.recv() == "account"
    with websocket_client.connect(url, origin=f"http://{own.name}") as socket_:  # type: ignore[arg-type]
        assert socket_.recv() == "account"
    for origin in ("http://evil.example", "http://localhost:8888", "null"):
        with pytest.raises(InvalidStatus) as refusal, websocket_client.connect(url, origin=origin):  # type: ignore[arg-type]
            pass
        assert refusal.value.response.status_code == 403
        assert orjson.loads(refusal.value.response.body or b"")["detail"].startswith("Pages of another origin")


def test_a_websocket_of_another_account_is_refused(server: Server) -> None:
    handshake = {
        "upgrade": "websocket", "sec_websocket_version": "13",
        "sec_websocket_key": base64.b64encode(b"0" * 16).decode(),
    }  # fmt: skip
    request = request_bytes("/events", host=server.name, close=False, **handshake)
    request = request.replace(b"upgrade:", b"connection: Upgrade\r\nupgrade:").replace(b"content-length: 0\r\n", b"")
    status, _, problem = server.as_stranger(request)
    assert (status, problem["status"]) == (401, 401)


def test_mapped_addresses_name_the_account() -> None:
    """A client may reach an IPv4 server from an IPv6 socket, and a server of both families is one."""
    with socket.socket(socket.AF_INET6) as listener:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        port = listener.getsockname()[1]
        for family, host in (
            (socket.AF_INET, "127.0.0.1"),
            (socket.AF_INET6, "::ffff:127.0.0.1"),
            (socket.AF_INET6, "::1"),
        ):
            with socket.socket(family) as client:
                client.connect((host, port))
                with listener.accept()[0] as connection:
                    names = connection.getpeername()[:2], connection.getsockname()[:2]
                    assert account_of(*names) == os.getuid(), names
    assert account_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    assert account_of(("not an address", 1), ("127.0.0.1", 2)) is None


def test_the_account_that_listens_is_known() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = listener.getsockname()
        assert listener_account(address) == os.getuid()
        with socket.create_connection(address), listener.accept()[0]:
            assert listener_account(address) == os.getuid(), "with a connection open"
    assert listener_account(address) is None


def test_an_address_of_another_machine_needs_a_token() -> None:
    request = Request(
        scheme="http", headers=(("host", "127.0.0.1"),), client=("192.0.2.7", 40000), server=("127.0.0.1", 4200)
    )
    nobody: Any = None

    def account(*_: Any) -> int | None:
        raise AssertionError("not asked")

    for change in ({}, {"server": ("192.0.2.1", 4200)}, {"client": ("127.0.0.1", 40000), "server": ("192.0.2.1", 4200)},
                   {"client": nobody}, {"server": nobody}):  # fmt: skip
        outcome = admit(request.model_copy(update=change), RULES, account)
        assert isinstance(outcome, Refusal)
        assert outcome.status == 401
    token = request.model_copy(update={"headers": (*request.headers, ("authorization", f"Bearer {SECRET}"))})
    assert admit(token, RULES, account) == Admission(by="token")


def test_an_empty_token_admits_nobody() -> None:
    request = Request(scheme="http", headers=(("authorization", "Bearer "),), client=None, server=None)
    rules = AccessRules(owners=frozenset(), tokens=("",))
    assert isinstance(admit(request, rules, lambda *_: None), Refusal)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None).model_copy(update={"home": tmp_path / "home"})  # type: ignore[call-arg]


def test_the_secret_is_random_and_private(settings: Settings, tmp_path: Path) -> None:
    secret = home_secret(settings)
    assert secret == home_secret(settings)
    assert len(secret) >= 43
    file = secret_file(settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in file.parent.iterdir()] == ["secret"]
    assert home_secret(settings.model_copy(update={"home": tmp_path / "other"})) != secret


def test_processes_that_start_together_make_one_secret(settings: Settings) -> None:
    secrets: list[str] = []
    threads = [threading.Thread(target=lambda: secrets.append(home_secret(settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(secrets)) == 1
    assert len(secrets) == 8


def test_a_secret_that_others_can_read_is_refused(settings: Settings) -> None:
    home_secret(settings)
    secret_file(settings).chmod(0o644)
    with pytest.raises(HomeError, match="Other accounts can read"):
        home_secret(settings)


@pytest.mark.parametrize("content", ["", "short", "\u00e9" * 50])
def test_a_damaged_secret_is_refused(settings: Settings, content: str) -> None:
    home_secret(settings)
    secret_file(settings).write_text(content, encoding="utf-8")
    with pytest.raises(HomeError, match="damaged"):
        home_secret(settings)


def test_a_secret_that_is_a_link_is_refused(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("x" * 50)
    (tmp_path / "theirs").chmod(0o600)
    secret_file(settings).symlink_to(tmp_path / "theirs")
    with pytest.raises(HomeError, match="cannot be read"):
        home_secret(settings)


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        (b"http://evil.example/v1/models?a=b", b"/v1/models?a=b"),
        (b"https://evil.example//elsewhere", b"/elsewhere"),
        (b"/pages", b"/pages"),
        (b"https://store.example/file", b"https://store.example/file"),  # a place that the request did not name
    ],
)
def test_redirects_to_the_host_of_a_request_become_paths(location: bytes, sent: bytes) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 307, "headers": [(b"location", location)]})
        await send({"type": "http.response.body", "body": b""})

    messages: list[Any] = []

    async def call() -> None:
        layer = AccessLayer(app, AccessRules(owners=frozenset(), tokens=("token",)))
        headers = [(b"host", b"evil.example"), (b"authorization", b"Bearer token")]
        scope = {
            "type": "http",
            "path": "/",
            "headers": headers,
            "client": ("192.0.2.1", 1),
            "server": ("192.0.2.2", 2),
        }

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            messages.append(message)

        await layer(scope, receive, send)

    asyncio.run(call())
    assert messages[0]["headers"] == [(b"location", sent)]
