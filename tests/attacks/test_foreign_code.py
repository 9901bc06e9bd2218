"""Attacks by an admitted user of Prefect's API: text that Prefect would run as code."""

from __future__ import annotations

import json
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from academy.operations.job_template import JOB_TEMPLATE
from academy.operations.prefect_rules import CHECKOUT, SET_FOLDER, request_refusal, run_refusal
from tests.servers.pages import Pages, ended

ID = str(uuid.UUID(int=7))
OURS: dict[str, Any] = {
    "name": "nightly", "flow_id": ID, "entrypoint": "flows/evolve.py:evolve", "work_pool_name": "academy-cpu",
    "pull_steps": [{SET_FOLDER: {"directory": str(CHECKOUT)}}], "job_variables": {}, "path": None,
}  # fmt: skip
SHELL = {"prefect.deployments.steps.run_shell_script": {"script": "touch marker"}}
FOREIGN: tuple[dict[str, Any], ...] = (
    {"entrypoint": "/home/evil.py:evolve"}, {"entrypoint": "evil.flows:evolve"}, {"entrypoint": None},
    {"entrypoint": "../flows/evolve.py:evolve"}, {"entrypoint": "flows/evolve.py:evolve\n"},
    {"pull_steps": None}, {"pull_steps": []}, {"pull_steps": [SHELL]}, {"pull_steps": [*OURS["pull_steps"], SHELL]},
    {"pull_steps": [{SET_FOLDER: {"directory": "/home"}}]},
    {"pull_steps": [{SET_FOLDER: {"directory": str(CHECKOUT), "requires": "evil"}}]},
    {"pull_steps": [{"prefect.deployments.steps.git_clone": {"repository": "https://evil.example/x"}}]},
    {"path": "/home"}, {"storage_document_id": ID}, {"infrastructure_document_id": ID},
    {"job_variables": {"command": "touch marker"}}, {"job_variables": {"env": {"PYTHONPATH": "/home"}}},
    {"job_variables": {"cpu": 1}}, {"work_pool_name": "theirs"}, {"work_pool_name": None},
)  # fmt: skip
"""Changes of one of our deployments."""
COMMAND = {**JOB_TEMPLATE, "job_configuration": {"command": "touch marker"}}


@pytest.mark.parametrize("change", FOREIGN, ids=str)
def test_a_deployment_of_foreign_code_is_refused_by_server_and_worker(change: dict[str, Any]) -> None:
    assert request_refusal("POST", "/deployments/", orjson.dumps(OURS | change))
    assert request_refusal("POST", "/deployments", orjson.dumps(OURS | change))
    assert run_refusal(OURS | change, JOB_TEMPLATE, {})
    if any(change.values()) and "work_pool_name" not in change:
        assert request_refusal("PATCH", f"/deployments/{ID}", orjson.dumps(change))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/work_pools/academy-cpu", {"base_job_template": COMMAND}),
        ("PATCH", "/work_pools/filter", {"base_job_template": COMMAND}),
        ("PATCH", "/work_pools/academy-cpu", {"base_job_template": None}),
        ("PATCH", "/work_pools/academy-cpu", {"storage_configuration": {"default_result_storage_block_id": ID}}),
        ("PATCH", "/work_pools/academy-cpu", {"storage_configuration": {"bundle_execution_step": SHELL}}),
        ("POST", "/work_pools/", {"name": "theirs", "type": "process"}),
        ("POST", "/work_pools/", {"name": "theirs", "type": "process", "base_job_template": COMMAND}),
        ("POST", "/work_pools/", {"name": "theirs", "type": "docker", "base_job_template": JOB_TEMPLATE}),
        ("POST", "/flow_runs/", {"flow_id": ID, "work_pool_name": "academy-cpu", "job_variables": {"command": "x"}}),
        ("PATCH", f"/flow_runs/{ID}", {"job_variables": {"env": {"A": "b"}}}),
        ("POST", f"/deployments/{ID}/create_flow_run", {"job_variables": {"working_dir": "/home"}}),
        ("POST", f"/deployments/{ID}/create_flow_run/bulk", [{}, {"job_variables": {"command": "x"}}]),
        ("POST", "/block_documents/", {}), ("PATCH", f"/block_documents/{ID}", {}), ("POST", "/block_types/", {}),
        ("POST", "/block_schemas/", {}), ("POST", "/automations/", {}), ("PUT", f"/automations/{ID}", {}),
        ("POST", "/templates/validate", {}), ("POST", "/variables/", {}), ("PATCH", "/variables/name/x", {}),
        ("PUT", "/admin/storage", {"default_result_storage_block_id": ID}), ("DELETE", "/admin/storage", {}),
        ("POST", "//deployments/", OURS), ("POST", "/a_route_of_a_later_version", {}),
        ("POST", "/deployments/", "x"), ("POST", "/deployments/", [OURS, 1]),
    ],
    ids=str,
)  # fmt: skip
def test_a_request_that_turns_text_into_code_is_refused(method: str, path: str, body: Any) -> None:
    assert request_refusal(method, path, orjson.dumps(body))


