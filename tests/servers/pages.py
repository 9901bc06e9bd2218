"""`academy pages` in a home of its own: a real Prefect server with its workers, called over HTTP."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Pages:
    """`academy pages` in a home of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self.home = home
        self.port = free_port()
        self.mlflow_port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACADEMY_", "PREFECT_"))}
        self.environment = {**clean, "ACADEMY_HOME": str(home), "OMP_NUM_THREADS": "1"}
        self.words = home.parent / f"pages-{self.port}.log"
        self.log = self.words.open("ab")
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "academy.cli.main",
                "pages",
                "--port",
                str(self.port),
                "--mlflow-port",
                str(self.mlflow_port),
                *arguments,
            ],
            cwd=home.parent,
            env=self.environment,
            stdout=self.log,
            stderr=self.log,
        )
        atexit.register(self.process.kill)  # if the tests are interrupted

    def post(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/create_flow_run"):
            body = {"idempotency_key": uuid.uuid4().hex, **body}  # a repeated request gives the same run
        request = urllib.request.Request(  # noqa: S310  loopback
            self.api + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        for _ in range(10):
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  loopback
                    return json.loads(answer.read())
            except urllib.error.HTTPError as problem:
                if problem.code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                time.sleep(0.5)  # its database is locked; Prefect's own client retries, too
            except TimeoutError:
                continue  # the database is locked for longer
        pytest.fail(f"no answer to {path}")

    def wait_for(self, words: str, seconds: float = 180) -> None:
        until = time.monotonic() + seconds
        while words not in self.words.read_text(encoding="utf-8"):
            assert self.process.poll() is None, self.words.read_text(encoding="utf-8")
            assert time.monotonic() < until, f"no '{words}' within {seconds} s"
            time.sleep(0.3)

    def left(self) -> list[str]:
        """Processes whose environment names this home."""
        mark = f"ACADEMY_HOME={self.home}".encode()
        commands = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    commands.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:120])
            except OSError:
                continue
        return commands

    def end(self, number: signal.Signals) -> list[str]:
        """Send a signal to the pages. Returns the commands that still run half a minute later."""
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        self.log.close()
        until = time.monotonic() + 30
        while self.left() and time.monotonic() < until:
            time.sleep(0.3)
        return self.left()


def ended(pages: Pages, run: dict[str, Any], patience: float = 400) -> dict[str, Any]:
    """A flow run when it has ended."""
    until = time.monotonic() + patience
    while True:
        state: dict[str, Any] = pages.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]
        if state["state_type"] not in ("SCHEDULED", "PENDING", "RUNNING", "CANCELLING"):
            return state
        assert time.monotonic() < until, f"still {state['state_type']}"
        time.sleep(1)
