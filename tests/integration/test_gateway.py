"""The gateway over HTTP, with a scripted runtime: OpenAI's protocol, limits, changes of the champion, shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from academy.access.secret import home_secret
from academy.errors import AdapterError, HomeError, ServingError, SignatureError
from academy.serving.gateway.client import GatewayClient
from academy.serving.gateway.discovery import DiscoveryFile
from academy.serving.gateway.slots import Limits
from academy.store.ledger import BASE
from academy.store.locks import exclusive_lock
from tests.gateways import PATIENCE, Obedient, Running, fake_digest, running
from tests.ledger_entries import promotion
from tests.strangers import AS_ROOT, request_bytes, send_as_stranger

A, B, C, D = (fake_digest(letter) for letter in "abcd")
JSON = {"content-type": "application/json"}
LIMITS = Limits(concurrency=2, queue=2, first_token=1.0, total=20.0, slow_reader=0.5, drain=1.0)


@pytest.fixture(scope="module")
def runtime() -> Obedient:
    return Obedient()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, runtime: Obedient) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway") / "home", runtime, limits=LIMITS) as server:
        yield server


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def post(server: Running, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    headers = JSON | more.pop("headers", {})
    return httpx.post(server.url + path, content=content, headers=headers, timeout=PATIENCE, **more)


def chat_body(text: str = "count 2", **more: Any) -> dict[str, Any]:
    return {"model": "champion", "messages": [{"role": "user", "content": text}], **more}


def test_openai_client_gets_an_answer_with_its_version(server: Running) -> None:
    raw = server.ask("count 3")
    completion = raw.parse()
    assert completion.choices[0].message.content == "0 1 2 base"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (3, 4, 7)
    assert (raw.headers["x-academy-adapter"], raw.headers["x-academy-version"]) == (BASE, BASE)
    assert completion.system_fingerprint == "base-base-0"
    assert raw.headers["x-request-id"] == f"req-{completion.id.removeprefix('chatcmpl-')}"


def test_stream_has_role_text_finish_and_usage(server: Running) -> None:
    chunks = list(server.openai.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "count 3"}], stream=True,
        stream_options={"include_usage": True},
    ))  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "0 1 2 base"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-2:] == [None, "stop"]
    assert [c.usage.total_tokens for c in chunks if c.usage] == [7]
    assert {c.system_fingerprint for c in chunks} == {"base-base-0"}
    assert len({c.id for c in chunks}) == 1


def test_stream_ends_with_done_and_has_usage_only_on_request(server: Running) -> None:
    response = post(server, chat_body(stream=True))
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "[DONE]"
    assert all("usage" not in json.loads(event) for event in events[:-1])


def test_text_parts_and_developer_messages_are_accepted(server: Running) -> None:
    parts = [{"type": "text", "text": "count"}, {"type": "text", "text": " 1"}]
    body = {"model": "base", "messages": [{"role": "developer", "content": "Be short."},
                                          {"role": "user", "content": parts}]}  # fmt: skip
    assert post(server, body).json()["choices"][0]["message"]["content"] == "0 base"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        (b"{", 400, None, "invalid_json"),
        (b"[]", 400, None, "invalid_json"),
        ({"model": "base"}, 400, "messages", "missing_required_parameter"),
        ({"model": "base", "messages": []}, 400, "messages", "invalid_value"),
        ({"model": "base", "messages": "hello"}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x"}]}, 400, "model", "missing_required_parameter"),
        ({"model": 7, "messages": [{"role": "user", "content": "x"}]}, 400, "model", "invalid_value"),
        ({"model": "base", "messages": [{"role": "wizard", "content": "x"}]}, 400, "messages.0.role", "invalid_value"),
        ({"model": "base", "messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", None),
        ({"model": "base", "messages": [{"role": "user", "content": " "}]}, 400, "messages", None),
        (chat_body(temperature="hot"), 400, "temperature", "invalid_value"),
        (chat_body(temperature=3), 400, "temperature", "invalid_value"),
        (chat_body(top_p=-1), 400, "top_p", "invalid_value"),
        (chat_body(max_tokens=0), 400, "max_tokens", "invalid_value"),
        (chat_body(seed="a"), 400, "seed", "invalid_value"),
        (
            b'{"model":"base","messages":[{"role":"user","content":"x"}],"seed":1180591620717411303424}',
            400,
            "seed",
            "invalid_value",
        ),
        (chat_body(stop=["a"] * 5), 400, "stop", None),
        (chat_body(stream="yes"), 400, "stream", "invalid_value"),
        (chat_body(n=2), 400, "n", "unsupported_parameter"),
        (chat_body(logprobs=True), 400, "logprobs", "unsupported_parameter"),
        (chat_body(tools=[{"type": "function"}]), 400, "tools", "unsupported_parameter"),
        (chat_body(response_format={"type": "json_object"}), 400, "response_format", "unsupported_parameter"),
        ({**chat_body(), "model": "v99"}, 404, "model", "model_not_found"),
        (chat_body("lantern " * 3000), 400, "messages", "context_length_exceeded"),
        ({"model": "base", "messages": [{"role": "user", "content": "x"}] * 300}, 400, "messages", None),
    ],
)
def test_invalid_request_gets_an_error_object(
    server: Running, body: Any, status: int, param: str | None, code: str | None
) -> None:
    response = post(server, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert "lantern" not in error["message"]
    assert response.headers["x-request-id"].startswith("req-")


def test_harmless_and_unknown_fields_are_ignored(server: Running) -> None:
    body = chat_body(
        n=1, logprobs=False, presence_penalty=0, frequency_penalty=0.0, tools=[], logit_bias={}, user="me", store=True,
        response_format={"type": "text"}, parallel_tool_calls=True, unheard_of={"a": 1}, top_p=0, stop=None,
    )  # fmt: skip
    assert post(server, body).status_code == 200


def test_refusals_become_exceptions_of_the_openai_client(server: Running) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        server.ask("count 1", "v99")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        server.ask("count 1", temperature=2.5)
    with pytest.raises(openai.InternalServerError) as dead:
        server.ask("die")
    assert dead.value.status_code == 503
    assert "The engine has died." in dead.value.message
    assert server.health()["status"] == "degraded"
    server.ask("count 1")
    assert server.health()["status"] == "ready"


def test_models_are_listed_and_retrieved(server: Running) -> None:
    assert [model.id for model in server.openai.models.list()][:2] == ["champion", "base"]
    assert server.openai.models.retrieve("champion").owned_by == server.gateway.base.family
    with pytest.raises(openai.NotFoundError):
        server.openai.models.retrieve("v99")


def test_too_large_body_is_refused_unread(server: Running) -> None:
    response = post(server, b" " * (LIMITS.body + 1))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(LIMITS.body // 1000 + 2):
            yield b" " * 1000

    response = httpx.post(f"{server.url}/v1/chat/completions", content=endless(), headers=JSON, timeout=PATIENCE)
    assert response.status_code == 413


def test_incomplete_body_times_out(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        client.sendall(b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{")
        assert b" 408 " in client.recv(1000).split(b"\r\n")[0]


def test_foreign_host_name_is_refused(server: Running) -> None:
    assert post(server, chat_body(), headers={"host": "evil.example"}).status_code == 403


def test_a_page_of_another_origin_is_refused(server: Running) -> None:
    response = post(server, chat_body(), headers={"origin": "http://evil.example"})
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "not_allowed"


@pytest.mark.skipif(not AS_ROOT, reason="root only: another account")
def test_another_account_of_this_machine_needs_the_homes_secret(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(chat_body()).encode()
    options: dict[str, Any] = {"method": "POST", "body": body, "content_type": "application/json"}
    answer = send_as_stranger(host, int(port), request_bytes("/v1/chat/completions", **options))
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert b'"code":"invalid_api_key"' in answer
    assert send_as_stranger(host, int(port), request_bytes("/v1/models")).startswith(b"HTTP/1.1 401")
    assert send_as_stranger(host, int(port), request_bytes("/healthz")).startswith(b"HTTP/1.1 200")
    secret = f"Bearer {home_secret(server.settings)}"
    answer = send_as_stranger(host, int(port), request_bytes("/v1/chat/completions", authorization=secret, **options))
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_disconnecting_client_frees_its_slot(server: Running, runtime: Obedient) -> None:
    """With and without streaming, before and after the first piece of the answer."""
    for text, more in (("wait", {"stream": True}), ("wait", {}), ("silence", {"stream": True}), ("silence", {})):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{server.url}/v1/chat/completions", json=chat_body(text, **more),
                timeout=httpx.Timeout(PATIENCE, read=0.3),
            )  # fmt: skip
        until(lambda: runtime.answering == 0 and server.gateway.slots.busy == 0 and not server.gateway.pool.in_flight)
    assert server.gateway.counts["left"] >= 4


def test_openai_client_can_stop_a_stream(server: Running, runtime: Obedient) -> None:
    stream = server.openai.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "flood"}], stream=True
    )
    next(iter(stream))
    stream.close()
    until(lambda: runtime.answering == 0 and server.gateway.slots.busy == 0)


def test_client_that_never_reads_is_disconnected(server: Running, runtime: Obedient) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = orjson.dumps(chat_body("flood", stream=True))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n" +
                       b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        until(lambda: runtime.answering == 1)
        until(lambda: runtime.answering == 0)
        until(lambda: server.gateway.slots.busy == 0)
        sent = runtime.sent
        with pytest.raises(ConnectionResetError):
            while client.recv(1 << 20):
                pass
    time.sleep(0.05)
    assert runtime.sent == sent < 2000, "an unread answer was generated further"


def test_client_that_leaves_stops_its_answer_even_with_another_request_behind(
    server: Running, runtime: Obedient
) -> None:
    """A pipelined request keeps the server from reading, and so from seeing that the client has gone."""
    host, port = server.url.removeprefix("http://").split(":")
    body = orjson.dumps(chat_body("wait"))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with socket.create_connection((host, int(port))) as client:
        request = head + b"content-length: %d\r\n\r\n" % len(body) + body
        client.sendall(request)
        until(lambda: runtime.answering == 1)
        client.sendall(request)
        time.sleep(0.1)
    until(lambda: runtime.answering == 0, seconds=5)


def test_answer_without_a_first_piece_times_out(server: Running) -> None:
    response = post(server, chat_body("silence"))
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    until(lambda: server.gateway.slots.busy == 0)


def test_full_gateway_refuses_with_a_time_to_retry(server: Running, runtime: Obedient) -> None:
    """Two requests run, two wait, one is refused. The two that wait then get an error, because no slot becomes free."""
    waiting: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: waiting.append(post(server, chat_body("wait")))) for _ in range(4)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda number=number: server.gateway.slots.busy == number)
    assert (server.gateway.slots.running, server.gateway.slots.waiting) == (2, 2)
    refused = post(server, chat_body())
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: len(waiting) == 2)
    assert [(response.status_code, response.json()["error"]["code"]) for response in waiting] == [
        (503, "queue_timeout")
    ] * 2
    assert "retry-after" in waiting[0].headers
    runtime.release.set()
    for thread in threads:
        thread.join()
    runtime.release.clear()
    assert sorted(response.status_code for response in waiting) == [200, 200, 503, 503]
    assert post(server, chat_body()).status_code == 200


def test_discovery_file_is_private_and_its_token_opens_the_admin_api(server: Running) -> None:
    place = server.settings.folder("serving") / "default.json"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    discovery = DiscoveryFile.model_validate_json(place.read_bytes())
    assert (discovery.url, discovery.pid, discovery.family) == (server.url, os.getpid(), server.ledger.family)
    for path in ("/admin/follow", "/admin/load", "/admin/verify"):
        assert post(server, {}, path).status_code == 401
        assert post(server, {}, path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{server.url}/admin/status").status_code == 401
    assert server.client.status().status == "ready"
    assert discovery.token not in httpx.get(f"{server.url}/healthz").text


def test_champion_follows_the_ledger(server: Running, runtime: Obedient) -> None:
    """The adapter is loaded, checked by its own name and by the champion's; the previous champion stays loaded."""
    runtime.proved.clear()
    row = server.make_champion(A, "1")
    status = server.client.follow()
    assert (status.champion.version, status.champion.adapter, status.champion.row, status.because) == ("v1", A, row, "")
    assert runtime.proved == [A, A]
    assert server.gateway.pool.switch_seconds < 0.001
    raw = server.ask("count 0")
    assert (raw.parse().choices[0].message.content, raw.headers["x-academy-adapter"]) == (A[:8], A)
    assert (raw.headers["x-academy-version"], raw.headers["x-academy-row"]) == ("v1", str(row))
    assert raw.parse().model == "v1"
    server.make_champion(B, "2")
    until(lambda: server.health()["champion"]["adapter"] == B)  # without a request, twice a second
    assert server.health()["loaded"] == [A, B]
    server.make_champion(C, "3")
    server.client.follow()
    assert server.health()["loaded"] == [B, C], "two champions stay loaded"
    server.make_champion(B, "2", "rollback")
    assert server.client.follow().champion.version == "v2"
    for name, adapter in (("v3", C), ("3", C), (C, C), ("base", BASE), (server.ledger.family, B), ("v2", B)):
        assert server.ask("count 0", name).headers["x-academy-adapter"] == adapter, name
    assert [model.id for model in server.openai.models.list()] == ["champion", "base", "v1", "v2", "v3"]


