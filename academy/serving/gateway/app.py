"""The gateway's HTTP application: OpenAI's API for users, and a small admin API.

The access layer stands before it: on loopback the home's owner needs no key, other accounts need the home's secret.

/v1/chat/completions  /v1/models  /v1/feedback           users; with a key where ACADEMY_SERVE_KEY is set
/admin/load  /admin/follow  /admin/verify  /admin/status this machine only, with the token of the discovery file
/healthz                                                 public: readiness; counts only for those who may use the rest

A body is JSON and says so: pages of another origin cannot send that type without asking first.
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
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from academy.access.layer import ADMISSION
from academy.errors import AcademyError
from academy.records import Record
from academy.serving.gateway.adapter_pool import CHAMPION
from academy.serving.gateway.bodies import DisconnectedError, disconnected, read_body, read_field
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
from academy.serving.gateway.visitors import has_own_key, visitor_of
from academy.serving.runtimes.base import Piece
from academy.store.ledger import BASE

Route_ = Callable[[Request], Awaitable[Response]]


class Access(Record):
    """The credentials that the gateway accepts from requests that the access layer admitted."""

    key: str = ""  # of users; empty: no key is needed
    token: str  # of the admin API


def make_app(gateway: Gateway, access_rules: Access) -> FastAPI:
    """The application. Its routes raise RequestError, which becomes OpenAI's error object."""
    app = FastAPI(
        title="The Academy's gateway", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )  # fmt: skip
    app.add_exception_handler(HTTPException, _as_error)
    app.add_exception_handler(Exception, _as_error)

    def user(request: Request) -> None:
        _check_key(request.scope, access_rules)

    def admin(request: Request) -> None:
        if not _is_local(request.scope):
            raise RequestError(403, "The admin endpoints answer on this machine only.", code="not_allowed")
        if not _bears(request.scope, access_rules.token):
            raise RequestError(401, "The admin token is missing or wrong.", code="invalid_api_key")

    async def models(request: Request) -> Response:
        user(request)
        names = await gateway.pool.names()
        return _json(model_list(names, int(gateway.began), gateway.base.family))

    async def model(request: Request) -> Response:
        user(request)
        name = request.path_params["name"]
        await gateway.pool.resolve(name)
        return _json(model_card(name, int(gateway.began), gateway.base.family))

    async def feedback(request: Request) -> Response:
        user(request)
        feedback_request = read_feedback(await read_body(request.receive, request.scope, gateway.limits))
        receipt = await gateway.conversations.feedback(feedback_request, visitor_of(request.scope))
        gateway.counts["feedback"] += 1
        return _json({"id": feedback_request.id, "object": "feedback", **receipt.model_dump(mode="json")})

    async def healthz(request: Request) -> Response:
        health = gateway.health()
        admission = request.scope.get(ADMISSION)
        if admission is None or admission.by == "public":
            health = {"status": health["status"]}
        return _json(health, 503 if gateway.unavailable else 200)

    async def status(request: Request) -> Response:
        admin(request)
        return _json(gateway.health())

    async def follow(request: Request) -> Response:
        admin(request)
        await gateway.follower.follow()
        return _json(gateway.health())

    async def load(request: Request) -> Response:
        admin(request)
        adapter = await read_field(request, gateway.limits, "adapter")
        if adapter and not (len(adapter) == 64 and adapter.isalnum()) and adapter != BASE:
            raise RequestError(
                400, "'adapter' must be a digest of 64 characters.", param="adapter", code="invalid_value"
            )
        if not adapter:
            raise RequestError(400, 'The body must be {"adapter": digest}.', param="adapter", code="invalid_value")
        began = time.perf_counter()
        with _errors_as_409():
            await gateway.pool.make_ready(adapter)
        return _json({"adapter": adapter, "seconds": round(time.perf_counter() - began, 4), **gateway.health()})

    async def verify(request: Request) -> Response:
        admin(request)
        name = await read_field(request, gateway.limits, "model")
        with _errors_as_409():
            target, identity = await gateway.verify(name or CHAMPION)
        return _json({"version": target.name, "holds": identity.holds, **identity.model_dump()})

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
    app.router.routes.append(Route("/v1/chat/completions", Chat(gateway, access_rules), methods=["POST"]))
    return app


