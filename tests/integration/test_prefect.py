"""Pages, deployments and a worker, against a real Prefect server on a free port."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from academy.loop.home import Home
from academy.operations.locks import training_lock
from academy.operations.prefect_server import mark_dead_runs_crashed
from academy.settings import load_settings
from academy.store.locks import exclusive_lock
from tests.homes import ROOT
from tests.orders import order_of
from tests.servers.pages import Pages, ended
from tests.topics import write_topics


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """Pages with a worker; at the end a SIGTERM leaves nothing behind."""
    server = Pages(tmp_path_factory.mktemp("pages") / "home")
    server.wait_for("Ctrl-C ends everything")
    yield server
    assert server.end(signal.SIGTERM) == []
    assert not (server.home / "prefect" / "server.url").exists()


def test_the_form_has_descriptions_and_bounds(pages: Pages) -> None:
    deployments = pages.post("/deployments/filter", {})
    entrypoints = {(row["entrypoint"].partition(":")[2], row["name"]): row for row in deployments}
    assert sorted(entrypoints) == [
        ("evolve", "nightly"), ("evolve", "on-demand"), ("examine", "by-hand"), ("promote", "by-hand"),
        ("train", "cpu"), ("train", "gpu"), ("verify", "nightly"),
    ]  # fmt: skip
    forms = {name: row["parameter_openapi_schema"]["properties"] for name, row in entrypoints.items()}
    assert all(field.get("description") for form in forms.values() for field in form.values()), forms
    options = entrypoints["evolve", "on-demand"]["parameter_openapi_schema"]["definitions"]["RecipeOptions"]
    rank = options["properties"]["rank"]["anyOf"][0]
    assert (rank["minimum"], rank["maximum"]) == (4, 256)


def test_a_deployment_with_a_cron_gets_scheduled_runs(pages: Pages) -> None:
    until = time.monotonic() + 90
    while True:
        runs = pages.post("/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})
        hours = {run["expected_start_time"][10:19] for run in runs}
        if len(hours) > 1:
            break
        assert time.monotonic() < until, f"SCHEDULED within 90 s: {hours}"
        time.sleep(1)
    assert hours == {"T03:00:00", "T04:30:00"}, "the evolution, and then whether it is what answers"


def test_the_page_asks_its_own_server(pages: Pages) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{pages.port}/ui-settings", timeout=30) as answer:
        assert json.loads(answer.read())["api_url"] == pages.api


def test_no_deployment_holds_a_lease(pages: Pages) -> None:
    assert all(row["global_concurrency_limit"] is None for row in pages.post("/deployments/filter", {}))


def test_a_killed_run_is_marked_crashed_at_the_next_start(pages: Pages) -> None:
    flow = pages.post("/flows/filter", {"flows": {"name": {"any_": ["evolve"]}}})[0]
    trainings = pages.post("/flows/filter", {"flows": {"name": {"any_": ["train"]}}})[0]
    run = pages.post("/flow_runs/", {"flow_id": flow["id"], "state": {"type": "RUNNING"}})
    settings = load_settings(pages.home)
    training = pages.post("/flow_runs/", {"flow_id": trainings["id"], "state": {"type": "RUNNING"}})
    locks = settings.folder("locks")
    with exclusive_lock(locks / "evolve", "taken"), exclusive_lock(training_lock(locks, training["id"]), "taken"):
        assert mark_dead_runs_crashed(settings, pages.api) == 0, "both are running: no run is marked"
    assert mark_dead_runs_crashed(settings, pages.api) == 2
    state = pages.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]
    assert state["state_type"] == "CRASHED"


@pytest.mark.parametrize("name", ["command", "env", "working_dir", "image", "volumes", "privileged", "env.PYTHONPATH"])
def test_a_run_cannot_set_constants_of_its_pool(pages: Pages, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    value: object = {"PYTHONSTARTUP": str(marker)} if name == "env" else f"touch {marker}"
    deployment = next(row for row in pages.post("/deployments/filter", {}) if row["name"] == "on-demand")
    with pytest.raises(urllib.error.HTTPError) as refusal:
        pages.post(f"/deployments/{deployment['id']}/create_flow_run", {"job_variables": {name: value}})
    with refusal.value:  # closes its answer
        assert refusal.value.code == 403
    assert not marker.exists()


def test_the_pools_take_sizes_and_nothing_else(pages: Pages) -> None:
    for pool in pages.post("/work_pools/filter", {}):
        template = pool["base_job_template"]
        assert sorted(template["variables"]["properties"]) == ["cpu", "gpu", "memory", "queue"]
        assert template["job_configuration"] == {"stream_output": True}


def test_deploying_again_changes_nothing(pages: Pages) -> None:
    before = {row["id"] for row in pages.post("/deployments/filter", {})}
    deployment = subprocess.run(
        [sys.executable, "-m", "academy.cli.main", "deploy"],
        cwd=pages.home.parent,
        env=pages.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert deployment.returncode == 0, deployment.stderr
    assert {row["id"] for row in pages.post("/deployments/filter", {})} == before


def test_a_worker_runs_the_flow_which_decides_no_with_too_few_lessons(pages: Pages) -> None:
    lessons = pages.home.parent / "few.jsonl"
    lessons.write_text(
        "".join(f'{{"situation": "word {n}", "action": "answer {n}", "outcome": "success"}}\n' for n in range(30)),
        encoding="utf-8",
    )
    deployment = next(row for row in pages.post("/deployments/filter", {}) if row["name"] == "on-demand")
    run = pages.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"lessons": [str(lessons)]}})
    state = ended(pages, run)
    assert state["state_type"] == "COMPLETED", state["state"]
    tasks = pages.post("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert [task["name"].rsplit("-", 1)[0] for task in tasks] == ["prepare"], "the counts alone say no"


def test_an_evolution_sends_its_training_to_the_training_pool(pages: Pages) -> None:
    """The other worker trains, in a flow run of its own. The evolution waits, and examines the adapter."""
    lessons = write_topics(pages.home.parent / "topics.jsonl")
    deployment = next(row for row in pages.post("/deployments/filter", {}) if row["name"] == "on-demand")
    options = {"lessons": [str(lessons)], "recipe": {"epochs": 1}}
    run = pages.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": options})
    state = ended(pages, run, patience=600)
    assert state["state_type"] == "COMPLETED", state["state"]
    trainings = pages.post("/flow_runs/filter", {"flows": {"name": {"any_": ["train"]}}})
    (training,) = [row for row in trainings if row["state_type"] == "COMPLETED"]
    assert training["work_pool_name"] == "academy-train-cpu"
    assert training["parameters"]["recipe"]["epochs"] == 1
    assert training["parameters"]["base_model"] == "seed", "named, although it is the default of both"
    parents = pages.post("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert training["parent_task_run_id"] in {row["id"] for row in parents}
    work = Home.open(home=pages.home)
    version = work.versions.get("1")
    assert training["parameters"]["expected"] == {"base": work.base.digest, "order": version.order}
    assert work.mlflow.get_run(version.run).data.tags["prefect.flow_run"] == training["id"]
    assert training["idempotency_key"].startswith("train:cpu:")
    assert training["idempotency_key"].endswith(":0")


@pytest.mark.campaign
def test_cancelling_an_evolution_ends_its_training(pages: Pages) -> None:
    deployment = next(row for row in pages.post("/deployments/filter", {}) if row["name"] == "on-demand")
    lessons = write_topics(pages.home.parent / "topics.jsonl")
    options = {"lessons": [str(lessons)], "recipe": {"epochs": 20}, "force": True}
    run = pages.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": options})
    until = time.monotonic() + 180
    while not any("academy.habitat.trainer" in command for command in pages.left()):
        assert time.monotonic() < until, "the trainer was never started"
        time.sleep(0.3)
    cancellation = {"state": {"type": "CANCELLING", "name": "Cancelling"}, "force": True}
    pages.post(f"/flow_runs/{run['id']}/set_state", cancellation)
    assert ended(pages, run)["state_type"] == "CANCELLED"
    until = time.monotonic() + 60
    while any("academy.habitat.trainer" in command for command in pages.left()):
        assert time.monotonic() < until, "the trainer works on"
        time.sleep(0.3)
    trainings = pages.post("/flow_runs/filter", {"flows": {"name": {"any_": ["train"]}}})
    newest = max(trainings, key=lambda row: str(row["created"]))
    assert ended(pages, newest)["state_type"] in ("CANCELLED", "CRASHED", "FAILED")


def test_a_training_that_no_worker_takes_is_cancelled(pages: Pages, tmp_path: Path) -> None:
    """There is a pool for GPUs and no GPU: the evolution does not wait forever, and no flow run stays scheduled."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from academy.operations.work_pools import live_pools, train_on

    settings = load_settings(pages.home)
    order = order_of(tmp_path, tmp_path / "none.jsonl")
    with temporary_settings({PREFECT_API_URL: pages.api}):
        assert live_pools(settings) == ["cpu"]
        assert live_pools(load_settings(tmp_path)) == [], "another home's workers do not see its datasets"
        assert train_on("cuda", order, "by hand", settings) is None
    query = {"flow_runs": {"tags": {"all_": [f"order:{order.digest[:16]}"]}}}
    assert [row["state_type"] for row in pages.post("/flow_runs/filter", query)] == ["CANCELLED"]


