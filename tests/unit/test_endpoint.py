"""Endpoints as players and judges, against a real server on the loopback with configurable faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from academy.arena.answers import CHUNK
from academy.arena.endpoint import Endpoint, EndpointPlayer, judge_pairs
from academy.arena.examination import Examination, examine
from academy.arena.report import ReportContext, render
from academy.arena.suites.base import Generation, Player, Question, Reply
from academy.arena.suites.recall import RecallSuite
from academy.curriculum.dataset import Example, group_of
from academy.errors import ExaminationError, InputError
from academy.records import canonical

KEY = "sk-test-0123456789abcdef"
GENERATION = Generation(max_new_tokens=32)
SECONDS, PATIENT = 0.5, 20.0
AT_ONCE_AGAIN = {"retry-after-ms": "5"}


def completion(text: Any, finish: str = "stop", tokens: Any = 3) -> dict[str, Any]:
    """A response of an OpenAI-compatible endpoint."""
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 4},
    }  # fmt: skip


Behaviour = Callable[["Handler", str, int], None]
"""A server's reaction to a request, its last message and the number of earlier requests."""


class Handler(BaseHTTPRequestHandler):
    """One request; the server's `behave` answers it."""

    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append(asked)
            self.server.keys.append(self.headers["authorization"])
            self.server.paths.append(self.path)
        self.server.behave(self, asked["messages"][-1]["content"], number)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def say(self, text: Any, **more: Any) -> None:
        self.send(200, json.dumps(completion(text, **more)).encode())

    def fail(self, status: int, message: str = "no") -> None:
        self.send(status, json.dumps({"error": {"message": message}}).encode(), AT_ONCE_AGAIN)

    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