class Chat:
    """The chat completions: a separate ASGI application, so that an answer stops with its client."""

    def __init__(self, gateway: Gateway, access_rules: Access) -> None:
        self.gateway = gateway
        self.access_rules = access_rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        answering = _Answering(self.gateway, scope, send)
        try:
            _check_key(scope, self.access_rules)
            self.gateway.refuse_if_closed()
            body = await read_body(receive, scope, self.gateway.limits)
            chat_request = read_request(body, self.gateway.limits.messages)
            await self._until_disconnect(answering, chat_request, receive)
        except RequestError as problem:
            await answering.refuse(problem)
        except DisconnectedError:
            answering.status = 499
        except _SlowReaderError:
            answering.status = 408
            self.gateway.abort(scope.get("client"))  # otherwise its buffers would stay in memory
            await asyncio.sleep(0)  # the loop handles the closed connection in its next round
        finally:
            answering.log_access()

    async def _until_disconnect(self, answering: _Answering, request: ChatRequest, receive: Receive) -> None:
        """Answer until the answer ends or the client disconnects, which cancels the answer."""
        work = asyncio.create_task(answering.answer(request))
        self.gateway.answers.add(work)
        work.add_done_callback(self.gateway.answers.discard)
        disconnect = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait({work, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise DisconnectedError
            if work.cancelled():
                raise RequestError(
                    503, "The gateway shut down before the answer was complete.", code="shutting_down", retry=10
                )
            await work
        finally:
            for task in (work, disconnect):
                task.cancel()
            await asyncio.wait({work, disconnect})
            for task in (work, disconnect):
                task.cancelled() or task.exception()  # reported already, or without a recipient


class _SlowReaderError(Exception):
    """The client neither reads nor disconnects."""


class _Answering:
    """One running request: the part of its answer that was sent, and its line in the access log."""

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

    async def answer(self, request: ChatRequest) -> None:
        """Generate the answer and send it."""
        async with self.gateway.admitted(request) as (target, pieces):
            self.headers |= identity_headers(target)
            envelope = Envelope(f"chatcmpl-{self.id}", target.name, target.fingerprint)
            send = self._as_stream if request.stream else self._whole
            text = await send(envelope, request, pieces)
            self.gateway.conversations.remember(
                envelope.id, request.conversation, text, target, visitor_of(self.scope), request.user or ""
            )

    async def _whole(self, envelope: Envelope, _request: ChatRequest, pieces: Any) -> str:
        parts: list[str] = []
        async for piece in pieces:
            parts.append(piece.text)
            self.last = piece
        text = "".join(parts)
        await self._respond(200, envelope.completion(text, self.last))
        return text

    async def _as_stream(self, envelope: Envelope, request: ChatRequest, pieces: Any) -> str:
        """Send the headers with the first piece, so that an earlier error still has its own status."""
        parts: list[str] = []
        with_usage = request.usage_wanted
        async for piece in pieces:
            events = b""
            if not self.streaming:
                await self._begin(200, "text/event-stream; charset=utf-8", {"cache-control": "no-cache"})
                self.streaming = True
                events = envelope.chunk({"role": "assistant", "content": ""}, None, usage_wanted=with_usage)
            if piece.text:
                events += envelope.chunk({"content": piece.text}, None, usage_wanted=with_usage)
                parts.append(piece.text)
            if piece.finish:
                events += envelope.chunk({}, piece.finish, usage_wanted=with_usage)
                events += (envelope.usage_chunk(piece) if with_usage else b"") + DONE
                self.last = piece
            await self._part(events, more=not piece.finish)
        return "".join(parts)

    async def refuse(self, problem: RequestError) -> None:
        """Send the error object as the response, or as the last event of a stream that has begun."""
        self.gateway.counts[f"refused {problem.status}"] += 1
        if self.streaming:
            self.status = problem.status  # for the log only: a status was sent already
            with suppress(_SlowReaderError):
                await self._part(event(problem.body), more=False)
            return
        self.headers |= problem.headers
        with suppress(_SlowReaderError):
            await self._respond(problem.status, orjson.dumps(problem.body))

    def log_access(self) -> None:
        """Write one line to the access log, without any text of the conversation."""
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
        encoded_headers = [(name.encode(), value.encode()) for name, value in raw.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded_headers})

    async def _part(self, body: bytes, *, more: bool) -> None:
        """Send a part of the body. Raises _SlowReaderError where the client does not read it in time."""
        try:
            async with asyncio.timeout(self.gateway.limits.slow_reader):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
                await asyncio.sleep(0)  # `_send` may not suspend: let other tasks and the disconnect run
        except TimeoutError:
            raise _SlowReaderError from None


def _check_key(scope: Scope, access_rules: Access) -> None:
    if access_rules.key and not has_own_key(scope) and not _bears(scope, access_rules.key):
        raise RequestError(401, "The bearer token is missing or wrong.", code="invalid_api_key")


def _bears(scope: Scope, token: str) -> bool:
    header = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, value = header.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(value.strip(), token.encode())


def _is_local(scope: Scope) -> bool:
    try:
        return ipaddress.ip_address((scope.get("client") or ("",))[0]).is_loopback
    except ValueError:
        return False


@contextmanager
def _errors_as_409() -> Iterator[None]:
    """Turn our own errors into responses (409)."""
    try:
        yield
    except RequestError:
        raise
    except AcademyError as problem:
        raise RequestError(409, str(problem), code=type(problem).__name__) from problem


def _logged(gateway: Gateway, route: Route_) -> Route_:
    """A route with a request id in its response and a line in the access log."""

    async def route_with_log(request: Request) -> Response:
        began, id_ = time.perf_counter(), f"req-{new_id()}"
        try:
            response = await route(request)
        except RequestError as problem:
            gateway.counts[f"refused {problem.status}"] += 1
            response = _json(problem.body, problem.status, problem.headers)
        except DisconnectedError:
            response = Response(status_code=400)  # the client is gone
        response.headers["x-request-id"] = id_
        access.info(
            "%s %s %d %.0f ms", id_, request.url.path, response.status_code, 1000 * (time.perf_counter() - began)
        )
        return response

    return route_with_log


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


async def _as_error(_request: Request, problem: Exception) -> Response:
    """Errors of the router (404, 405) and unexpected errors, as OpenAI's error object."""
    status = problem.status_code if isinstance(problem, HTTPException) else 500
    message = problem.detail if isinstance(problem, HTTPException) else "Internal error of the gateway; see its log."
    return _json(RequestError(status, f"{message}.".replace("..", ".")).body, status)