def test_a_request_in_another_encoding_is_refused() -> None:
    """Prefect reads UTF-16, too."""
    assert request_refusal("POST", "/deployments/", json.dumps(OURS).encode("utf-16")) == "The request is not JSON."


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/deployments/", OURS), ("PATCH", f"/deployments/{ID}", {"paused": True, "tags": ["academy"]}),
        ("POST", f"/deployments/{ID}/create_flow_run", {"parameters": {"force": True}, "job_variables": {"gpu": 1}}),
        ("POST", f"/deployments/{ID}/schedules", [{"active": False}]), ("DELETE", f"/deployments/{ID}", None),
        ("POST", f"/deployments/{ID}/pause_deployment", None), ("POST", "/deployments/get_scheduled_flow_runs", {}),
        ("POST", "/work_pools/", {"name": "academy-cpu", "type": "process", "base_job_template": JOB_TEMPLATE}),
        ("PATCH", "/work_pools/academy-cpu", {"concurrency_limit": 2, "is_paused": True}),
        ("POST", "/work_pools/academy-cpu/workers/heartbeat", {"name": "worker"}),
        ("POST", "/work_pools/academy-cpu/get_scheduled_flow_runs", {}), ("POST", "/flow_runs/filter", {}),
        ("POST", "/flow_runs/", {"flow_id": ID, "state": {"type": "PENDING"}}), ("PATCH", f"/flow_runs/{ID}", {}),
        ("POST", f"/flow_runs/{ID}/set_state", {"state": {"type": "CANCELLING"}}), ("POST", "/logs/", []),
        ("POST", "/flow_runs/bulk_set_state", {"flow_runs": {"id": {"any_": [ID]}}}), ("POST", "/events", []),
        ("POST", "/artifacts/", {"key": "examination-v1"}), ("POST", "/ui/flows/count-deployments", {}),
        ("GET", "/block_documents/x", None), ("POST", "/block_types/filter", {}),
        ("DELETE", "/automations/owned-by/prefect.deployment.x", None),
    ],
    ids=str,
)  # fmt: skip
def test_what_pages_workers_and_deploy_ask_is_admitted(method: str, path: str, body: Any) -> None:
    assert request_refusal(method, path, b"" if body is None else orjson.dumps(body)) == ""


def test_a_worker_starts_runs_of_its_own_deployments_and_pools_only() -> None:
    assert run_refusal(OURS, JOB_TEMPLATE, {"cpu": 2}) == ""
    assert run_refusal(None, JOB_TEMPLATE, {}).startswith("The run has no deployment")
    assert run_refusal(OURS, COMMAND, {}) == "A work pool's job template is a constant of the home."
    assert run_refusal(OURS, JOB_TEMPLATE, {"command": "x"}).startswith("A run may set these job variables only")


EVIL = """
from pathlib import Path
from prefect import flow
Path({marker!r}).touch()
@flow
def evolve(): pass
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """Pages with workers."""
    server = Pages(tmp_path_factory.mktemp("foreign") / "home")
    server.wait_for("Ctrl-C ends everything")
    yield server
    assert server.end(signal.SIGTERM) == []


def wait_and_post(pages: Pages, deployment: dict[str, Any]) -> dict[str, Any]:
    run = pages.post(f"/deployments/{deployment['id']}/create_flow_run", {})
    return ended(pages, run, 120)


@pytest.mark.campaign
def test_foreign_deployments_run_nothing(pages: Pages, tmp_path: Path) -> None:
    """First by the API, then in the database itself, as a server that has no rules would hold them."""
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(marker)))
    script = {"prefect.deployments.steps.run_shell_script": {"script": f"touch {marker}"}}
    ours = next(row for row in pages.post("/deployments/filter", {}) if row["name"] == "on-demand")
    names = ("flow_id", "work_pool_name", "pull_steps", "entrypoint")
    for change in ({"entrypoint": f"{tmp_path}/evil.py:evolve"}, {"pull_steps": [*ours["pull_steps"], script]}):
        body = {"name": "theirs", **{name: ours[name] for name in names}, **change}
        answer = httpx.post(f"{pages.api}/deployments/", json=body, trust_env=False)
        assert (answer.status_code, answer.json()["status"]) == (403, 403)
        answer = httpx.patch(f"{pages.api}/deployments/{ours['id']}", json=change, trust_env=False)
        assert answer.status_code == 403
    columns = {"entrypoint": f"{tmp_path}/evil.py:evolve", "pull_steps": json.dumps([*ours["pull_steps"], script])}
    for name, value in columns.items():
        _write(pages, name, value, ours["id"])
        state = wait_and_post(pages, ours)
        assert state["state_type"] == "CRASHED", state["state"]
        assert "InputError: A deployment" in state["state"]["message"]
        assert not marker.exists()
        _write(pages, name, json.dumps(ours[name]) if name == "pull_steps" else ours[name], ours["id"])
    assert wait_and_post(pages, ours)["state_type"] == "COMPLETED", "the honest deployment still runs"


def _write(pages: Pages, column: str, value: str, identifier: str) -> None:
    with sqlite3.connect(pages.home / "prefect" / "prefect.db", timeout=30) as database:
        changed = database.execute(
            f"update deployment set {column} = ? where id = ?",  # noqa: S608  names of this file
            (value, identifier),
        )
        assert changed.rowcount == 1
    database.close()