REFUSED = """
import json
from academy.operations.locks import training_lock
from academy.operations.prefect_server import configure
from academy.settings import load_settings
configure(load_settings())
from flows.examine import examine
from flows.train import train
from flows.verify import verify
for flow, parameters in ((train, {"dataset": "0" * 16}), (verify, {}), (examine, {"challenger": "v7"})):
    state = flow(**parameters, return_state=True)
    print(json.dumps([flow.name, state.type.value, state.message]))
"""


@pytest.fixture(scope="module")
def refusals(pages: Pages) -> dict[str, tuple[str, str]]:
    """Final state and message of flows that cannot do what they are asked for, by name.

    They run in one process on the server of the pages: a worker would import Prefect and torch for each of them.
    """
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REFUSED],
        cwd=ROOT, env={**pages.environment, "PREFECT_API_URL": pages.api}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    rows = [json.loads(line) for line in process.stdout.splitlines() if line.startswith("[")]
    return {name: (state, message) for name, state, message in rows}


def test_a_training_by_hand_without_a_dataset_fails_with_a_message(refusals: dict[str, tuple[str, str]]) -> None:
    state, message = refusals["train"]
    assert state == "FAILED"
    assert "was not found" in message


def test_a_verification_without_a_gateway_fails_with_the_remedy(refusals: dict[str, tuple[str, str]]) -> None:
    state, message = refusals["verify"]
    assert state == "FAILED"
    assert "Start it with `academy serve`" in message


