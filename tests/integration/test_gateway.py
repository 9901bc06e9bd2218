"""The gateway over HTTP, with a runtime that does as it is told: the wire, the limits, the pointer, the end."""

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

from academy.errors import AdapterError, HomeError, ServingError, SignatureError
from academy.serving.gateway.client import GatewayClient
from academy.serving.gateway.discovery import DiscoveryFile
from academy.serving.gateway.slots import Limits
from academy.store.ledger import BASE
from academy.store.locks import exclusive_lock
from tests.gateways import PATIENCE, Obedient, Running, fake_digest, running
from tests.ledger_entries import promotion

A, B, C, D = (fake_digest(letter) for letter in "abcd")
LIMITS = Limits(concurrency=2, queue=2, first_token=1.0, total=20.0, slow_reader=0.5, drain=1.0)


@pytest.fixture(scope="module")
def runtime() -> Obedient:
    return Obedient()


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, runtime: Obedient) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("gateway") / "home", runtime, limits=LIMITS) as found:
        yield found


def until(holds: Callable[[], bool], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def post(one: Running, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return httpx.post(one.url + path, content=content, timeout=PATIENCE, **more)


def asked(text: str = "count 2", **more: Any) -> dict[str, Any]:
    return {"model": "champion", "messages": [{"role": "user", "content": text}], **more}


def test_an_openai_client_gets_an_answer_and_who_made_it(one: Running) -> None:
    raw = one.ask("count 3")
    found = raw.parse()
    assert found.choices[0].message.content == "0 1 2 base"
    assert found.choices[0].finish_reason == "stop"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (3, 4, 7)
    assert (raw.headers["x-academy-adapter"], raw.headers["x-academy-version"]) == (BASE, BASE)
    assert found.system_fingerprint == "base-base-0"
    assert raw.headers["x-request-id"] == f"req-{found.id.removeprefix('chatcmpl-')}"


def test_a_stream_has_a_role_the_parts_a_finish_and_its_usage(one: Running) -> None:
    chunks = list(one.openai.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "count 3"}], stream=True,
        stream_options={"include_usage": True},
    ))  # fmt: skip
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "0 1 2 base"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-2:] == [None, "stop"]
    assert [c.usage.total_tokens for c in chunks if c.usage] == [7]
    assert {c.system_fingerprint for c in chunks} == {"base-base-0"}
    assert len({c.id for c in chunks}) == 1


def test_a_stream_ends_with_done_and_has_no_usage_where_none_was_asked_for(one: Running) -> None:
    response = post(one, asked(stream=True))
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.headers["content-type"].startswith("text/event-stream")
    assert events[-1] == "[DONE]"
    assert all("usage" not in json.loads(event) for event in events[:-1])


