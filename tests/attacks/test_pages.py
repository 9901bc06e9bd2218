"""Attacks on the pages of a home, which are open to its owner and closed to other accounts and other origins."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import websockets.sync.client as websocket_client
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from academy.access.peers import listener_account
from academy.access.secret import home_secret
from academy.settings import load_settings
from tests.attacks.test_addresses import bind
from tests.homes import ROOT
from tests.servers.pages import Pages
from tests.strangers import AS_ROOT, request_bytes, send_as_stranger

ORIGINS = ("http://evil.example", "http://localhost:8888", "null")
RUN = orjson.dumps(
    {"name": "attack", "flow_id": "00000000-0000-0000-0000-000000000000", "state": {"type": "SCHEDULED"}}
)
SECONDS = 60


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """Pages without workers; a stranger's proxy settings do not reach them."""
    server = Pages(tmp_path_factory.mktemp("closed") / "home", "--no-worker")
    server.wait_for("Ctrl-C ends everything")
    until = time.monotonic() + SECONDS
    while listener_account(("127.0.0.1", server.mlflow_port)) is None:  # MLflow takes longer
        assert time.monotonic() < until
        time.sleep(0.1)
    yield server
    assert server.end(signal.SIGTERM) == []


@pytest.fixture(scope="module")
def urls(pages: Pages) -> tuple[str, str]:
    """Of Prefect and MLflow."""
    return f"http://127.0.0.1:{pages.port}", f"http://127.0.0.1:{pages.mlflow_port}"


def ask(url: str, **options: Any) -> httpx.Response:
    method = options.pop("method", "GET")
    return httpx.request(method, url, timeout=SECONDS, trust_env=False, **options)


needs_root = pytest.mark.skipif(not AS_ROOT, reason="root only: another account")


@needs_root
def test_another_account_starts_no_run_and_reads_nothing(pages: Pages) -> None:
    for port, path in (
        (pages.port, "/api/flow_runs/"), (pages.port, "/api/work_pools/"), (pages.port, "/"),
        (pages.mlflow_port, "/api/2.0/mlflow/experiments/create"), (pages.mlflow_port, "/"),
    ):  # fmt: skip
        for method, body in (("GET", b""), ("POST", RUN)):
            request = request_bytes(path, method=method, body=body, content_type="application/json")
            answer = send_as_stranger("127.0.0.1", port, request)
            assert answer.startswith(b"HTTP/1.1 401"), (port, path, answer[:200])
            assert b"application/problem+json" in answer
    assert pages.post("/flow_runs/filter", {}) == []


@needs_root
def test_another_account_with_the_secret_is_admitted(pages: Pages) -> None:
    header = f"Bearer {home_secret(load_settings(pages.home))}"
    answer = send_as_stranger("127.0.0.1", pages.port, request_bytes("/api/admin/version", authorization=header))
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    answer = send_as_stranger("127.0.0.1", pages.mlflow_port, request_bytes("/version", authorization=header))
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]


