"""The bodies of requests: JSON of bounded size that arrives in time."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import Request
from starlette.types import Receive, Scope

from academy.serving.gateway.openai_protocol import RequestError
from academy.serving.gateway.slots import Limits


class DisconnectedError(Exception):
    """The client has disconnected."""


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_body(receive: Receive, scope: Scope, limits: Limits) -> bytes:
    """A request's body. Raises RequestError: not JSON (415), too large (413, unread), does not arrive (408)."""
    _refuse_other_types(scope)
    try:
        async with asyncio.timeout(limits.slow_reader):
            return await _read(receive, scope, limits.body)
    except TimeoutError:
        raise RequestError(408, "The body did not arrive in time.", code="timeout") from None


def _refuse_other_types(scope: Scope) -> None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        raise RequestError(
            415,
            "The body must be JSON: send the header 'content-type: application/json'.",
            code="unsupported_media_type",
        )
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise RequestError(415, "The body must not be compressed.", code="unsupported_media_type")


async def _read(receive: Receive, scope: Scope, limit: int) -> bytes:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    too_large = RequestError(413, f"The body is larger than {limit:,} bytes.", code="body_too_large")
    if not length.isdigit() or int(length) > limit:
        raise too_large
    content = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        content += message.get("body", b"")
        if len(content) > limit:
            raise too_large
        if not message.get("more_body"):
            return bytes(content)


async def read_field(request: Request, limits: Limits, field: str) -> str:
    """A text field of the body; empty where it is missing."""
    raw = await read_body(request.receive, request.scope, limits)
    try:
        content = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        raise RequestError(400, "The body is not valid JSON.", code="invalid_json") from None
    name = content.get(field, "") if isinstance(content, dict) else ""
    if not isinstance(name, str):
        raise RequestError(400, f"'{field}' must be a string.", param=field, code="invalid_value")
    return name
