"""Environments as people have them: a setting that hinders is named in a sentence, and loopback needs no proxy.

Keys: `[input] env` (variables), `dotenv` or `base64` (the named file .env), `command` (arguments of `academy`), or
`connects = true`: the process prepares for connections as before the start of a Prefect server. `[right] exit`, or
`exit_any` (one of these codes); `says`: words in the output (or in NO_PROXY); `never`: words that must not be there;
`reached`: the libraries that reach a server on loopback.
"""

from __future__ import annotations

import base64
import logging
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import requests

from academy.cli.main import main
from academy.errors import AcademyError
from academy.operations.prefect_server import configure
from academy.settings import load_settings
from academy.system import docker
from tests.foreign.cases import Case, each_case
from tests.servers.docker import Engine, serving

CONNECTIONS = (
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "ssl_cert_file",
    "ssl_cert_dir",
    "requests_ca_bundle",
)
SECONDS = 10


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder and a home of its own; what the code under test sets is unset again."""
    before = dict(os.environ)
    logger = logging.getLogger("academy")
    logging_before = (logger.handlers[:], logger.level, logger.propagate)
    for name in CONNECTIONS:
        os.environ.pop(name, None)
        os.environ.pop(name.upper(), None)
    monkeypatch.chdir(tmp_path)
    os.environ["ACADEMY_HOME"] = str(tmp_path / "home")
    yield
    os.environ.clear()
    os.environ.update(before)
    logger.handlers, logger.level, logger.propagate = logging_before


class Handler(BaseHTTPRequestHandler):
    """Answers everything with 200."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def output_of(case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The exit code and the output of the case's command, or of the preparation."""
    if case.input.get("connects"):
        try:
            configure(load_settings())
        except AcademyError as problem:
            return 2, str(problem)
        return 0, os.environ.get("NO_PROXY", "")
    monkeypatch.setattr(sys, "argv", ["academy", *case.input["command"]])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out + output.err


@each_case("environments")
def test_an_environment_works_or_is_named(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path
) -> None:
    if "dotenv" in case.input:
        (tmp_path / ".env").write_bytes(case.input["dotenv"].encode())
        os.environ["ACADEMY_SETTINGS_FILE"] = ".env"
    for name in ("base64", "dotenv_base64"):
        if name in case.input:
            (tmp_path / ".env").write_bytes(base64.b64decode(case.input[name]))
            os.environ["ACADEMY_SETTINGS_FILE"] = ".env"
    os.environ.update(case.input.get("env", {}))
    code, output = output_of(case, capsys, monkeypatch)
    assert code in case.right.get("exit_any", [case.right.get("exit", code)]), output
    assert all(words in output for words in case.right.get("says", ())), output
    assert not [words for words in case.right["never"] if words in output]
    if code == 2 and case.input.get("command", ["status"])[0] != "doctor":  # which prints a table
        assert len(output.strip().splitlines()) == 1
    for library in case.right.get("reached", ()):
        assert REACH[library](url), library


def reach_from_a_child(url: str) -> bool:
    """A child process that does not know the Academy."""
    program = f"import httpx; print(httpx.get({url!r}, timeout={SECONDS}).status_code)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return child.stdout.strip() == "200"


def reach_docker(_url: str) -> bool:
    """A Docker engine on loopback."""
    with serving(Engine()) as here:
        os.environ["DOCKER_HOST"] = here.host
        docker.connect(SECONDS).close()
    return True


REACH = {
    "httpx": lambda url: httpx.get(url, timeout=SECONDS).status_code == 200,
    "requests": lambda url: requests.get(url, timeout=SECONDS).status_code == 200,
    "urllib": lambda url: urllib.request.urlopen(url, timeout=SECONDS).status == 200,  # noqa: S310  loopback
    "child": reach_from_a_child,
    "docker": reach_docker,
}
