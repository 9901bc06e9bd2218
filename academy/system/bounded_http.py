"""An HTTP client for the server of a stranger: what it may cost, and what it may learn.

An answer has a limit of bytes and one of seconds, from the first connection to its last byte, so that a server that
trickles or never ends costs no more than one that is silent. Nothing is unpacked, no redirect is followed, and a
request carries only the headers that it needs: libraries add others from the environment.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2

from academy.system.connections import check_connections, is_loopback

MOST_BYTES = 16 << 20
"""Bytes of an answer with its headers. The longest answers of models have a hundredth of it."""
_HEADERS = {
    "host", "accept", "accept-encoding", "authorization", "connection", "content-length", "content-type", "user-agent",
    "transfer-encoding",
}  # fmt: skip
_AGENT = "the-academy"


def bounded_client(url: str, seconds: float, *, key: bool, most_bytes: int = MOST_BYTES) -> httpx2.Client:
    """A client for one server. `key`: whether its requests carry a key. Raises InputError for an unusable proxy."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = None
    if not is_loopback(host):
        check_connections()
        proxies = urllib.request.getproxies()
        if not urllib.request.proxy_bypass(host):
            proxy = proxies.get(parts.scheme) or proxies.get("all")
    origin = (parts.scheme, host.lower(), parts.port or {"http": 80, "https": 443}[parts.scheme])

    def trim(request: httpx2.Request) -> None:
        address = request.url
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        if (address.scheme, address.host.lower(), port) != origin:
            raise httpx2.RequestError("The request goes to another server.", request=request)
        for name in list(request.headers):
            if name.lower() not in _HEADERS or (name.lower() == "authorization" and not key):
                del request.headers[name]
        request.headers["accept-encoding"], request.headers["user-agent"] = "identity", _AGENT

    return httpx2.Client(
        transport=BoundedTransport(seconds, most_bytes, proxy=proxy),
        timeout=seconds, follow_redirects=False, trust_env=False,
        event_hooks={"request": [trim], "response": [_refuse_packed]},
    )  # fmt: skip


def _refuse_packed(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise httpx2.DecodingError("The answer is compressed, which was not asked for.", request=response.request)


class BoundedTransport(httpx2.HTTPTransport):
    """Ends a request that takes too many seconds or bytes. Each thread has one request at a time."""

    def __init__(self, seconds: float, most_bytes: int, **options: Any) -> None:
        super().__init__(**options)
        self._budget = _Budget(seconds, most_bytes)
        self._pool._network_backend = _Backend(self._pool._network_backend, self._budget)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request with a new budget."""
        self._budget.begin()
        return super().handle_request(request)


class _Budget(threading.local):
    """What is left for the request of this thread."""

    def __init__(self, seconds: float, most_bytes: int) -> None:
        self.seconds, self.most_bytes = seconds, most_bytes
        self.begin()

    def begin(self) -> None:
        self.until, self.bytes = time.monotonic() + self.seconds, self.most_bytes

    def timeout(self, timeout: float | None) -> float:
        """The time that one operation may take. Raises ReadTimeout where none is left."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout(f"The answer took more than {self.seconds:g} seconds.")
        return left if timeout is None else min(left, timeout)

    def count(self, size: int) -> None:
        self.bytes -= size
        if self.bytes < 0:
            raise httpcore2.ReadError(f"The answer has more than {self.most_bytes:,} bytes.")


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, backend: httpcore2.NetworkBackend, budget: _Budget) -> None:
        self._backend, self._budget = backend, budget

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        limit = self._budget.timeout(timeout)
        return _Stream(self._backend.connect_tcp(host, port, limit, local_address, socket_options), self._budget)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(self._budget.timeout(seconds))


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream, budget: _Budget) -> None:
        self._stream, self._budget = stream, budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        content = self._stream.read(max_bytes, self._budget.timeout(timeout))
        self._budget.count(len(content))
        return content

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._budget.timeout(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(
            self._stream.start_tls(ssl_context, server_hostname, self._budget.timeout(timeout)), self._budget
        )

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