def test_rebound_names_and_foreign_pages_are_refused(urls: tuple[str, str]) -> None:
    for url in urls:
        assert ask(url, headers={"host": "evil.example"}).status_code == 403
        for origin in ORIGINS:
            for method in ("GET", "POST", "OPTIONS"):
                response = ask(f"{url}/api/flow_runs/filter", method=method, headers={"origin": origin})
                assert response.status_code == 403, (origin, method)
                assert "access-control-allow-origin" not in response.headers
        assert ask(url, headers={"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}).status_code == 403


def test_the_owners_browser_uses_prefect_without_a_login(pages: Pages, urls: tuple[str, str]) -> None:
    page = ask(urls[0], follow_redirects=True)
    assert page.status_code == 200
    assert "text/html" in page.headers["content-type"]
    for name in ("127.0.0.1", "localhost"):
        own = f"http://{name}:{pages.port}"
        settings = ask(f"{own}/ui-settings", headers={"accept-encoding": "identity"}).json()
        assert settings["auth"] is None
        assert settings["api_url"] == f"{own}/api", "the page asks the address that it came from"
        headers = {"origin": own, "sec-fetch-site": "same-origin"}
        runs = ask(f"{own}/api/flow_runs/filter", method="POST", json={}, headers=headers)
        assert (runs.status_code, runs.json()) == (200, [])


def test_prefects_events_follow_the_same_rules(pages: Pages) -> None:
    url = f"ws://127.0.0.1:{pages.port}/api/events/out"
    own: Any = f"http://127.0.0.1:{pages.port}"
    with websocket_client.connect(url, subprotocols=[Subprotocol("prefect")], origin=own) as socket:
        socket.send('{"type": "auth", "token": null}')
        assert json.loads(socket.recv(timeout=SECONDS))["type"] == "auth_success"
    for origin in ORIGINS:
        theirs: Any = origin
        with (
            pytest.raises(InvalidStatus) as refusal,
            websocket_client.connect(url, subprotocols=[Subprotocol("prefect")], origin=theirs),
        ):
            pass
        assert refusal.value.response.status_code == 403


BEHIND = """
import asyncio, base64, os, sys
from pathlib import Path
from academy.operations.prefect_app import CLIENT_AUTH, make_app
from academy.operations.prefect_server import configure
from academy.settings import load_settings
settings = load_settings(Path(sys.argv[1]))
configure(settings)
os.environ[CLIENT_AUTH] = "academy:right"
prefect = make_app(settings, 4200).app.app.app
import httpx
async def main():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(prefect), base_url="http://127.0.0.1:4200") as client:
        right = "Basic " + base64.b64encode(b"academy:right").decode()
        wrong = "Basic " + base64.b64encode(b"academy:x").decode()
        for header in ({}, {"authorization": wrong}, {"authorization": right}):
            print((await client.get("/api/admin/version", headers=header)).status_code)
        page = await client.get("/api/admin/version", headers={"authorization": right, "origin": "http://evil.example"})
        print(page.headers.get("access-control-allow-origin"))
asyncio.run(main())
"""


def test_prefect_has_an_auth_string_and_its_own_origin_behind_the_layer(pages: Pages, tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEHIND, str(tmp_path / "home")],
        cwd=ROOT, env=pages.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["401", "401", "200", "None"]


def test_mlflow_has_no_assistant_and_no_gateway(urls: tuple[str, str]) -> None:
    for path in (
        "/ajax-api/3.0/mlflow/assistant/config", "/ajax-api/3.0/mlflow/assistant/message",
        "/ajax-api/2.0/mlflow/gateway-proxy", "/api/3.0/mlflow/gateway/secrets/list", "/api/2.0/mlflow/webhooks",
        "/ajax-api/2.0/mlflow/runs/create-promptlab-run", "/gateway/x/mlflow/invocations",
        "/ajax-api/3.0/mlflow/scorer/invoke",
    ):  # fmt: skip
        for method in ("GET", "POST"):
            assert ask(urls[1] + path, method=method, json={}).status_code in (404, 405), path


@pytest.mark.parametrize(
    "place", ["file:///tmp/academy-marker", "/tmp/academy-marker", "relative", "file://{home}/keys", "s3://theirs/x",  # noqa: S108
              "file://{home}/mlartifacts/../keys", "file://{home}/mlartifacts/%2e%2e/keys", "ftp://evil.example/x"]
)  # fmt: skip
def test_an_artifact_location_elsewhere_is_refused(pages: Pages, urls: tuple[str, str], place: str) -> None:
    location = place.format(home=pages.home)
    for number, field in enumerate(("artifact_location", "artifactLocation")):
        body = {"name": f"{place}-{number}", field: location}
        response = ask(f"{urls[1]}/api/2.0/mlflow/experiments/create", method="POST", json=body)
        assert response.status_code in (400, 403), response.text
        body = {"name": f"{place}-{number}-twice", field: location}
        twice = ask(f"{urls[1]}/api/2.0/mlflow/experiments/create", method="POST", json=json.dumps(body))
        assert twice.status_code in (400, 403), twice.text  # MLflow decodes a text once more


def test_a_location_that_is_in_the_database_already_is_refused_when_it_is_used(
    pages: Pages, urls: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("marker")
    with sqlite3.connect(pages.home / "mlflow.db") as database:
        created = ask(f"{urls[1]}/api/2.0/mlflow/experiments/create", method="POST", json={"name": "planted"}).json()
        database.execute(
            "update experiments set artifact_location = ? where experiment_id = ?",
            (tmp_path.as_uri(), int(created["experiment_id"])),
        )
    database.close()
    run = ask(f"{urls[1]}/api/2.0/mlflow/runs/create", method="POST", json=created).json()["run"]["info"]
    with sqlite3.connect(pages.home / "mlflow.db") as database:
        database.execute("update runs set artifact_uri = ? where run_uuid = ?", (tmp_path.as_uri(), run["run_id"]))
    database.close()
    read = ask(f"{urls[1]}/get-artifact", params={"path": "secret.txt", "run_uuid": run["run_id"]})
    assert (read.status_code, "marker" in read.text) == (403, False), read.text
    upload = f"{urls[1]}/ajax-api/2.0/mlflow/upload-artifact"
    written = ask(upload, method="POST", params={"path": "new.txt", "run_uuid": run["run_id"]}, content=b"marker")
    assert written.status_code == 403, written.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret.txt"]


CLIENT = """
import sys
import mlflow
mlflow.set_experiment("mine")
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
    mlflow.log_text("text", "note.txt")
print(mlflow.artifacts.load_text(run.info.artifact_uri + "/note.txt"))
"""


def test_mlflows_client_works_without_typing_anything(pages: Pages, urls: tuple[str, str], tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**pages.environment, "MLFLOW_TRACKING_URI": urls[1]},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == "text"
    assert list((pages.home / "mlartifacts").rglob("note.txt")), "artifacts travel through the server into the home"
    assert list(tmp_path.iterdir()) == []


def test_both_loopback_addresses_of_the_pages_are_the_owners(pages: Pages) -> None:
    for port, path in ((pages.port, "/api/health"), (pages.mlflow_port, "/version")):
        for host in ("127.0.0.1", "::1") if bind("::1", 0) == 0 else ():
            assert listener_account((host, port)) == os.getuid()
            assert bind(host, port) != 0, "no other program can take it"
            name = f"[{host}]" if ":" in host else host
            assert ask(f"http://{name}:{port}{path}").status_code == 200


def test_the_secret_is_private_and_no_process_carries_it(pages: Pages) -> None:
    secret = home_secret(load_settings(pages.home))
    assert not any(secret in command for command in pages.left())
    mark = f"ACADEMY_HOME={pages.home}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            variables = (process / "environ").read_bytes()
            assert mark not in variables or secret.encode() not in variables, process
    logs = [path.read_text(encoding="utf-8", errors="replace") for path in (pages.home / "prefect").glob("*.log")]
    encoded = base64.b64encode(f"academy:{secret}".encode()).decode()
    assert not any(secret in text or encoded in text for text in [*logs, pages.words.read_text(encoding="utf-8")])
    assert os.stat(pages.home).st_uid == os.getuid()  # noqa: PTH116


def test_ambiguous_http_is_refused(pages: Pages) -> None:
    """The pages have the server of the gateway, with its limits: see test_gateway_abuse.py."""
    for port in (pages.port, pages.mlflow_port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"GET / HTTP/1.1\nhost: localhost\n\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 400")