def test_running_request_keeps_its_adapter_through_swaps(server: Running, runtime: Obedient) -> None:
    """The adapter stays loaded until the request ends, despite three changes of the champion."""
    server.make_champion(A, "1", "rollback")
    server.client.follow()
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=chat_body("wait", stream=True), timeout=PATIENCE
    ) as slow:
        assert slow.headers["x-academy-adapter"] == A
        for adapter, version in ((B, "2"), (C, "3"), (D, "4")):
            server.make_champion(adapter, version)
            server.client.follow()
        assert server.client.status().in_flight == {A: 1}
        assert set(server.client.status().loaded) == {A, C, D}
        runtime.release.set()
        events = [json.loads(line[6:]) for line in slow.iter_lines() if line.startswith("data: {")]
    runtime.release.clear()
    assert events[-2]["choices"][0]["delta"]["content"] == A[:8]
    assert {event["system_fingerprint"] for event in events} == {events[0]["system_fingerprint"]}
    assert events[0]["system_fingerprint"].startswith(f"v1-{A[:16]}")
    until(lambda: set(server.health()["loaded"]) == {C, D})


def test_versions_are_loaded_by_name_and_two_stay_loaded(server: Running) -> None:
    for version, adapter in (("v1", A), ("v2", B)):
        assert server.ask("count 0", version).parse().choices[0].message.content == adapter[:8]
    assert set(server.health()["loaded"]) >= {A, B, D}


