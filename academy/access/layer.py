"""The ASGI layer: a request reaches the application behind it only if the rules admit it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from academy.access.peers import ROOT, account_of
from academy.access.rules import AccessRules, Admission, HolderOf, Refusal, Request, admit
from academy.access.secret import home_secret, owner_of
from academy.settings import Settings

ADMISSION = "academy.admission"
"""The key of an admitted request's scope that holds its Admission."""
IS_OPEN = "academy.is_open"
"""The key of a request's scope with a function: whether both sides of its connection are still open."""
POLICY_VIOLATION = 1008
Body = tuple[str, bytes]
"""Media type and bytes of an answer."""


def home_rules(settings: Settings, *, tokens: tuple[str, ...] = (), public: tuple[str, ...] = ()) -> AccessRules:
    """The rules of a home: its owner and root on loopback, others with its secret or one of these tokens."""
    return AccessRules(
        owners=frozenset({ROOT, owner_of(settings)}), tokens=(home_secret(settings), *filter(None, tokens)),
        public=public,
    )  # fmt: skip


def problem_json(refusal: Refusal) -> Body:
    """A refusal as RFC 9457 has it."""
    title = {401: "Unauthorized", 403: "Forbidden"}[refusal.status]
    problem = {"type": "about:blank", "title": title, "status": refusal.status, "detail": refusal.sentence}
    return "application/problem+json", orjson.dumps(problem)


class AccessLayer:
    """Asks the rules before each request and each websocket, also on a connection that stays open."""

    def __init__(
        self,
        app: ASGIApp,
        rules: AccessRules,
        *,
        challenge: str = "Basic",
        body: Callable[[Refusal], Body] = problem_json,
        holder_of: HolderOf = lambda _token: "",
    ) -> None:
        """`challenge` is what a 401 asks for: browsers show a form for Basic. `holder_of` knows the users' keys."""
        self.app = app
        self.rules = rules
        self.challenge = f'{challenge} realm="The Academy"'.encode()
        self.body = body
        self.holder_of = holder_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        outcome = await asyncio.to_thread(admit, _request(scope), self.rules, account_of, self.holder_of)
        if isinstance(outcome, Admission) and outcome.by == "account" and not scope.get(IS_OPEN, _is_open)():
            # its address may have belonged to another connection when the account was looked up
            outcome = Refusal(status=401, sentence="The connection has ended, so its account is unknown.")
        if isinstance(outcome, Admission):
            scope[ADMISSION] = outcome  # in this very object, because the server looks for it, too
            await self.app(scope, receive, _with_relative_redirects(scope, send))
        elif scope["type"] == "http":
            await self._refuse(outcome, send, "http.response")
        else:
            await receive()  # the handshake
            if "websocket.http.response" in scope.get("extensions", {}):
                await self._refuse(outcome, send, "websocket.http.response")
            else:
                await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": outcome.sentence})

    async def _refuse(self, refusal: Refusal, send: Send, kind: str) -> None:
        await send_refusal(refusal, send, kind=kind, challenge=self.challenge, body=self.body)


async def send_refusal(
    refusal: Refusal,
    send: Send,
    *,
    kind: str = "http.response",
    challenge: bytes = b"",
    body: Callable[[Refusal], Body] = problem_json,
) -> None:
    """Answer a request with a refusal; the connection ends."""
    media_type, content = body(refusal)
    headers = [
        (b"content-type", media_type.encode()), (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"), (b"connection", b"close"),
    ]  # fmt: skip
    if refusal.status == 401:
        headers.append((b"www-authenticate", challenge))
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": content})


def _is_open() -> bool:
    """For servers that cannot tell."""
    return True


def _with_relative_redirects(scope: Scope, send: Send) -> Send:
    """`send`, but redirects to the Host that the request names become paths: it may be any name."""

    async def send_relative(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] // 100 == 3:
            hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            prefixes = tuple(f"{scheme}://{host}/".encode("latin-1") for scheme in ("http", "https") for host in hosts)
            message["headers"] = [
                (name, b"/" + value.split(b"/", 3)[3].lstrip(b"/"))
                if name.lower() == b"location" and value.startswith(prefixes)
                else (name, value)
                for name, value in message["headers"]
            ]
        await send(message)

    return send_relative


def _request(scope: Scope) -> Request:
    return Request(
        scheme=scope.get("scheme") or ("http" if scope["type"] == "http" else "ws"),
        method=scope.get("method", "GET"),
        path=scope["path"],
        headers=tuple((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]),
        client=tuple(scope["client"]) if scope.get("client") else None,
        server=tuple(scope["server"]) if scope.get("server") and scope["server"][1] else None,
    )
