"""The connection to a server of another process."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from academy.serving.runtimes.remote import RemoteConnection
from academy.system.connections import is_loopback
from tests.servers.serving import served


def test_loopback_requests_bypass_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names a proxy that does not exist."""
    app = FastAPI()

    @app.get("/here")
    def here() -> dict[str, bool]:
        return {"here": True}

    async def request(url: str) -> Any:
        connection = RemoteConnection("a server", url, "", 5.0)
        try:
            return await connection.json("GET", "/here")
        finally:
            await connection.close()

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with served(app) as url:
        assert asyncio.run(request(url)) == {"here": True}


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("", False)],
)
def test_loopback_addresses_are_recognized(host: str, here: bool) -> None:
    assert is_loopback(host) is here
