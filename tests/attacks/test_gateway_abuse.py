"""A gateway as the real command runs it, under abuse over real sockets: slow, malformed, too many, never read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.strangers import AS_ROOT, request_bytes, send_as_stranger

pytestmark = pytest.mark.campaign
PATIENCE = 60.0
HEAD_SECONDS = 10
HANDLES = 256
"""Open files that the second gateway may have."""
CHAT = "/v1/chat/completions"
QUESTION = {"model": "base", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


class GatewayProcess:
    """`academy serve` in a home of its own."""

    def __init__(self, folder: Path, handles: int | None = None, **settings: str) -> None:
        self.home = folder / "home"
        self.log = folder / "serve.log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACADEMY_")}
        environment |= {"ACADEMY_HOME": str(self.home), "OMP_NUM_THREADS": "1", **settings}
        academy = [sys.executable, "-m", "academy.cli.main"]

        def limit() -> None:
            if handles is not None:
                resource.setrlimit(resource.RLIMIT_NOFILE, (handles, handles))

        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*academy, "serve", "--port", "0"], env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, preexec_fn=limit,  # noqa: PLW1509  it only sets a limit
            )  # fmt: skip
        file, end = self.home / "serving/default.json", time.monotonic() + PATIENCE
        while not file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        self.url: str = json.loads(file.read_bytes())["url"]
        self.port = int(self.url.rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def exchange(self, request: bytes) -> bytes:
        """Send bytes and read until the server closes the connection."""
        with self.connect() as client:
            client.sendall(request)
            return read_all(client)

    def status(self, request: bytes) -> int:
        """The status of the first answer; 0 without one."""
        return status_of(self.exchange(request))

    def healthy(self) -> dict[str, Any]:
        response = httpx.get(f"{self.url}/healthz", timeout=PATIENCE)
        assert response.status_code == 200
        content: dict[str, Any] = response.json()
        return content

    def chat(self, body: bytes, **headers: str) -> httpx.Response:
        return httpx.post(
            self.url + CHAT, content=body, headers={"content-type": "application/json"} | headers, timeout=PATIENCE
        )

    def answers(self) -> bool:
        return self.chat(json.dumps(QUESTION).encode()).status_code == 200

    def handles(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def resident(self) -> int:
        """Bytes of memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def read_all(client: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_answer(client: socket.socket) -> bytes:
    """One answer of a connection that stays open."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += client.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed a connection."""
    if not select.select([client], [], [], 0)[0]:
        return False
    try:
        return client.recv(65536, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def gateway_process(*arguments: Any, **settings: Any) -> Iterator[GatewayProcess]:
    server = GatewayProcess(*arguments, **settings)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("abuse")) as server:
        yield server


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with gateway_process(tmp_path_factory.mktemp("handles"), HANDLES) as server:
        yield server


POST = (
    b"POST "
    + CHAT.encode()
    + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
)
BODY = json.dumps(QUESTION).encode()
SIZE, CHUNK = b"%d" % len(BODY), b"%x" % len(BODY)
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
AMBIGUOUS = {
    "two lengths": POST + b"content-length: " + SIZE + b"\r\ncontent-length: 2\r\n\r\n" + BODY,
    "the same length twice": POST + (b"content-length: " + SIZE + b"\r\n") * 2 + b"\r\n" + BODY,
    "a list of lengths": POST + b"content-length: " + SIZE + b", " + SIZE + b"\r\n\r\n" + BODY,
    "a signed length": POST + b"content-length: +" + SIZE + b"\r\n\r\n" + BODY,
    "a length of 5,000 digits": POST + b"content-length: " + b"1" * 5000 + b"\r\n\r\n{}",
    "a length beside chunks": POST
    + b"content-length: 2\r\n"
    + CHUNKED[len(POST) :]
    + CHUNK
    + b"\r\n"
    + BODY
    + b"\r\n0\r\n\r\n",
    "an unknown coding": POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + CHUNK + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a space before the colon": GET + b"transfer-encoding : chunked\r\n\r\n",
    "bare line feeds": GET.replace(b"\r\n", b"\n") + b"\n",
    "one bare line feed": GET + b"a: b\nc: d\r\n\r\n",
    "a bare line feed at the end": GET + b"a: b\r\n\n",
    "a bare carriage return": GET + b"a: b\rc: d\r\n\r\n",
    "a folded header": GET + b"a: b\r\n c: d\r\n\r\n",
    "a NUL in a header": GET + b"a: b\0c\r\n\r\n",
    "chunks with extensions": CHUNKED + CHUNK + b";a=b\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a last chunk with an extension": CHUNKED + CHUNK + b"\r\n" + BODY + b"\r\n0;a\r\n\r\n",
    "a chunk's size with a sign": CHUNKED + b"+" + CHUNK + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk's size as 0x2": CHUNKED + b"0x" + CHUNK + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "a chunk that ends with a line feed": CHUNKED + CHUNK + b"\r\n" + BODY + b"\n0\r\n\r\n",
    "trailers": CHUNKED + CHUNK + b"\r\n" + BODY + b"\r\n0\r\na: b\r\n\r\n",
    "trailers that end with a line feed": CHUNKED + CHUNK + b"\r\n" + BODY + b"\r\n0\r\na: b\n\nGET / HTTP/1.1\r\n\r\n",
    "a body that ends with a line feed": CHUNKED + CHUNK + b"\r\n" + BODY + b"\r\n0\r\n\n",
    "a target with a host": GET.replace(b"/healthz", b"http://evil.example/healthz") + b"\r\n",
    "a target without a slash": GET.replace(b"/healthz", b"healthz") + b"\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a method in small letters": GET.replace(b"GET", b"get") + b"\r\n",
    "a method with a control character": GET.replace(b"GET", b"G\x07ET") + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a start of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two hosts": GET + b"host: evil.example\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("request_", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_ambiguous_request_is_refused(server: GatewayProcess, request_: bytes) -> None:
    """Two programs could read such a request in two ways: a proxy in front, and the gateway."""
    answer = server.exchange(request_)
    assert status_of(answer) in (400, 403, 501)
    assert answer.count(b"HTTP/1.1 ") == 1, "the rest was taken for another request"


def test_plain_requests_still_work(server: GatewayProcess) -> None:
    body = BODY
    chunks = b"%x\r\n%b\r\n1\r\n%b\r\n0\r\n\r\n" % (len(body) - 1, body[:-1], body[-1:])
    assert server.status(CHUNKED + chunks) == 200
    assert server.status(POST + b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body) + body) == 100
    answer = server.exchange(GET.replace(b"close", b"keep-alive") + b"\r\n" + GET + b"\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2


def test_too_many_or_too_large_headers_are_refused(server: GatewayProcess) -> None:
    assert server.status(GET + b"".join(b"a%d: b\r\n" % n for n in range(5000)) + b"\r\n") == 431
    assert server.status(GET + b"a: " + b"b" * 200_000 + b"\r\n\r\n") in (0, 431)  # 0: reset while it was still sent
    assert server.status(GET + b"".join(b"a%d: b\r\n" % n for n in range(50)) + b"\r\n") == 200


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("OPTIONS", 405), ("TRACE", 405), ("DELETE", 405)])
def test_other_methods_do_nothing(server: GatewayProcess, method: str, status: int) -> None:
    assert server.status(GET.replace(b"GET", method.encode()) + b"\r\n") == status


def test_websocket_and_http2_upgrades_are_not_made(server: GatewayProcess) -> None:
    size = server.log.stat().st_size
    for name in (b"websocket", b"h2c"):
        for _ in range(10):
            request = GET.replace(b"close", b"upgrade") + b"upgrade: " + name + b"\r\n\r\n"
            with server.connect() as client:
                client.sendall(request)
                assert client.recv(1000).startswith(b"HTTP/1.1 200")
    lines = server.log.read_bytes()[size:].decode().splitlines()
    assert not [line for line in lines if "/healthz" not in line], "upgrades fill the log"


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_body_of_another_type_is_refused(server: GatewayProcess, type_: str) -> None:
    """A page of another origin can send these types without a question of its browser before."""
    for path in (CHAT, "/v1/feedback"):
        response = httpx.post(server.url + path, content=json.dumps(QUESTION), headers={"content-type": type_})
        assert response.status_code == 415


def test_compressed_body_is_refused(server: GatewayProcess) -> None:
    assert server.chat(b"\x1f\x8b", **{"content-encoding": "gzip"}).status_code == 415


BODIES = {
    "nesting": b'{"model":"base","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "NaN": b'{"model":"base","messages":[{"role":"user","content":"a"}],"temperature":NaN}',
    "infinity": b'{"model":"base","messages":[{"role":"user","content":"a"}],"temperature":1e999}',
    "a huge number": b'{"model":"base","messages":[{"role":"user","content":"a"}],"max_tokens":'
    + b"9" * 100_000
    + b"}",
    "a negative limit": b'{"model":"base","messages":[{"role":"user","content":"a"}],"max_tokens":-1}',
    "many choices": b'{"model":"base","messages":[{"role":"user","content":"a"}],"n":1000000}',
    "many stops": b'{"model":"base","messages":[{"role":"user","content":"a"}],"stop":[' + b'"a",' * 9999 + b'"a"]}',
    "a bias": b'{"model":"base","messages":[{"role":"user","content":"a"}],"logit_bias":{"1":100}}',
    "a lone surrogate": b'{"model":"base","messages":[{"role":"user","content":"\\ud800"}]}',
    "invalid UTF-8": b'{"model":"base","messages":[{"role":"user","content":"\xff"}]}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"base"}',
    "a second key of the same name": b'{"n":1,"n":2,"model":"base","messages":[{"role":"user","content":"a"}]}',
    "a model's name that is a path": b'{"model":"../../etc/passwd","messages":[{"role":"user","content":"a"}]}',
    "a model's name that sets a title": b'{"model":"\\u001b]0;x\\u0007","messages":[{"role":"user","content":"a"}]}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_hostile_body_is_an_error_of_the_client(server: GatewayProcess, body: bytes) -> None:
    began = time.monotonic()
    response = server.chat(body)
    assert response.status_code in (400, 404)
    assert response.json()["error"]["message"]
    assert time.monotonic() - began < 2


def test_model_names_in_paths_reach_no_file_and_no_terminal(server: GatewayProcess) -> None:
    for name in ("..%2f..%2fetc%2fpasswd", "%00", "%1b%5d0;x%07", "v1%0aacademy forged line", "a" * 20_000):
        path = f"/v1/models/{name}".replace(" ", "%20").encode()
        assert server.status(GET.replace(b"/healthz", path) + b"\r\n") == 404
    log = server.log.read_text()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", log)
    assert not [line for line in log.splitlines() if line.startswith("academy forged")]


def test_redirects_lead_to_no_host_of_the_request(server: GatewayProcess) -> None:
    for path in ("/v1/models/", "//evil.example/healthz", "/healthz/", "/v1/feedback/"):
        answer = server.exchange(GET.replace(b"/healthz", path.encode()) + b"\r\n")
        assert status_of(answer) == 404
        assert b"location:" not in answer.lower()


def test_answers_cannot_be_split(server: GatewayProcess) -> None:
    for path in (b"/v1/models/a%0d%0aset-cookie:%20x=y", b"/healthz?a=%0d%0aset-cookie:%20x=y"):
        answer = server.exchange(GET.replace(b"/healthz", path) + b"\r\n")
        assert b"set-cookie" not in answer.partition(b"\r\n\r\n")[0].lower()


def test_page_of_another_origin_is_refused_with_the_secret_of_a_browser_too(server: GatewayProcess) -> None:
    body = json.dumps(QUESTION).encode()
    assert server.chat(body, origin="http://evil.example").status_code == 403
    assert server.chat(body, origin="null").status_code == 403
    assert server.chat(body, **{"sec-fetch-site": "cross-site"}).status_code == 403
    assert server.chat(body, host="evil.example").status_code == 403


@pytest.mark.skipif(not AS_ROOT, reason="only root can start a program as another account")
def test_strangers_see_no_counts(server: GatewayProcess) -> None:
    answer = send_as_stranger("127.0.0.1", server.port, request_bytes("/healthz"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"status": "ready"}
    assert "counts" in server.healthy()


def test_64_honest_clients_of_one_machine_are_answered(server: GatewayProcess) -> None:
    clients = [server.connect() for _ in range(64)]
    try:
        for client in clients:
            client.sendall(GET.replace(b"close", b"keep-alive") + b"\r\n")
        assert [status_of(read_answer(client)) for client in clients] == [200] * 64
        for client in clients:  # on the same connections again
            client.sendall(GET + b"\r\n")
        assert [status_of(read_all(client)) for client in clients] == [200] * 64
    finally:
        for client in clients:
            client.close()


def test_many_malformed_requests_do_not_fill_the_log(server: GatewayProcess) -> None:
    size = server.log.stat().st_size
    for _ in range(300):
        assert server.status(b"nonsense\r\n\r\n") == 400
    assert server.log.stat().st_size - size < 2000


@pytest.mark.slow
def test_slow_head_is_closed_after_ten_seconds(server: GatewayProcess) -> None:
    """One connection sends nothing, one a byte a second, one starts slowly after a good request."""
    with server.connect() as silent, server.connect() as trickling, server.connect() as later:
        later.sendall(GET.replace(b"close", b"keep-alive") + b"\r\n")
        assert read_answer(later).startswith(b"HTTP/1.1 200")
        began, ends = time.monotonic(), {}
        clients = {"silent": silent, "trickling": trickling, "later": later}
        while len(ends) < len(clients):
            assert time.monotonic() - began < 3 * HEAD_SECONDS, f"still open: {clients.keys() - ends.keys()}"
            for name, client in clients.items():
                if name not in ends and is_closed(client):
                    ends[name] = time.monotonic() - began
                elif name in ("trickling", "later") and name not in ends:
                    with contextlib.suppress(OSError):
                        client.send(GET[int(time.monotonic() - began)].to_bytes())
            time.sleep(1)
    assert max(ends.values()) < HEAD_SECONDS + 5
    assert server.answers()


@pytest.mark.slow
def test_trickling_body_is_closed(server: GatewayProcess) -> None:
    with server.connect() as client, server.connect() as after_refusal:
        client.sendall(POST + b"content-length: 900000\r\n\r\n")
        after_refusal.sendall(POST.replace(b"close", b"keep-alive") + b"content-length: 9000000\r\n\r\n")
        began = time.monotonic()
        open_ = [client, after_refusal]
        while open_:
            assert time.monotonic() - began < 45
            for connection in list(open_):
                with contextlib.suppress(OSError):
                    connection.send(b" ")
                if is_closed(connection):
                    open_.remove(connection)
            time.sleep(0.5)
    assert server.answers()


@pytest.mark.slow
def test_slowloris_does_not_lock_out_others(server: GatewayProcess) -> None:
    """1,500 connections that send half a head: others are answered at once, and few of them stay open."""
    slow = []
    try:
        for _ in range(1500):
            client = server.connect()
            client.sendall(GET)
            slow.append(client)
        began = time.monotonic()
        assert server.answers()
        assert time.monotonic() - began < 5
        assert server.handles() < 400
    finally:
        for client in slow:
            client.close()


@pytest.mark.slow
def test_few_file_handles_are_enough_under_a_flood(small_server: GatewayProcess) -> None:
    """Ten seconds of connections beyond the limit of open files: answers go on, the log stays small."""
    size, clients, ends = small_server.log.stat().st_size, [], time.monotonic() + 10
    try:
        while time.monotonic() < ends:
            for _ in range(50):
                client = socket.socket()
                client.settimeout(1)
                with contextlib.suppress(OSError):
                    client.connect(("127.0.0.1", small_server.port))
                clients.append(client)
            while len(clients) > 1000:
                clients.pop(0).close()
            assert small_server.healthy()
        assert small_server.answers()
        assert small_server.handles() < HANDLES - 60, "no reserve is left"
        assert small_server.log.stat().st_size - size < 100_000
    finally:
        for client in clients:
            client.close()


@pytest.mark.slow
def test_idle_clients_of_the_owner_leave_room_for_new_ones(small_server: GatewayProcess) -> None:
    """Admitted connections that only stay open give way to a new one."""
    clients = []
    try:
        for _ in range(300):
            client = small_server.connect()
            client.sendall(GET.replace(b"close", b"keep-alive") + b"\r\n")
            assert read_answer(client).startswith(b"HTTP/1.1 200")
            clients.append(client)
        assert small_server.answers()
    finally:
        for client in clients:
            client.close()


@pytest.mark.slow
def test_pipelined_flood_is_answered_in_order_with_little_memory(server: GatewayProcess) -> None:
    before = server.resident()
    with server.connect() as client:
        client.settimeout(1)
        flood = (GET.replace(b"close", b"keep-alive") + b"\r\n") * 500
        with contextlib.suppress(TimeoutError):
            for _ in range(1000):
                client.sendall(flood)
        began = time.monotonic()
        assert server.answers()
        assert time.monotonic() - began < 5
        assert server.resident() - before < 64_000_000
