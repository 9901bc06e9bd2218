"""What the gateway answers over HTTP: OpenAI's API for users, a few words for those who run it.

/v1/chat/completions  /v1/models  /v1/feedback     users; a bearer token where ACADEMY_SERVE_KEY is set
/admin/load  /admin/follow  /admin/verify  /admin/status     this machine alone, with the token of the home's note
/healthz                                            everybody: readiness and counts, no texts
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import orjson
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from academy.errors import AcademyError
from academy.records import Record
from academy.serving.gateway.adapter_pool import CHAMPION
from academy.serving.gateway.conversation_log import read_feedback
from academy.serving.gateway.gateway import Gateway, access, identity_headers, new_id
from academy.serving.gateway.openai_protocol import (
    DONE,
    ChatRequest,
    Envelope,
    RequestError,
    event,
    model_card,
    model_list,
    read_request,
)
from academy.serving.gateway.slots import Limits
from academy.serving.runtimes.base import Piece
from academy.store.ledger import BASE

Route_ = Callable[[Request], Awaitable[Response]]


class Access(Record):
    """Who may come in."""

    key: str = ""  # of the users; empty: no key is asked for
    token: str  # of the promotion on this machine
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1", "[::1]")  # names it is called by; `*`: any


def make_app(gateway: Gateway, allowed: Access) -> FastAPI:
    """The application. Its routes raise RequestError, which becomes OpenAI's error object."""
    app = FastAPI(title="The Academy's gateway", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(allowed.hosts), www_redirect=False)
    app.add_exception_handler(HTTPException, _as_error)
    app.add_exception_handler(Exception, _as_error)

    def user(request: Request) -> None:
        _refuse_strangers(request.scope, allowed)

    def admin(request: Request) -> None:
        if not _is_near(request.scope):
            raise RequestError(403, "The admin endpoints answer on this machine only.", code="not_allowed")
        if not _bears(request.scope, allowed.token):
            raise RequestError(401, "The admin token is missing or wrong.", code="invalid_api_key")

    async def models(request: Request) -> Response:
        user(request)
        names = await gateway.pool.names()
        return _json(model_list(names, int(gateway.began), gateway.base.family))

    async def model(request: Request) -> Response:
        user(request)
        name = request.path_params["name"]
        await gateway.pool.find(name)
        return _json(model_card(name, int(gateway.began), gateway.base.family))

    async def feedback(request: Request) -> Response:
        user(request)
        given = read_feedback(await _body(request.receive, request.scope, gateway.limits))
        ids = await gateway.conversations.feedback(given)
        gateway.counts["feedback"] += 1
        return _json({"id": given.id, "object": "feedback", "lessons": ids})

    async def healthz(_request: Request) -> Response:
        found = gateway.health()
        return _json(found, 503 if gateway.unavailable else 200)

    async def status(request: Request) -> Response:
        admin(request)
        return _json(gateway.health())

    async def follow(request: Request) -> Response:
        admin(request)
        await gateway.follower.follow()
        return _json(gateway.health())

    async def load(request: Request) -> Response:
        admin(request)
        adapter = await _named(request, gateway.limits, "adapter")
        if adapter and not (len(adapter) == 64 and adapter.isalnum()) and adapter != BASE:
            raise RequestError(400, "'adapter' must be a digest of 64 digits.", param="adapter", code="invalid_value")
        if not adapter:
            raise RequestError(400, 'Say which: {"adapter": digest}.', param="adapter", code="invalid_value")
        began = time.perf_counter()
        with _plainly():
            await gateway.pool.invite(adapter)
        return _json({"adapter": adapter, "seconds": round(time.perf_counter() - began, 4), **gateway.health()})

    async def verify(request: Request) -> Response:
        admin(request)
        name = await _named(request, gateway.limits, "model")
        with _plainly():
            served, found = await gateway.verify(name or CHAMPION)
        return _json({"version": served.name, "holds": found.holds, **found.model_dump()})

    for path, route, methods in (
        ("/v1/models", models, ["GET"]),
        ("/v1/models/{name}", model, ["GET"]),
        ("/v1/feedback", feedback, ["POST"]),
        ("/healthz", healthz, ["GET"]),
        ("/admin/status", status, ["GET"]),
        ("/admin/follow", follow, ["POST"]),
        ("/admin/load", load, ["POST"]),
        ("/admin/verify", verify, ["POST"]),
    ):
        app.add_route(path, _logged(gateway, route), methods=methods)
    app.router.routes.append(Route("/v1/chat/completions", Chat(gateway, allowed), methods=["POST"]))
    return app