def test_an_examination_by_hand_without_a_version_fails_with_a_message(
    pages: Pages, refusals: dict[str, tuple[str, str]]
) -> None:
    state, message = refusals["examine"]
    assert state == "FAILED"
    assert "This base model has no version v7" in message
    tasks = pages.post("/task_runs/filter", {"flows": {"name": {"any_": ["examine"]}}})
    assert [task["run_count"] for task in tasks] == [1], "a refusal in words is not tried again"


@pytest.mark.campaign
def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    server = Pages(tmp_path / "home")
    server.wait_for("MLflow:")
    assert server.end(signal.SIGKILL) == []


@pytest.mark.campaign
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_running_evolution_ends_with_its_pages(tmp_path: Path, number: signal.Signals) -> None:
    server = Pages(tmp_path / "home")
    server.wait_for("Ctrl-C ends everything")
    deployment = next(row for row in server.post("/deployments/filter", {}) if row["name"] == "on-demand")
    lessons = write_topics(tmp_path / "topics.jsonl")
    server.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {"lessons": [str(lessons)]}})
    until = time.monotonic() + 120
    while not any("academy.habitat.trainer" in command for command in server.left()):
        assert time.monotonic() < until, "the trainer was never started"
        time.sleep(0.3)
    assert server.end(number) == []


def test_deploying_without_a_server_is_refused(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ACADEMY_", "PREFECT_"))}
    deployment = subprocess.run(
        [sys.executable, "-m", "academy.cli.main", "deploy"],
        cwd=tmp_path,
        env={**clean, "ACADEMY_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert deployment.returncode == 2
    assert "No Prefect server is running" in deployment.stderr