@pytest.mark.parametrize("trouble", ["broken", "forged"])
def test_previous_champion_goes_on_where_the_new_one_cannot_be_served(
    server: Running, runtime: Obedient, trouble: str
) -> None:
    before = server.ledger.champion()
    bad = fake_digest("e" if trouble == "broken" else "f")
    getattr(runtime, trouble).add(bad)
    server.make_champion(bad, "5")
    status = server.client.follow()
    assert status.status == "degraded"
    assert ("is damaged" if trouble == "broken" else "answers like another one") in status.because
    assert status.champion.adapter == before.adapter
    assert bad not in status.loaded
    assert server.ask("count 0").headers["x-academy-adapter"] == before.adapter
    assert server.health()["because"] == status.because
    with pytest.raises(AdapterError):
        server.client.load(bad)
    assert server.gateway.follower.failures >= 1
    getattr(runtime, trouble).clear()  # repaired: the gateway retries without a request
    until(lambda: server.health()["status"] == "ready")
    assert server.health()["champion"]["adapter"] == bad
    server.make_champion(before.adapter, before.version, "rollback")
    server.client.follow()


def test_gateway_client_loads_verifies_and_asks(server: Running, runtime: Obedient) -> None:
    early = fake_digest("9")
    assert early in server.client.load(early).loaded
    server.client.verify(early)
    server.client.verify()
    answer = server.client.ask([{"role": "user", "content": "count 1"}], early)
    assert (answer.text, answer.adapter) == (f"0 {early[:8]}", early)
    with pytest.raises(ServingError, match="does not exist"):
        server.client.ask([{"role": "user", "content": "count 1"}], "v77")
    assert GatewayClient.find(server.settings, "another family") is None