class Server(ThreadingHTTPServer):
    """Counts what it is asked."""

    daemon_threads = True

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.endpoints: dict[int, Endpoint] = {}

    def begin(self, behave: Behaviour) -> Server:
        """A new test: nothing was asked yet."""
        self.behave = behave
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.paths: list[str] = []
        return self

    def handle_error(self, *_: Any) -> None:
        """Ignore clients that disconnect: some tests need that."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def endpoint(self, tries: int = 2) -> Endpoint:
        """Cached, because creating a client of the library takes 0.2 s."""
        made = Endpoint(url=self.url, model="m", key=KEY, seconds=PATIENT, tries=tries)
        return self.endpoints.setdefault(tries, made)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield found
    found.released.set()
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture
def serve(server: Server) -> Callable[[Behaviour], Server]:
    """The server, with the behaviour of one test."""
    return server.begin


Serve = Callable[[Behaviour], Server]


def ask(server: Server, tries: int = 2) -> Reply:
    return server.endpoint(tries).ask([{"role": "user", "content": "Which lights?"}], 32)


def failed(server: Server, tries: int = 2) -> str:
    with pytest.raises(ExaminationError) as problem:
        ask(server, tries)
    assert problem.value.remedy
    assert KEY not in str(problem.value)
    assert "\n" not in str(problem.value)
    return str(problem.value)


# Addresses


def test_endpoint_address_names_a_model() -> None:
    found = Endpoint.parse("http://127.0.0.1:8000/v1#org/model-7b:q4", f"http://127.0.0.1:8000={KEY}")
    assert (found.url, found.model, found.key) == ("http://127.0.0.1:8000/v1", "org/model-7b:q4", KEY)


@pytest.mark.parametrize(
    "text",
    ["", "model", "http://host/v1", "http://host/v1#", "ftp://host/v1#m", "http://#m", "http:///v1#m", "://host#m",
     "http://host:port/v1#m", "http://host:99999/v1#m", "http://[::1/v1#m", "http://ho st/v1#m", "http://host/v1#a\nb"],
)  # fmt: skip
def test_endpoint_refuses_an_invalid_address(text: str) -> None:
    with pytest.raises(InputError, match="is not an endpoint"):
        Endpoint.parse(text)


def test_endpoint_refuses_a_password_in_the_address_without_showing_it() -> None:
    with pytest.raises(InputError, match="ACADEMY_ENDPOINT_KEY") as problem:
        Endpoint.parse("https://ana:hunter2@host/v1#m")
    assert "hunter2" not in str(problem.value)


def test_endpoint_identity_covers_address_and_model_only() -> None:
    first = Endpoint(url="http://a/v1", model="m", key="one")
    assert first.identity == Endpoint(url="http://a/v1", model="m", key="two", seconds=1, tries=0).identity
    assert first.identity != Endpoint(url="http://a/v1", model="n", key="one").identity
    assert first.identity != Endpoint(url="http://b/v1", model="m", key="one").identity


def test_endpoint_key_is_never_serialised() -> None:
    endpoint = Endpoint(url="http://a/v1", model="m", key=KEY)
    assert KEY not in repr(endpoint) + str(endpoint) + endpoint.model_dump_json() + str(canonical(endpoint))


# Answers


def test_endpoint_answer_is_greedy_and_complete(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.say(" The red ones.\n", tokens=4))
    assert ask(server) == Reply(text="The red ones.", tokens=4, stopped=True)
    assert server.asked == [
        {"model": "m", "messages": [{"role": "user", "content": "Which lights?"}], "temperature": 0, "max_tokens": 32}
    ]
    assert (server.keys, server.paths) == ([f"Bearer {KEY}"], ["/v1/chat/completions"])


def test_truncated_answer_is_marked_as_not_stopped(serve: Serve) -> None:
    assert not ask(serve(lambda request, _text, _n: request.say("and so on", finish="length"))).stopped


@pytest.mark.parametrize("content", ["", None, "  \n"])
def test_empty_answer_is_an_answer(serve: Serve, content: str | None) -> None:
    assert ask(serve(lambda request, _text, _n: request.say(content))).text == ""


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": None}])
def test_endpoint_without_a_token_count_is_accepted(serve: Serve, usage: Any) -> None:
    body = json.dumps({**completion("The red ones."), "usage": usage}).encode()
    assert ask(serve(lambda request, _text, _n: request.send(200, body))).tokens == 0


# Failures


def test_failing_server_is_retried(serve: Serve) -> None:
    server = serve(lambda request, _text, n: request.fail(500) if n < 2 else request.say("The red ones."))
    assert ask(server).text == "The red ones."
    assert len(server.asked) == 3


@pytest.mark.parametrize(("status", "name"), [(503, "InternalServerError"), (429, "RateLimitError"), (408, "")])
def test_server_that_always_fails_is_asked_a_limited_number_of_times(serve: Serve, status: int, name: str) -> None:
    server = serve(lambda request, _text, _n: request.fail(status))
    found = failed(server)
    assert f"{server.url} did not answer after 3 attempts ({name}" in found
    assert "earlier answers are kept" in found
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_rejected_request_is_not_retried(serve: Serve, status: int) -> None:
    server = serve(lambda request, _text, _n: request.fail(status, f"Incorrect API key provided: {KEY}.\nSee docs."))
    found = failed(server)
    assert f"{server.url} rejected a request (" in found
    assert "[key]" in found
    assert "Check the address, the model's name and ACADEMY_ENDPOINT_KEY." in found
    assert len(server.asked) == 1


@pytest.mark.slow
def test_hanging_server_times_out(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: (request.server.released.wait(30), None)[1])
    began = time.perf_counter()
    with pytest.raises(ExaminationError, match=r"did not answer after 2 attempts \(APITimeoutError"):
        Endpoint(url=server.url, model="m", seconds=SECONDS, tries=1).ask([{"role": "user", "content": "a"}], 8)
    assert len(server.asked) == 2
    assert 2 * SECONDS <= time.perf_counter() - began < 5


def test_connection_that_breaks_is_not_an_answer(serve: Serve) -> None:
    def half(request: Handler, _text: str, _n: int) -> None:
        body = json.dumps(completion("The red ones.")).encode()
        request.send_response(200)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) // 2])
        request.close_connection = True

    server = serve(half)
    assert "did not answer after 1 attempts" in failed(server, tries=0)


def test_unreachable_address_is_reported(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.say("x"))
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m", seconds=SECONDS, tries=0)
    with pytest.raises(
        ExaminationError, match=r"127\.0\.0\.1:9/v1 did not answer after 1 attempts \(APIConnectionError"
    ):
        endpoint.ask([{"role": "user", "content": "a"}], 8)
    assert server.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Welcome</html>",
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": {}}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": [{"message": "text"}]}',
        b'{"choices": [{"message": {"content": 7}}]}',
        b'{"choices": [{"message": {"content": ["a"]}}]}',
        b'{"choices": [{"message": {"content": "a"}}], "usage": {"completion_tokens": "many"}}',
        b"\xff\xfe",
    ],
)
def test_invalid_chat_completion_is_reported(serve: Serve, body: bytes) -> None:
    found = failed(serve(lambda request, _text, _n: request.send(200, body)), tries=0)
    assert "is not a chat completion. Check the address." in found


def test_html_page_instead_of_json_is_reported(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.send(200, b"<html>", {"content-type": "text/html"}))
    assert "not a chat completion" in failed(server)


# In an examination


def lessons(count: int) -> list[Example]:
    return [
        Example(
            id=f"{n:03}-{wording}", suite="recall", request=f"Request {n} in wording {wording}?", answer=f"answer {n}",
            origin=f"{n}-{wording}", group=group_of(f"answer {n}"), seq=n, tags=(), author="", batch="", provenance={},
        )
        for n in range(count)
        for wording in range(2)
    ]  # fmt: skip


SUITE = RecallSuite(lessons(100), 0)
KNOWN = {question.request: question.reference for question in SUITE.questions()}


class Ignorant:
    """A champion without any correct answer."""

    identity = "a" * 64

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        return [Reply(text="no idea") for _ in requests]


def examined(challenger: Player, folder: Path) -> Examination:
    return examine(Ignorant(), challenger, [(SUITE, GENERATION)], spent_before=0, answers=folder)[0]


def test_endpoint_that_fails_cannot_decide_and_the_next_run_asks_only_the_rest(serve: Serve, tmp_path: Path) -> None:
    def tired(request: Handler, text: str, n: int) -> None:
        request.say(KNOWN[text]) if n < 70 else request.fail(503, f"out of order for {KEY}")

    server = serve(tired)
    found = examined(EndpointPlayer(server.endpoint(tries=0)), tmp_path)
    assert (found.verdict.outcome, found.verdict.spends) == ("CANNOT DECIDE", False)
    assert found.verdict.because.startswith(
        f"recall: {server.url} did not answer after 1 attempts (InternalServerError"
    )
    assert (
        "Run the same command again when the endpoint is available; earlier answers are kept." in found.verdict.because
    )
    (kept,) = tmp_path.glob(f"{server.endpoint().identity[:16]}-*.json")
    assert len(json.loads(kept.read_bytes())) == CHUNK
    assert len(server.asked) < 90, "waiting requests are not sent to a failed server"
    before = len(server.asked)
    server.behave = lambda request, text, _n: request.say(KNOWN[text])
    again = examined(EndpointPlayer(server.endpoint()), tmp_path)
    assert again.verdict.outcome == "PROMOTE"
    assert len(server.asked) - before == 80 - CHUNK
    assert again == examined(EndpointPlayer(server.endpoint()), tmp_path)
    assert len(server.asked) - before == 80 - CHUNK
    assert set(server.keys) == {f"Bearer {KEY}"}
    again.save(tmp_path)
    context = ReportContext(names=("base", server.url), base="seed")
    page = render(found, {"recall": SUITE.questions()}, context, form="html")
    assert "out of order for [key]" in page
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*.json"))


def test_key_is_removed_from_the_answers_of_an_endpoint(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request, _text, _n: request.say(f"Your key is {KEY}."))
    examined(EndpointPlayer(server.endpoint()), tmp_path).save(tmp_path)
    written = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert any("Your key is [key]." in text for text in written)
    assert not any(KEY in text for text in written)


# Judges


def pairs(count: int) -> list[tuple[Question, str, str]]:
    """Questions with a worse first answer and a better second one."""
    return [(SUITE.questions()[n], f"worse {n}", f"better {n}") for n in range(count)]


def answers_in(text: str) -> tuple[str, str]:
    """The two answers in a judge's prompt."""
    first, _, second = text.partition("Answer A:\n")[2].partition("\n\nAnswer B:\n")
    return first, second.partition("\n\nYour letter:")[0]