class Chat:
    """The chat completions: an ASGI application of its own, for an answer must know when its client has gone."""

    def __init__(self, gateway: Gateway, allowed: Access) -> None:
        self.gateway = gateway
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answering = _Answering(self.gateway, scope, send)
        try:
            _refuse_strangers(scope, self.allowed)
            self.gateway.refuse_if_closed()
            body = await _body(receive, scope, self.gateway.limits)
            asked = read_request(body, self.gateway.limits.messages)
            await self._unless_it_leaves(answering, asked, receive)
        except RequestError as problem:
            await answering.refuse(problem)
        except _GoneError:
            answering.status = 499
        except _SlowReaderError:
            answering.status = 408
            self.gateway.abort(scope.get("client"))  # what is in its buffers would be held for it for ever
            await asyncio.sleep(0)  # the connection's end is told in the loop's next round
        finally:
            answering.tell()

    async def _unless_it_leaves(self, answering: _Answering, asked: ChatRequest, receive: Receive) -> None:
        """Whichever is first: the answer's end, or the client's leaving, which ends the answer."""
        work = asyncio.create_task(answering.answer(asked))
        self.gateway.answers.add(work)
        work.add_done_callback(self.gateway.answers.discard)
        gone = asyncio.create_task(_until_gone(receive))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _GoneError
            if work.cancelled():
                raise RequestError(503, "The gateway has ended before the answer.", code="shutting_down", retry=10)
            await work
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.wait({work, gone})
            for task in (work, gone):
                task.cancelled() or task.exception()  # what ended it is known, or nobody is there to hear it


class _GoneError(Exception):
    """The client has left."""


class _SlowReaderError(Exception):
    """The client neither reads nor leaves."""


class _Answering:
    """One request on its way: what was sent of its answer, and what the access log says of it."""

    def __init__(self, gateway: Gateway, scope: Scope, send: Send) -> None:
        self.gateway = gateway
        self.scope = scope
        self._send = send
        self.id = new_id()
        self.began = time.perf_counter()
        self.status = 0
        self.headers = {"x-request-id": f"req-{self.id}"}
        self.streaming = False
        self.last = Piece()

    async def answer(self, asked: ChatRequest) -> None:
        """Ask the runtime and send what it says."""
        async with self.gateway.admitted(asked) as (served, pieces):
            self.headers |= identity_headers(served)
            envelope = Envelope(f"chatcmpl-{self.id}", served.name, served.fingerprint)
            send = self._as_stream if asked.stream else self._whole
            text = await send(envelope, asked, pieces)
            self.gateway.conversations.remember(envelope.id, asked.conversation, text, served, asked.user or "")

    async def _whole(self, envelope: Envelope, _asked: ChatRequest, pieces: Any) -> str:
        parts: list[str] = []
        async for piece in pieces:
            parts.append(piece.text)
            self.last = piece
        text = "".join(parts)
        await self._respond(200, envelope.completion(text, self.last))
        return text

    async def _as_stream(self, envelope: Envelope, asked: ChatRequest, pieces: Any) -> str:
        """Headers go out with the first piece: until then a refusal is still a status of its own."""
        parts: list[str] = []
        wanted = asked.usage_wanted
        async for piece in pieces:
            events = b""
            if not self.streaming:
                await self._begin(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache"})
                self.streaming = True
                events = envelope.chunk({"role": "assistant", "content": ""}, None, usage_wanted=wanted)
            if piece.text:
                events += envelope.chunk({"content": piece.text}, None, usage_wanted=wanted)
                parts.append(piece.text)
            if piece.finish:
                events += envelope.chunk({}, piece.finish, usage_wanted=wanted)
                events += (envelope.usage_chunk(piece) if wanted else b"") + DONE
                self.last = piece
            await self._part(events, more=not piece.finish)
        return "".join(parts)

    async def refuse(self, problem: RequestError) -> None:
        """The error object, as the answer or, where that has begun, as its last event."""
        self.gateway.counts[f"refused {problem.status}"] += 1
        if self.streaming:
            self.status = problem.status  # for the log: the status that was sent cannot be taken back
            with suppress(_SlowReaderError):
                await self._part(event(problem.body), more=False)
            return
        self.headers |= problem.headers
        with suppress(_SlowReaderError):
            await self._respond(problem.status, orjson.dumps(problem.body))

    def tell(self) -> None:
        """One line of the access log, without a word of the conversation."""
        if self.status == 200:
            self.gateway.counts["answered"] += 1
        elif self.status in (408, 499):
            self.gateway.counts["left"] += 1
        access.info(
            "%s chat %d %s %d+%d tokens %.0f ms",
            self.headers["x-request-id"], self.status, self.headers.get("x-academy-version", "-"),
            self.last.prompt_tokens, self.last.tokens, 1000 * (time.perf_counter() - self.began),
        )  # fmt: skip

    async def _respond(self, status: int, body: bytes) -> None:
        await self._begin(status, "application/json", {"content-length": str(len(body))})
        await self._part(body, more=False)

    async def _begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.status = status
        raw = {"content-type": kind, **headers, **self.headers}
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in raw.items()],
            }
        )

    async def _part(self, body: bytes, *, more: bool) -> None:
        """Raises _SlowReaderError where the client reads nothing for too long."""
        try:
            async with asyncio.timeout(self.gateway.limits.slow_reader):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
                await asyncio.sleep(
                    0
                )  # neither need wait for anything: others, and the client's leaving, get their turn
        except TimeoutError:
            raise _SlowReaderError from None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive, scope: Scope, limits: Limits) -> bytes:
    """A request's body. Raises RequestError for one that is too large (413, unread) or does not come (408)."""
    try:
        async with asyncio.timeout(limits.slow_reader):
            return await _read(receive, scope, limits.body)
    except TimeoutError:
        raise RequestError(408, "The body did not come in time.", code="timeout") from None


