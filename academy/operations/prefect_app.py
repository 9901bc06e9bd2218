"""Prefect's application behind the access layer: it has an auth string that no admitted user has to type."""

from __future__ import annotations

import base64
import os
import secrets
from contextlib import nullcontext
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from academy.access.layer import AccessLayer, home_rules, send_refusal
from academy.access.rules import Refusal
from academy.operations.prefect_rules import request_refusal
from academy.settings import Settings

SERVER_AUTH, CLIENT_AUTH = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
API, UI_SETTINGS = "/api", "/ui-settings"
READING = ("GET", "HEAD", "OPTIONS")
LARGEST_BODY = 16 * 2**20
"""Bytes of a request that is read here."""


def new_auth_string() -> str:
    """Prefect's `user:password` for a server that starts now: a random one, unless the environment sets another.

    The home's secret is not sent by any client: what a server's successor at the same address could learn is worthless.
    """
    return os.environ.get(SERVER_AUTH) or f"academy:{secrets.token_urlsafe(32)}"


def make_app(settings: Settings, port: int) -> ASGIApp:
    """Prefect's server for a port of loopback. Call it before anything imports Prefect."""
    credentials = os.environ.get(CLIENT_AUTH) or new_auth_string()  # of the process that starts this one
    os.environ[SERVER_AUTH] = credentials
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = f"http://127.0.0.1:{port}"  # its default is every page
    from prefect.server.api.server import create_app

    app = _OwnFlowsOnly(_Authorized(create_app(), credentials))
    return AccessLayer(app, home_rules(settings, tokens=(credentials,)))


class _OwnFlowsOnly:
    """Refuses requests that would make text run as code (prefect_rules.py), also of admitted users."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING or not scope["path"].startswith(f"{API}/"):
            await self.app(scope, receive, send)
            return
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if len(body) > LARGEST_BODY or not message.get("more_body"):
                break
            message = await receive()
        refusal = (
            f"A request may have {LARGEST_BODY >> 20} MiB."
            if len(body) > LARGEST_BODY
            else request_refusal(scope["method"], scope["path"].removeprefix(API), body)
        )
        if refusal:
            await send_refusal(Refusal(status=403, sentence=refusal), send)
            return
        sent = False

        async def receive_again() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body}

        await self.app(scope, receive_again, send)


class _Authorized:
    """Sends admitted requests to Prefect with its auth string, and shows Prefect's pages not to ask for it."""

    def __init__(self, app: ASGIApp, credentials: str) -> None:
        self.app = app
        self.credentials = credentials
        self.header = b"Basic " + base64.b64encode(credentials.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        headers = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        scope = {**scope, "headers": [*headers, (b"authorization", self.header)]}
        if scope["type"] == "websocket":
            receive = self._authorize_socket(receive)
        with _page_settings(host) if scope["path"].endswith(UI_SETTINGS) else nullcontext():
            await self.app(scope, receive, send)

    def _authorize_socket(self, receive: Receive) -> Receive:
        """Prefect's websockets authorize with their first message."""
        first = True

        async def receive_authorized() -> Message:
            nonlocal first
            message = await receive()
            if message["type"] == "websocket.receive" and first:
                first = False
                try:
                    content = orjson.loads(message.get("text") or message.get("bytes") or b"")
                except orjson.JSONDecodeError:
                    return message
                if isinstance(content, dict) and content.get("type") == "auth":
                    text = orjson.dumps({**content, "token": self.credentials}).decode()
                    return {"type": "websocket.receive", "text": text}
            return message

        return receive_authorized


def _page_settings(host: str) -> Any:
    """Prefect's settings for its pages: they ask the address that they came from, without a login."""
    from prefect.settings import PREFECT_SERVER_API_AUTH_STRING, PREFECT_UI_API_URL, temporary_settings

    return temporary_settings({PREFECT_SERVER_API_AUTH_STRING: None, PREFECT_UI_API_URL: f"http://{host}/api"})