def test_gateway_client_bypasses_proxies(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert server.client.status().status == "ready"


def test_invalid_signature_refuses_the_adapter(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_adapter: str) -> None:
        raise SignatureError("It was signed by a key that was revoked.")

    monkeypatch.setattr(server.gateway.pool, "identify", refuse)
    with pytest.raises(AdapterError, match="revoked"):
        server.client.verify()


def test_second_gateway_with_the_same_name_is_refused(server: Running) -> None:
    with pytest.raises(HomeError, match="already runs in this home"), running(server.settings.home, Obedient()):
        pass
    assert server.client.status().status == "ready", "the first gateway's discovery file was removed"


def test_discovery_file_of_a_killed_gateway_is_ignored(tmp_path: Path, server: Running) -> None:
    settings = server.settings.model_copy(update={"home": tmp_path})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    discovery = DiscoveryFile(
        name="default", url=f"http://127.0.0.1:{port}", token="t", pid=1, family=server.ledger.family
    )
    (settings.folder("serving") / "default.json").write_bytes(orjson.dumps(discovery.model_dump()))
    assert GatewayClient.find(settings, discovery.family) is None
    with running(tmp_path, Obedient()) as other:  # the lock of a killed gateway is free
        assert other.client.discovery.url == other.url
    assert not list(settings.folder("serving").glob("*.json"))


def test_gateway_does_not_start_with_a_broken_champion(tmp_path: Path) -> None:
    runtime = Obedient()
    runtime.broken.add(A)
    with (
        pytest.raises(AdapterError, match="is damaged"),
        running(tmp_path, runtime, before=lambda ledger, _: promote_first(ledger, A)),
    ):
        pass


def promote_first(ledger: Any, adapter: str) -> None:
    ledger.set_champion(ledger.champion(), promotion("1", adapter))


def test_champion_is_loaded_before_the_port_opens(tmp_path: Path) -> None:
    runtime = Obedient()
    with running(tmp_path, runtime, before=lambda ledger, _: promote_first(ledger, A)) as server:
        assert runtime.proved == [A, A]
        assert server.ask("count 0").parse().choices[0].message.content == A[:8]


def test_shutdown_finishes_running_answers_and_refuses_new_requests(tmp_path: Path) -> None:
    """A running answer may end within the drain limit."""
    runtime = Obedient()
    done: list[httpx.Response] = []
    with running(tmp_path, runtime, limits=LIMITS.model_copy(update={"drain": PATIENCE})) as server:
        thread = threading.Thread(target=lambda: done.append(post(server, chat_body("wait"))))
        thread.start()
        until(lambda: runtime.answering == 1)
        server.gateway.draining = True
        until(lambda: server.health()["status"] == "ending")
        refused = post(server, chat_body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert "retry-after" in refused.headers
        runtime.release.set()
        thread.join()
    assert done[0].json()["choices"][0]["message"]["content"] == "one base"


def test_shutdown_cancels_answers_after_the_drain_limit(tmp_path: Path) -> None:
    runtime = Obedient()
    ended: list[httpx.Response] = []
    with running(tmp_path, runtime, limits=LIMITS) as server:
        thread = threading.Thread(target=lambda: ended.append(post(server, chat_body("wait"))))
        thread.start()
        until(lambda: runtime.answering == 1)
    thread.join()
    assert (runtime.answering, ended[0].json()["error"]["code"]) == (0, "shutting_down")


def test_key_is_required_where_one_is_set(tmp_path: Path) -> None:
    from pydantic import SecretStr

    with running(tmp_path, Obedient(), serve_key=SecretStr("sesame")) as server:
        assert post(server, chat_body()).status_code == 401
        with pytest.raises(openai.AuthenticationError):
            server.ask("count 1")
        user = server.openai.with_options(api_key="sesame")
        assert [model.id for model in user.models.list()] == ["champion", "base"]
        answer = user.chat.completions.create(model="champion", messages=[{"role": "user", "content": "count 1"}])
        assert answer.choices[0].message.content == "0 base"
        assert server.client.ask([{"role": "user", "content": "count 1"}]).text == "0 base"
        assert server.health()["status"] == "ready"


def test_many_asynchronous_clients_are_answered(server: Running) -> None:
    async def ask_at_once() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=5) as client:
            completions = await asyncio.gather(*(
                client.chat.completions.create(model="base", messages=[{"role": "user", "content": f"count {n}"}])
                for n in range(12)
            ))  # fmt: skip
        return [str(completion.choices[0].message.content) for completion in completions]

    texts = asyncio.run(ask_at_once())
    assert [len(text.split()) for text in texts] == [n + 1 for n in range(12)]


def test_running_gateway_holds_its_lock(server: Running) -> None:
    with pytest.raises(HomeError), exclusive_lock(server.settings.folder("serving") / "default.lock", "held"):
        pass