async def _read(receive: Receive, scope: Scope, most: int) -> bytes:
    length = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    too_large = RequestError(413, f"The body is larger than {most:,} bytes.", code="body_too_large")
    if not length.isdigit() or int(length) > most:
        raise too_large
    found = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        found += message.get("body", b"")
        if len(found) > most:
            raise too_large
        if not message.get("more_body"):
            return bytes(found)


def _refuse_strangers(scope: Scope, allowed: Access) -> None:
    if allowed.key and not _bears(scope, allowed.key):
        raise RequestError(401, "The bearer token is missing or wrong.", code="invalid_api_key")


def _bears(scope: Scope, token: str) -> bool:
    given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, value = given.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(value.strip(), token.encode())


def _is_near(scope: Scope) -> bool:
    try:
        return ipaddress.ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False


async def _named(request: Request, limits: Limits, field: str) -> str:
    """A field of the body; empty where there is none."""
    raw = await _body(request.receive, request.scope, limits)
    try:
        found = orjson.loads(raw) if raw else {}
    except orjson.JSONDecodeError:
        raise RequestError(400, "The body is no JSON.", code="invalid_json") from None
    name = found.get(field, "") if isinstance(found, dict) else ""
    if not isinstance(name, str):
        raise RequestError(400, f"'{field}' must be a text.", param=field, code="invalid_value")
    return name


@contextmanager
def _plainly() -> Iterator[None]:
    """A refusal of ours as an answer (409)."""
    try:
        yield
    except RequestError:
        raise
    except AcademyError as problem:
        raise RequestError(409, str(problem), code=type(problem).__name__) from problem


def _logged(gateway: Gateway, route: Route_) -> Route_:
    """A route that tells its request's id, and the access log what became of it."""

    async def logged(request: Request) -> Response:
        began, id_ = time.perf_counter(), f"req-{new_id()}"
        try:
            response = await route(request)
        except RequestError as problem:
            gateway.counts[f"refused {problem.status}"] += 1
            response = _json(problem.body, problem.status, problem.headers)
        except _GoneError:
            response = Response(status_code=400)  # nobody is there to read it
        response.headers["x-request-id"] = id_
        access.info(
            "%s %s %d %.0f ms", id_, request.url.path, response.status_code, 1000 * (time.perf_counter() - began)
        )
        return response

    return logged


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


async def _as_error(_request: Request, problem: Exception) -> Response:
    """What the router refuses (404, 405), in OpenAI's shape."""
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    words = problem.detail if isinstance(problem, HTTPException) else "The gateway made a mistake; its log has more."
    return _json(RequestError(status, f"{words}.".replace("..", ".")).body, status)
