"""Attacks by servers that the Academy asks: strangers who want a key, a lesson, its time or its memory."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from academy.arena.endpoint import Endpoint
from academy.errors import AcademyError, ExaminationError, InputError, ServingError
from academy.serving.runtimes.remote import RemoteConnection
from academy.settings import Settings, load_settings
from academy.system.origins import key_for, origin_of

KEY, OTHER_KEY = "sk-first-0123456789", "sk-second-0123456789"
LESSON = "the ward's lights are blue"
ANSWER = json.dumps({
    "id": "1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "blue"}}],
}).encode()  # fmt: skip
Behaviour = Callable[[socket.socket], None]


class Stranger:
    """A server on loopback that keeps every request whole and answers with its `behave`, byte by byte."""

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.requests: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.over.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            connection.settimeout(20)
            content = b""
            while b"\r\n\r\n" not in content:
                content += connection.recv(65536)
            head, _, body = content.partition(b"\r\n\r\n")
            length = next(
                (int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line), 0
            )
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append((head + b"\r\n\r\n" + body).decode())
            self.behave(connection)

    def close(self) -> None:
        self.over.set()
        self.listener.close()


@pytest.fixture
def stranger() -> Iterator[Callable[[Behaviour], Stranger]]:
    servers: list[Stranger] = []

    def start(behave: Behaviour) -> Stranger:
        servers.append(Stranger(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", "content-type: application/json", *headers, "", ""]).encode()


def honest(connection: socket.socket) -> None:
    connection.sendall(head(f"content-length: {len(ANSWER)}", "connection: close") + ANSWER)


def ask(url: str, key: str = "", seconds: float = 20.0) -> str:
    endpoint = Endpoint(url=url, model="m", key=key, seconds=seconds, tries=0)
    return endpoint.ask([{"role": "user", "content": LESSON}], 8).text


def settings(home: Path, monkeypatch: pytest.MonkeyPatch, **values: str) -> Settings:
    for name, value in values.items():
        monkeypatch.setenv(f"ACADEMY_{name}", value)
    return load_settings(home)


# keys


def test_key_of_the_judge_is_not_sent_to_another_server(
    stranger: Callable[[Behaviour], Stranger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, other = stranger(honest), stranger(honest)
    found = settings(tmp_path / "home", monkeypatch, JUDGE=f"{judge.url}#m", ENDPOINT_KEY=KEY)
    for url in (judge.url, other.url):
        Endpoint.of(found, f"{url}#m").ask([{"role": "user", "content": LESSON}], 8)
    assert KEY in judge.requests[0]
    assert KEY not in other.requests[0]
    assert "authorization" not in other.requests[0].lower()


def test_each_server_gets_its_own_key(
    stranger: Callable[[Behaviour], Stranger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = stranger(honest), stranger(honest)
    keys = f"http://127.0.0.1:{first.port}={KEY} http://127.0.0.1:{second.port}={OTHER_KEY}"
    home_settings = settings(tmp_path / "home", monkeypatch, ENDPOINT_KEY=keys)
    for server in (first, second):
        Endpoint.of(home_settings, f"{server.url}#m").ask([{"role": "user", "content": LESSON}], 8)
    assert KEY in first.requests[0]
    assert OTHER_KEY not in first.requests[0]
    assert OTHER_KEY in second.requests[0]
    assert KEY not in second.requests[0]


@pytest.mark.parametrize(
    "other",
    [
        "https://judge.example:8443", "http://judge.example", "https://judge.example.evil.example", "https://evil.example",
        "https://judge.example@evil.example",
    ],
)  # fmt: skip
def test_key_stays_at_its_scheme_host_and_port(other: str) -> None:
    assert key_for(f"{other}/v1", KEY, "https://judge.example/v1") == ""
    assert key_for("https://JUDGE.example.:443/v2", KEY, "https://judge.example/v1") == KEY


def test_key_without_an_address_is_not_sent_anywhere() -> None:
    with pytest.raises(InputError, match=r"does not say that it is for https://one\.example:443") as refused:
        key_for("https://one.example/v1", KEY)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [f"https://a={KEY} {OTHER_KEY}", f"https://a={KEY} https://a={OTHER_KEY}", "https://a=", f"https://a/p={KEY}"],
)
def test_unclear_keys_are_refused_and_not_shown(keys: str) -> None:
    with pytest.raises(InputError) as refused:
        key_for("https://a/v1", keys)
    assert KEY not in str(refused.value)
    assert OTHER_KEY not in str(refused.value)


def test_key_is_not_sent_in_plain_text_over_a_network() -> None:
    with pytest.raises(InputError, match="would cross the network in plain text"):
        key_for("http://judge.example/v1", KEY, "http://judge.example/v1")
    with pytest.raises(InputError, match="would cross the network in plain text"):
        RemoteConnection("vLLM", "http://10.0.0.1:8000", KEY, 5)
    assert key_for("http://[::1]:8000/v1", KEY, "http://[::1]:8000/v1") == KEY


def test_origins_have_one_spelling() -> None:
    assert (
        origin_of("HTTPS://Bücher.Example/v1")
        == origin_of("https://xn--bcher-kva.example.:443")
        != origin_of("http://x")
    )


def test_endpoint_with_a_secret_in_its_address_is_refused() -> None:
    for address in (f"https://u:{KEY}@host/v1#m", f"https://host/v1?token={KEY}#m"):
        with pytest.raises(InputError) as refused:
            Endpoint.parse(address)
        assert KEY not in str(refused.value)


# what else a stranger learns


def test_variables_of_other_programs_are_not_sent(
    stranger: Callable[[Behaviour], Stranger], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = stranger(honest)
    names = (
        "OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_WEBHOOK_SECRET",
        "OPENAI_BASE_URL",
    )  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, f"marker-{name}")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Marker: marker-custom")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login marker-login password marker-password\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert ask(server.url) == "blue"
    headers = server.requests[0].partition("\r\n\r\n")[0].lower()
    assert "marker" not in headers
    assert "openai-" not in headers
    assert "x-stainless" not in headers
    assert "authorization" not in headers
    assert "cookie" not in headers


def test_cookie_of_a_stranger_is_not_sent_back(stranger: Callable[[Behaviour], Stranger]) -> None:
    def behave(connection: socket.socket) -> None:
        connection.sendall(head(f"content-length: {len(ANSWER)}", "set-cookie: who=you", "connection: close") + ANSWER)

    server = stranger(behave)
    endpoint = Endpoint(url=server.url, model="m", tries=0)
    for _ in range(2):
        endpoint.ask([{"role": "user", "content": LESSON}], 8)
    assert "cookie" not in server.requests[1].lower()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirect_is_not_followed_with_lessons_in_hand(stranger: Callable[[Behaviour], Stranger], status: str) -> None:
    other = stranger(honest)

    def behave(connection: socket.socket) -> None:
        connection.sendall(head(f"location: {other.url}/chat/completions", "content-length: 0", status=status))

    server = stranger(behave)
    with pytest.raises(ExaminationError, match="redirects requests"):
        ask(server.url, KEY)
    assert other.requests == []


def test_redirect_of_a_runtime_is_not_followed(stranger: Callable[[Behaviour], Stranger]) -> None:
    other = stranger(honest)

    def behave(connection: socket.socket) -> None:
        connection.sendall(head(f"location: {other.url}", "content-length: 0", status="307 Temporary"))

    with pytest.raises(ServingError, match="307"):
        asyncio.run(_post(stranger(behave).url, KEY, patience=5))
    assert other.requests == []


# time and memory


def forever(connection: socket.socket, first: bytes, part: bytes, pause: float) -> None:
    connection.sendall(first)
    until = time.monotonic() + 15
    while time.monotonic() < until:
        connection.sendall(part)
        time.sleep(pause)


HEAVY = gzip.compress(b" " * (64 << 20))
ENDLESS: dict[str, Behaviour] = {
    "trickled head": lambda connection: forever(connection, b"HTTP/1.1 200 OK\r\nx-slow: ", b"a", 0.05),
    "trickled headers": lambda connection: forever(connection, b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", 0.05),
    "trickled body": lambda connection: forever(connection, head("content-length: 1000000"), b" ", 0.05),
    "trickled chunks": lambda connection: forever(connection, head("transfer-encoding: chunked"), b"1\r\n \r\n", 0.05),
    "endless body": lambda connection: forever(connection, head("connection: close"), b" " * 65536, 0),
    "huge headers": lambda connection: forever(connection, b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 65000 + b"\r\n", 0),
    "endless events": lambda connection: forever(
        connection, head("connection: close").replace(b"application/json", b"text/event-stream"), b"data: {}\n\n", 0.05
    ),
    "silence": lambda connection: time.sleep(15),
    "interim answers": lambda connection: forever(connection, b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.05),
    "gzip bomb": lambda connection: connection.sendall(
        head("content-encoding: gzip", f"content-length: {len(HEAVY)}") + HEAVY
    ),
    "nested json": lambda connection: connection.sendall(head("content-length: 200000") + b"[" * 200_000),
}


@pytest.mark.parametrize("attack", ENDLESS)
def test_answer_without_end_ends(stranger: Callable[[Behaviour], Stranger], attack: str) -> None:
    server = stranger(ENDLESS[attack])
    start = time.monotonic()
    with pytest.raises(ExaminationError):
        ask(server.url, seconds=0.6)
    assert time.monotonic() - start < 3


async def _post(url: str, key: str = "", patience: float = 0.05) -> object:
    connection = RemoteConnection("vLLM", url, key, patience)
    try:
        return await connection.json("POST", "/v1/load", {"lesson": LESSON})
    finally:
        await connection.close()


@pytest.mark.parametrize("attack", ENDLESS)
def test_answer_of_a_runtime_without_end_ends(stranger: Callable[[Behaviour], Stranger], attack: str) -> None:
    server = stranger(ENDLESS[attack])
    start = time.monotonic()
    with pytest.raises(AcademyError):
        asyncio.run(_post(server.url))
    assert time.monotonic() - start < 4


def test_line_of_a_runtime_without_end_ends(stranger: Callable[[Behaviour], Stranger]) -> None:
    async def read(url: str) -> None:
        connection = RemoteConnection("vLLM", url, "", 5)
        try:
            async with connection.lines("/v1/chat", {"lesson": LESSON}) as (_, lines):
                async for _line in lines:
                    pass
        finally:
            await connection.close()

    server = stranger(ENDLESS["endless body"])
    with pytest.raises(ServingError, match="too long"):
        asyncio.run(read(server.url))