def test_text_parts_and_a_developer_are_understood(one: Running) -> None:
    parts = [{"type": "text", "text": "count"}, {"type": "text", "text": " 1"}]
    body = {"model": "base", "messages": [{"role": "developer", "content": "Be short."},
                                          {"role": "user", "content": parts}]}  # fmt: skip
    assert post(one, body).json()["choices"][0]["message"]["content"] == "0 base"


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
        (asked(temperature="hot"), 400, "temperature", "invalid_value"),
        (asked(temperature=3), 400, "temperature", "invalid_value"),
        (asked(top_p=-1), 400, "top_p", "invalid_value"),
        (asked(max_tokens=0), 400, "max_tokens", "invalid_value"),
        (asked(seed="a"), 400, "seed", "invalid_value"),
        (
            b'{"model":"base","messages":[{"role":"user","content":"x"}],"seed":1180591620717411303424}',
            400,
            "seed",
            "invalid_value",
        ),
        (asked(stop=["a"] * 5), 400, "stop", None),
        (asked(stream="yes"), 400, "stream", "invalid_value"),
        (asked(n=2), 400, "n", "unsupported_parameter"),
        (asked(logprobs=True), 400, "logprobs", "unsupported_parameter"),
        (asked(tools=[{"type": "function"}]), 400, "tools", "unsupported_parameter"),
        (asked(response_format={"type": "json_object"}), 400, "response_format", "unsupported_parameter"),
        ({**asked(), "model": "v99"}, 404, "model", "model_not_found"),
        (asked("lantern " * 3000), 400, "messages", "context_length_exceeded"),
        ({"model": "base", "messages": [{"role": "user", "content": "x"}] * 300}, 400, "messages", None),
    ],
)
def test_what_cannot_be_answered_gets_an_error_object(
    one: Running, body: Any, status: int, param: str | None, code: str | None
) -> None:
    response = post(one, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert "lantern" not in error["message"]
    assert response.headers["x-request-id"].startswith("req-")


def test_what_changes_nothing_and_what_nobody_knows_is_tolerated(one: Running) -> None:
    body = asked(
        n=1, logprobs=False, presence_penalty=0, frequency_penalty=0.0, tools=[], logit_bias={}, user="me", store=True,
        response_format={"type": "text"}, parallel_tool_calls=True, unheard_of={"a": 1}, top_p=0, stop=None,
    )  # fmt: skip
    assert post(one, body).status_code == 200


def test_refusals_are_exceptions_of_the_openai_client(one: Running) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        one.ask("count 1", "v99")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        one.ask("count 1", temperature=2.5)
    with pytest.raises(openai.InternalServerError) as dead:
        one.ask("die")
    assert dead.value.status_code == 503
    assert "The engine has died." in dead.value.message
    assert one.health()["status"] == "degraded"
    one.ask("count 1")
    assert one.health()["status"] == "ready"


def test_models_are_listed_and_found(one: Running) -> None:
    assert [found.id for found in one.openai.models.list()][:2] == ["champion", "base"]
    assert one.openai.models.retrieve("champion").owned_by == one.gateway.base.family
    with pytest.raises(openai.NotFoundError):
        one.openai.models.retrieve("v99")


def test_a_body_that_is_too_large_is_not_read(one: Running) -> None:
    response = post(one, b" " * (LIMITS.body + 1))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(LIMITS.body // 1000 + 2):
            yield b" " * 1000

    assert httpx.post(f"{one.url}/v1/chat/completions", content=endless(), timeout=PATIENCE).status_code == 413


def test_a_body_that_does_not_come_is_given_up(one: Running) -> None:
    host, port = one.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 50\r\n\r\n{")
        assert b" 408 " in client.recv(1000).split(b"\r\n")[0]


def test_a_page_of_another_name_cannot_ask(one: Running) -> None:
    assert post(one, asked(), headers={"host": "evil.example"}).status_code == 400


def test_a_client_that_leaves_frees_its_place(one: Running, runtime: Obedient) -> None:
    """Streaming or not, answered to or still waiting for the first word."""
    for text, more in (("wait", {"stream": True}), ("wait", {}), ("silence", {"stream": True}), ("silence", {})):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{one.url}/v1/chat/completions", json=asked(text, **more),
                timeout=httpx.Timeout(PATIENCE, read=0.3),
            )  # fmt: skip
        until(lambda: runtime.answering == 0 and one.gateway.slots.busy == 0 and not one.gateway.pool.in_flight)
    assert one.gateway.counts["left"] >= 4


def test_the_openai_client_can_stop_a_stream(one: Running, runtime: Obedient) -> None:
    stream = one.openai.chat.completions.create(
        model="base", messages=[{"role": "user", "content": "flood"}], stream=True
    )
    next(iter(stream))
    stream.close()
    until(lambda: runtime.answering == 0 and one.gateway.slots.busy == 0)


def test_a_client_that_never_reads_holds_no_place(one: Running, runtime: Obedient) -> None:
    host, port = one.url.removeprefix("http://").split(":")
    body = orjson.dumps(asked("flood", stream=True))
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n" +
                       b"content-length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        until(lambda: runtime.answering == 1)
        until(lambda: runtime.answering == 0)
        until(lambda: one.gateway.slots.busy == 0)
        sent = runtime.sent
        with pytest.raises(ConnectionResetError):
            while client.recv(1 << 20):
                pass
    time.sleep(0.05)
    assert runtime.sent == sent < 2000, "what nobody reads is not made"


def test_an_answer_that_does_not_begin_is_given_up(one: Running) -> None:
    response = post(one, asked("silence"))
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    until(lambda: one.gateway.slots.busy == 0)


def test_a_full_gateway_says_when_to_come_back(one: Running, runtime: Obedient) -> None:
    """Two are answered, two wait, one is refused; then the two that waited are told that no place became free."""
    waiting: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: waiting.append(post(one, asked("wait")))) for _ in range(4)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(lambda number=number: one.gateway.slots.busy == number)
    assert (one.gateway.slots.running, one.gateway.slots.waiting) == (2, 2)
    refused = post(one, asked())
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert int(refused.headers["retry-after"]) >= 1
    until(lambda: len(waiting) == 2)
    assert [(one.status_code, one.json()["error"]["code"]) for one in waiting] == [(503, "queue_timeout")] * 2
    assert "retry-after" in waiting[0].headers
    runtime.release.set()
    for thread in threads:
        thread.join()
    runtime.release.clear()
    assert sorted(one.status_code for one in waiting) == [200, 200, 503, 503]
    assert post(one, asked()).status_code == 200


def test_the_note_is_for_its_owner_and_the_admin_endpoints_for_who_has_it(one: Running) -> None:
    place = one.settings.folder("serving") / "default.json"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    discovery = DiscoveryFile.model_validate_json(place.read_bytes())
    assert (discovery.url, discovery.pid, discovery.family) == (one.url, os.getpid(), one.ledger.family)
    for path in ("/admin/follow", "/admin/load", "/admin/verify"):
        assert post(one, {}, path).status_code == 401
        assert post(one, {}, path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert httpx.get(f"{one.url}/admin/status").status_code == 401
    assert one.client.status().status == "ready"
    assert discovery.token not in httpx.get(f"{one.url}/healthz").text


def test_the_pointer_follows_the_ledger(one: Running, runtime: Obedient) -> None:
    """Loaded, proved by its own name, flipped, proved by the champion's name; the one before stays loaded."""
    runtime.proved.clear()
    row = one.make_champion(A, "1")
    told = one.client.follow()
    assert (told.champion.version, told.champion.adapter, told.champion.row, told.because) == ("v1", A, row, "")
    assert runtime.proved == [A, A]
    assert one.gateway.pool.switch_seconds < 0.001
    raw = one.ask("count 0")
    assert (raw.parse().choices[0].message.content, raw.headers["x-academy-adapter"]) == (A[:8], A)
    assert (raw.headers["x-academy-version"], raw.headers["x-academy-row"]) == ("v1", str(row))
    assert raw.parse().model == "v1"
    one.make_champion(B, "2")
    until(lambda: one.health()["champion"]["adapter"] == B)  # by itself, twice a second
    assert one.health()["loaded"] == [A, B]
    one.make_champion(C, "3")
    one.client.follow()
    assert one.health()["loaded"] == [B, C], "two champions are kept"
    one.make_champion(B, "2", "rollback")
    assert one.client.follow().champion.version == "v2"
    for name, adapter in (("v3", C), ("3", C), (C, C), ("base", BASE), (one.ledger.family, B), ("v2", B)):
        assert one.ask("count 0", name).headers["x-academy-adapter"] == adapter, name
    assert [found.id for found in one.openai.models.list()] == ["champion", "base", "v1", "v2", "v3"]


def test_an_admitted_request_keeps_its_adapter_through_a_swap(one: Running, runtime: Obedient) -> None:
    """Its adapter stays loaded until it has ended, however many champions come after."""
    one.make_champion(A, "1", "rollback")
    one.client.follow()
    with httpx.stream(
        "POST", f"{one.url}/v1/chat/completions", json=asked("wait", stream=True), timeout=PATIENCE
    ) as slow:
        assert slow.headers["x-academy-adapter"] == A
        for adapter, version in ((B, "2"), (C, "3"), (D, "4")):
            one.make_champion(adapter, version)
            one.client.follow()
        assert one.client.status().in_flight == {A: 1}
        assert set(one.client.status().loaded) == {A, C, D}
        runtime.release.set()
        events = [json.loads(line[6:]) for line in slow.iter_lines() if line.startswith("data: {")]
    runtime.release.clear()
    assert events[-2]["choices"][0]["delta"]["content"] == A[:8]
    assert {event["system_fingerprint"] for event in events} == {events[0]["system_fingerprint"]}
    assert events[0]["system_fingerprint"].startswith(f"v1-{A[:16]}")
    until(lambda: set(one.health()["loaded"]) == {C, D})


def test_versions_by_name_are_loaded_when_asked_for_and_two_of_them_are_kept(one: Running) -> None:
    for version, adapter in (("v1", A), ("v2", B)):
        assert one.ask("count 0", version).parse().choices[0].message.content == adapter[:8]
    assert set(one.health()["loaded"]) >= {A, B, D}


@pytest.mark.parametrize("trouble", ["broken", "forged"])
def test_the_old_champion_goes_on_where_the_new_one_cannot_be_served(
    one: Running, runtime: Obedient, trouble: str
) -> None:
    before = one.ledger.champion()
    bad = fake_digest("e" if trouble == "broken" else "f")
    getattr(runtime, trouble).add(bad)
    one.make_champion(bad, "5")
    told = one.client.follow()
    assert told.status == "degraded"
    assert ("is damaged" if trouble == "broken" else "answers like another one") in told.because
    assert told.champion.adapter == before.adapter
    assert bad not in told.loaded
    assert one.ask("count 0").headers["x-academy-adapter"] == before.adapter
    assert one.health()["because"] == told.because
    with pytest.raises(AdapterError):
        one.client.load(bad)
    assert one.gateway.follower.failures >= 1
    getattr(runtime, trouble).clear()  # mended: it is tried again by itself
    until(lambda: one.health()["status"] == "ready")
    assert one.health()["champion"]["adapter"] == bad
    one.make_champion(before.adapter, before.version, "rollback")
    one.client.follow()


def test_promotion_finds_the_gateway_loads_and_asks(one: Running, runtime: Obedient) -> None:
    early = fake_digest("9")
    assert early in one.client.load(early).loaded
    one.client.verify(early)
    one.client.verify()
    answer = one.client.ask([{"role": "user", "content": "count 1"}], early)
    assert (answer.text, answer.adapter) == (f"0 {early[:8]}", early)
    with pytest.raises(ServingError, match="does not exist"):
        one.client.ask([{"role": "user", "content": "count 1"}], "v77")
    assert GatewayClient.find(one.settings, "another family") is None


def test_no_proxy_is_told_the_token(one: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert one.client.status().status == "ready"


def test_a_signature_that_does_not_hold_is_a_refusal_of_the_adapter(
    one: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_adapter: str) -> None:
        raise SignatureError("It was signed by a key that was revoked.")

    monkeypatch.setattr(one.gateway.pool, "identify", refuse)
    with pytest.raises(AdapterError, match="revoked"):
        one.client.verify()


def test_a_second_gateway_of_one_name_is_refused(one: Running) -> None:
    with pytest.raises(HomeError, match="already runs in this home"), running(one.settings.home, Obedient()):
        pass
    assert one.client.status().status == "ready", "the note of the first is still there"


def test_the_note_of_a_killed_gateway_is_recognised(tmp_path: Path, one: Running) -> None:
    settings = one.settings.model_copy(update={"home": tmp_path})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    discovery = DiscoveryFile(
        name="default", url=f"http://127.0.0.1:{port}", token="t", pid=1, family=one.ledger.family
    )
    (settings.folder("serving") / "default.json").write_bytes(orjson.dumps(discovery.model_dump()))
    assert GatewayClient.find(settings, discovery.family) is None
    with running(tmp_path, Obedient()) as other:  # its lock went with it
        assert other.client.discovery.url == other.url
    assert not list(settings.folder("serving").glob("*.json"))


def test_a_champion_that_cannot_be_served_does_not_start(tmp_path: Path) -> None:
    runtime = Obedient()
    runtime.broken.add(A)
    with (
        pytest.raises(AdapterError, match="is damaged"),
        running(tmp_path, runtime, before=lambda ledger, _: promote_first(ledger, A)),
    ):
        pass


def promote_first(ledger: Any, adapter: str) -> None:
    ledger.set_champion(ledger.champion(), promotion("1", adapter))


def test_the_champion_is_loaded_before_the_port_opens(tmp_path: Path) -> None:
    runtime = Obedient()
    with running(tmp_path, runtime, before=lambda ledger, _: promote_first(ledger, A)) as found:
        assert runtime.proved == [A, A]
        assert found.ask("count 0").parse().choices[0].message.content == A[:8]


def test_what_is_being_answered_may_end_and_nothing_new_begins(tmp_path: Path) -> None:
    """The slow one is given its time, and no more than its time."""
    runtime = Obedient()
    done: list[httpx.Response] = []
    with running(tmp_path, runtime, limits=LIMITS.model_copy(update={"drain": PATIENCE})) as found:
        thread = threading.Thread(target=lambda: done.append(post(found, asked("wait"))))
        thread.start()
        until(lambda: runtime.answering == 1)
        found.gateway.draining = True
        until(lambda: found.health()["status"] == "ending")
        refused = post(found, asked())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert "retry-after" in refused.headers
        runtime.release.set()
        thread.join()
    assert done[0].json()["choices"][0]["message"]["content"] == "one base"


def test_what_does_not_end_is_given_up(tmp_path: Path) -> None:
    runtime = Obedient()
    ended: list[httpx.Response] = []
    with running(tmp_path, runtime, limits=LIMITS) as found:
        thread = threading.Thread(target=lambda: ended.append(post(found, asked("wait"))))
        thread.start()
        until(lambda: runtime.answering == 1)
    thread.join()
    assert (runtime.answering, ended[0].json()["error"]["code"]) == (0, "shutting_down")


def test_a_key_is_asked_for_where_one_is_set(tmp_path: Path) -> None:
    from pydantic import SecretStr

    with running(tmp_path, Obedient(), serve_key=SecretStr("sesame")) as found:
        assert post(found, asked()).status_code == 401
        with pytest.raises(openai.AuthenticationError):
            found.ask("count 1")
        user = found.openai.with_options(api_key="sesame")
        assert [one.id for one in user.models.list()] == ["champion", "base"]
        answer = user.chat.completions.create(model="champion", messages=[{"role": "user", "content": "count 1"}])
        assert answer.choices[0].message.content == "0 base"
        assert found.client.ask([{"role": "user", "content": "count 1"}]).text == "0 base"
        assert found.health()["status"] == "ready"


def test_many_asynchronous_clients_are_answered_in_turn(one: Running) -> None:
    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{one.url}/v1", api_key="none", max_retries=5) as client:
            found = await asyncio.gather(*(
                client.chat.completions.create(model="base", messages=[{"role": "user", "content": f"count {n}"}])
                for n in range(12)
            ))  # fmt: skip
        return [str(one.choices[0].message.content) for one in found]

    found = asyncio.run(all_of_them())
    assert [len(text.split()) for text in found] == [n + 1 for n in range(12)]


def test_no_lock_is_left(one: Running) -> None:
    with pytest.raises(HomeError), exclusive_lock(one.settings.folder("serving") / "default.lock", "held"):
        pass