def test_judge_that_knows_the_better_answer_counts_wins_only(serve: Serve) -> None:
    server = serve(lambda request, text, _n: request.say("A" if "better" in answers_in(text)[0] else "B"))
    found = judge_pairs(server.endpoint(), pairs(5))
    assert (found.wins, found.losses, found.ties, found.by_place, found.unreadable) == (5, 0, 0, 0, 0)
    assert found.judge == f"m at {server.url}"
    assert len(server.asked) == 10
    assert all(one["temperature"] == 0 for one in server.asked)
    turned = [(question, better, worse) for question, worse, better in pairs(5)]
    assert (judge_pairs(server.endpoint(), turned).losses, found.agreement) == (5, None)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_judge_that_prefers_a_position_gives_no_wins(serve: Serve, letter: str) -> None:
    found = judge_pairs(serve(lambda request, _text, _n: request.say(letter)).endpoint(), pairs(5))
    assert (found.wins, found.losses, found.ties, found.by_place, found.unreadable) == (0, 0, 5, 5, 0)


@pytest.mark.parametrize("reply", ["Both are fine.", "", "Better: A", "AB", "ABBA", "42", "Ä", "C", "Answer A", "Tie"])
def test_judge_with_invalid_replies_is_unreadable(serve: Serve, reply: str) -> None:
    found = judge_pairs(serve(lambda request, _text, _n: request.say(reply)).endpoint(), pairs(3))
    assert (found.wins, found.losses, found.ties, found.by_place, found.unreadable) == (0, 0, 3, 0, 3)


