"""Endpoints as players and judges, against a real server on the loopback that behaves as badly as it is told to."""

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
from academy.arena.endpoint import Endpoint, EndpointPlayer, opinion
from academy.arena.examination import Examination, examine
from academy.arena.report import Context, render
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
    """What an OpenAI-compatible endpoint answers."""
    return {
        "id": "1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 4},
    }  # fmt: skip


Behaviour = Callable[["Handler", str, int], None]
"""What a server does with a request, given its last message and how many came before it."""


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
        """A client that went away in the middle is what some tests want."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def endpoint(self, tries: int = 2) -> Endpoint:
        """Kept: a client of the library takes a fifth of a second to make."""
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
    """The server, with a behaviour of the test's own."""
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


def test_an_address_names_a_model() -> None:
    found = Endpoint.parse("http://127.0.0.1:8000/v1#org/model-7b:q4", KEY)
    assert (found.url, found.model, found.key) == ("http://127.0.0.1:8000/v1", "org/model-7b:q4", KEY)


@pytest.mark.parametrize(
    "text",
    ["", "model", "http://host/v1", "http://host/v1#", "ftp://host/v1#m", "http://#m", "http:///v1#m", "://host#m",
     "http://host:port/v1#m", "http://host:99999/v1#m", "http://[::1/v1#m", "http://ho st/v1#m", "http://host/v1#a\nb"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="names no endpoint"):
        Endpoint.parse(text)


def test_an_address_with_a_password_is_refused_without_saying_it() -> None:
    with pytest.raises(InputError, match="ACADEMY_ENDPOINT_KEY") as problem:
        Endpoint.parse("https://ana:hunter2@host/v1#m")
    assert "hunter2" not in str(problem.value)


def test_an_endpoint_is_named_by_address_and_model_and_not_by_key_or_patience() -> None:
    first = Endpoint(url="http://a/v1", model="m", key="one")
    assert first.identity == Endpoint(url="http://a/v1", model="m", key="two", seconds=1, tries=0).identity
    assert first.identity != Endpoint(url="http://a/v1", model="n", key="one").identity
    assert first.identity != Endpoint(url="http://b/v1", model="m", key="one").identity


def test_the_key_is_in_nothing_that_an_endpoint_is_written_as() -> None:
    endpoint = Endpoint(url="http://a/v1", model="m", key=KEY)
    assert KEY not in repr(endpoint) + str(endpoint) + endpoint.model_dump_json() + str(canonical(endpoint))


# Answers


def test_an_answer_is_asked_greedily_and_read_whole(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.say(" The red ones.\n", tokens=4))
    assert ask(server) == Reply(text="The red ones.", tokens=4, stopped=True)
    assert server.asked == [
        {"model": "m", "messages": [{"role": "user", "content": "Which lights?"}], "temperature": 0, "max_tokens": 32}
    ]
    assert (server.keys, server.paths) == ([f"Bearer {KEY}"], ["/v1/chat/completions"])


def test_an_answer_that_was_cut_off_is_told_as_one(serve: Serve) -> None:
    assert not ask(serve(lambda request, _text, _n: request.say("and so on", finish="length"))).stopped


@pytest.mark.parametrize("content", ["", None, "  \n"])
def test_an_answer_of_nothing_is_an_answer(serve: Serve, content: str | None) -> None:
    assert ask(serve(lambda request, _text, _n: request.say(content))).text == ""


@pytest.mark.parametrize("usage", [None, {}, {"completion_tokens": None}])
def test_an_endpoint_that_counts_no_tokens_is_fine(serve: Serve, usage: Any) -> None:
    body = json.dumps({**completion("The red ones."), "usage": usage}).encode()
    assert ask(serve(lambda request, _text, _n: request.send(200, body))).tokens == 0


# Failures


def test_a_server_that_fails_twice_is_asked_again(serve: Serve) -> None:
    server = serve(lambda request, _text, n: request.fail(500) if n < 2 else request.say("The red ones."))
    assert ask(server).text == "The red ones."
    assert len(server.asked) == 3


@pytest.mark.parametrize(("status", "name"), [(503, "InternalServerError"), (429, "RateLimitError"), (408, "")])
def test_a_server_that_always_fails_is_asked_so_many_times(serve: Serve, status: int, name: str) -> None:
    server = serve(lambda request, _text, _n: request.fail(status))
    found = failed(server)
    assert f"{server.url} gave no answer in 3 tries ({name}" in found
    assert "What was answered is kept" in found
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_request_that_is_refused_is_not_asked_again(serve: Serve, status: int) -> None:
    server = serve(lambda request, _text, _n: request.fail(status, f"Incorrect API key provided: {KEY}.\nSee docs."))
    found = failed(server)
    assert f"{server.url} refused a request (" in found
    assert "[key]" in found
    assert "Check the address, the model's name and ACADEMY_ENDPOINT_KEY." in found
    assert len(server.asked) == 1


@pytest.mark.slow
def test_a_server_that_hangs_is_given_up(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: (request.server.released.wait(30), None)[1])
    began = time.perf_counter()
    with pytest.raises(ExaminationError, match=r"gave no answer in 2 tries \(APITimeoutError"):
        Endpoint(url=server.url, model="m", seconds=SECONDS, tries=1).ask([{"role": "user", "content": "a"}], 8)
    assert len(server.asked) == 2
    assert 2 * SECONDS <= time.perf_counter() - began < 5


def test_a_connection_that_ends_in_the_middle_is_no_answer(serve: Serve) -> None:
    def half(request: Handler, _text: str, _n: int) -> None:
        body = json.dumps(completion("The red ones.")).encode()
        request.send_response(200)
        request.send_header("content-length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: len(body) // 2])
        request.close_connection = True

    server = serve(half)
    assert "gave no answer in 1 tries" in failed(server, tries=0)


def test_nobody_at_the_address_is_told_as_such(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.say("x"))
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m", seconds=SECONDS, tries=0)
    with pytest.raises(ExaminationError, match=r"127\.0\.0\.1:9/v1 gave no answer in 1 tries \(APIConnectionError"):
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
def test_what_is_no_chat_completion_is_said_to_be_none(serve: Serve, body: bytes) -> None:
    found = failed(serve(lambda request, _text, _n: request.send(200, body)), tries=0)
    assert "answered with something that is no chat completion. Check the address." in found


def test_a_page_instead_of_json_is_said_to_be_none(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.send(200, b"<html>", {"content-type": "text/html"}))
    assert "no chat completion" in failed(server)


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
    """A champion that knows nothing."""

    identity = "a" * 64

    def answer(self, requests: Sequence[str], generation: Generation) -> list[Reply]:
        return [Reply(text="no idea") for _ in requests]


def examined(challenger: Player, folder: Path) -> Examination:
    return examine(Ignorant(), challenger, [(SUITE, GENERATION)], looks_before=0, answers=folder)[0]


def test_an_endpoint_that_goes_away_decides_nothing_and_the_next_run_asks_only_the_rest(
    serve: Serve, tmp_path: Path
) -> None:
    def tired(request: Handler, text: str, n: int) -> None:
        request.say(KNOWN[text]) if n < 70 else request.fail(503, f"out of order for {KEY}")

    server = serve(tired)
    found = examined(EndpointPlayer(server.endpoint(tries=0)), tmp_path)
    assert (found.verdict.outcome, found.verdict.spends) == ("CANNOT DECIDE", False)
    assert found.verdict.because.startswith(f"recall: {server.url} gave no answer in 1 tries (InternalServerError")
    assert "What was answered is kept: run the same command again" in found.verdict.because
    (kept,) = tmp_path.glob(f"{server.endpoint().identity[:16]}-*.json")
    assert len(json.loads(kept.read_bytes())) == CHUNK
    assert len(server.asked) < 90, "what was not begun is not asked of a server that is gone"
    before = len(server.asked)
    server.behave = lambda request, text, _n: request.say(KNOWN[text])
    again = examined(EndpointPlayer(server.endpoint()), tmp_path)
    assert again.verdict.outcome == "PROMOTE"
    assert len(server.asked) - before == 80 - CHUNK
    assert again == examined(EndpointPlayer(server.endpoint()), tmp_path)
    assert len(server.asked) - before == 80 - CHUNK
    assert set(server.keys) == {f"Bearer {KEY}"}
    again.save(tmp_path)
    page = render(found, {"recall": SUITE.questions()}, Context(names=("base", server.url), base="seed"), form="html")
    assert "out of order for [key]" in page
    assert not any(KEY in path.read_text() for path in tmp_path.rglob("*.json"))


def test_a_key_that_an_endpoint_says_back_is_taken_out_of_its_answers(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda request, _text, _n: request.say(f"Your key is {KEY}."))
    examined(EndpointPlayer(server.endpoint()), tmp_path).save(tmp_path)
    written = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert any("Your key is [key]." in text for text in written)
    assert not any(KEY in text for text in written)


# Judges


def pairs(count: int) -> list[tuple[Question, str, str]]:
    """Questions with a worse first answer and a better second one."""
    return [(SUITE.questions()[n], f"worse {n}", f"better {n}") for n in range(count)]


def shown(text: str) -> tuple[str, str]:
    """The two answers that a judge was asked about."""
    first, _, second = text.partition("Answer A:\n")[2].partition("\n\nAnswer B:\n")
    return first, second.partition("\n\nYour letter:")[0]


def test_a_judge_that_knows_the_better_answer_sees_only_wins(serve: Serve) -> None:
    server = serve(lambda request, text, _n: request.say("A" if "better" in shown(text)[0] else "B"))
    found = opinion(server.endpoint(), pairs(5))
    assert (found.wins, found.losses, found.ties, found.by_place, found.unreadable) == (5, 0, 0, 0, 0)
    assert found.judge == f"m at {server.url}"
    assert len(server.asked) == 10
    assert all(one["temperature"] == 0 for one in server.asked)
    turned = [(question, better, worse) for question, worse, better in pairs(5)]
    assert (opinion(server.endpoint(), turned).losses, found.agreement) == (5, None)


@pytest.mark.parametrize("letter", ["A", "B"])
def test_a_judge_that_prefers_a_place_gives_no_wins(serve: Serve, letter: str) -> None:
    found = opinion(serve(lambda request, _text, _n: request.say(letter)).endpoint(), pairs(5))
    assert (found.wins, found.losses, found.ties, found.by_place, found.unreadable) == (0, 0, 5, 5, 0)


@pytest.mark.parametrize("said", ["Both are fine.", "", "Better: A", "AB", "ABBA", "42", "Ä", "C", "Answer A", "Tie"])
def test_a_judge_that_talks_nonsense_is_unreadable(serve: Serve, said: str) -> None:
    found = opinion(serve(lambda request, _text, _n: request.say(said)).endpoint(), pairs(3))
    assert (found.wins, found.losses, found.ties, found.by_place, found.unreadable) == (0, 0, 3, 0, 3)


@pytest.mark.parametrize("said", ["{}", " {}.", "**{}**", "{}\n", '"{}"', "({})", "{}: it is shorter", "{} is better"])
def test_a_letter_is_read_in_the_forms_that_judges_write(serve: Serve, said: str) -> None:
    server = serve(lambda request, text, _n: request.say(said.format("A" if "better" in shown(text)[0] else "B")))
    assert opinion(server.endpoint(), pairs(2)).wins == 2


def test_a_judge_without_a_preference_sees_ties(serve: Serve) -> None:
    found = opinion(serve(lambda request, _text, _n: request.say("T")).endpoint(), pairs(3))
    assert (found.ties, found.by_place, found.unreadable) == (3, 0, 0)


def test_the_same_answer_is_a_tie_and_nobody_is_asked(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.say("A"))
    found = opinion(server.endpoint(), [(SUITE.questions()[0], "the  same", "the same\n")])
    assert (found.ties, found.by_place, server.asked) == (1, 0, [])


def test_a_judge_agrees_with_some_gold_stars(serve: Serve) -> None:
    gold = [(f"Request {n}?", f"gold {n}", f"other {n}") for n in range(10)]

    def mostly(request: Handler, text: str, _n: int) -> None:
        first = shown(text)[0]
        knows = int(first.split()[1]) < 7
        request.say("A" if (first.startswith("gold")) == knows else "B")

    found = opinion(serve(mostly).endpoint(), [], gold)
    assert (found.gold_asked, found.gold_agreed, found.agreement) == (10, 7, 0.7)
    assert (found.wins, found.losses, found.ties) == (0, 0, 0)


def test_a_judge_that_is_away_is_told_in_words(serve: Serve) -> None:
    server = serve(lambda request, _text, _n: request.fail(503))
    with pytest.raises(ExaminationError, match="gave no answer in 1 tries"):
        opinion(server.endpoint(tries=0), pairs(50))
    assert len(server.asked) <= 40