@pytest.mark.parametrize("reply", ["{}", " {}.", "**{}**", "{}\n", '"{}"', "({})", "{}: it is shorter", "{} is better"])
def test_judge_letter_is_read_in_common_formats(serve: Serve, reply: str) -> None:
    server = serve(lambda request, text, _n: request.say(reply.format("A" if "better" in answers_in(text)[0] else "B")))
    assert judge_pairs(server.endpoint(), pairs(2)).wins == 2


def test_judge_without_a_preference_counts_ties(serve: Serve) -> None:
    found = judge_pairs(serve(lambda request, _text, _n: request.say("T")).endpoint(), pairs(3))
    assert (found.ties, found.by_place, found.unreadable) == (3, 0, 0)


def test_equal_answers_are_a_tie_without_a_request(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.say("A"))
    found = judge_pairs(server.endpoint(), [(SUITE.questions()[0], "the  same", "the same\n")])
    assert (found.ties, found.by_place, server.asked) == (1, 0, [])


def test_judge_agreement_counts_gold_stars(serve: Serve) -> None:
    gold = [(f"Request {n}?", f"gold {n}", f"other {n}") for n in range(10)]

    def mostly(request: Handler, text: str, _n: int) -> None:
        first = answers_in(text)[0]
        knows = int(first.split()[1]) < 7
        request.say("A" if (first.startswith("gold")) == knows else "B")

    found = judge_pairs(serve(mostly).endpoint(), [], gold)
    assert (found.gold_asked, found.gold_agreed, found.agreement) == (10, 7, 0.7)
    assert (found.wins, found.losses, found.ties) == (0, 0, 0)


def test_judge_that_does_not_answer_is_reported(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.fail(503))
    with pytest.raises(ExaminationError, match="did not answer after 1 attempts"):
        judge_pairs(server.endpoint(tries=0), pairs(50))
    assert len(server.asked) <= 40
