"""Labels, approvals and archives of a trained adapter, with the real commands."""

from __future__ import annotations

import getpass
import os
import pwd
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from academy.adapters.adapter import WEIGHTS
from tests.conftest import Evolved
from tests.homes import Ended, RealHome, result_of
from tests.refusals import refusal_of
from tests.topics import TOPICS

APPROVAL = {"ACADEMY_PROMOTION": "approval", "ACADEMY_TRAINING_INTERVAL_HOURS": "24"}
KILLED_BEFORE_THE_PROMOTION = """
import os
from academy.loop import carry_out as carrying_out
from academy.loop.home import Home
carrying_out.promote = lambda *_, **__: os.kill(os.getpid(), 9)
carrying_out.approve(Home.open(), "1", by="anna", note="seen")
"""
EXAMPLE = """
from academy.sdk.model_manager import ModelManager

# Initialize
manager = ModelManager()

# Register versions
manager.register_version(
    version_id="v1.0",
    base_model="phi3:latest",
    performance_metrics={"accuracy": 0.85}
)

manager.register_version(
    version_id="v1.1",
    base_model="phi3:latest",
    adapter_path="ADAPTER",
    performance_metrics={"accuracy": 0.92}
)

# Activate new version (hot swap)
manager.activate_version("v1.1")

# Compare versions
comparison = manager.compare_versions("v1.0", "v1.1")
print(f"Improvement: {comparison['metrics_diff']['accuracy']['diff_pct']:.1f}%")

# Genealogy
genealogy = manager.get_genealogy()
for version in genealogy['versions']:
    print(f"{version['version_id']}: {version['performance_metrics']}")
"""
"""As in the documents, with a trained adapter in place of their path."""
FLOW = """
from academy.settings import load_settings
from academy.operations.prefect_server import configure, prefect_server
settings = load_settings()
configure(settings)
with prefect_server(settings) as server:
    from flows.promote import promote
    server.wait()
    print(promote("1"))
"""


def python(home: RealHome, program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=home.environment(**settings), cwd=home.desk, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def adapter_of(home: RealHome) -> Path:
    (weights,) = home.path.glob(f"adapters/*/{WEIGHTS}")
    return weights.parent


# --- a person's word -------------------------------------------------------------------------------------------------


def test_winner_waits_for_approval_and_is_then_promoted(evolved: Evolved, second_home: RealHome) -> None:
    before = second_home.state()
    second_home.cut_after_verdict(promotion=True)
    waiting = second_home.run(*evolved.arguments, **APPROVAL)
    assert result_of(waiting)["promoted"] is False
    assert "v1 waits for approval" in waiting.err
    assert result_of(second_home.run("status", "--json", **APPROVAL))["waiting"] == ["1"]
    assert "waits for approval" in refusal_of(second_home.run("promote", "1", **APPROVAL))
    assert second_home.state().champion == "base"
    assert result_of(second_home.run("approve", "1", "--note", "seen", "--json", **APPROVAL))["champion"] == "1"
    assert second_home.state() == before
    deploy, approval = result_of(second_home.run("history", "--json"))
    assert (approval["action"], approval["by"], approval["notes"]) == ("approve", getpass.getuser(), "seen")
    assert (deploy["action"], deploy["by"], deploy["by_hand"]) == ("deploy", getpass.getuser(), False)
    assert deploy["config"]["recipe"]["epochs"] == 10


def test_approval_whose_promotion_was_killed_is_carried_out_by_the_next_run(
    evolved: Evolved, second_home: RealHome
) -> None:
    before = second_home.state()
    second_home.cut_after_verdict(promotion=True)
    ended = python(second_home, KILLED_BEFORE_THE_PROMOTION, **APPROVAL)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert second_home.state().champion == "base"
    result_of(second_home.run(*evolved.arguments, **APPROVAL))
    assert second_home.state() == before


def test_declined_winner_is_never_promoted(evolved: Evolved, second_home: RealHome) -> None:
    second_home.cut_after_verdict(promotion=True)
    found = result_of(second_home.run("decline", "1", "--because", "too early", "--json", **APPROVAL))
    assert (found["action"], found["notes"]) == ("decline", "too early")
    assert result_of(second_home.run("status", "--json", **APPROVAL))["waiting"] == []
    assert "was declined" in refusal_of(second_home.run("approve", "1"))
    result_of(second_home.run(*evolved.arguments, ACADEMY_TRAINING_INTERVAL_HOURS="24"))
    assert "was declined" in refusal_of(second_home.run("promote", "1"))
    state = second_home.state()
    assert (state.champion, state.alias) == ("base", "base")


def test_promote_flow_asks_and_only_an_account_approves(second_home: RealHome) -> None:
    second_home.cut_after_verdict(promotion=True)
    done = python(second_home, FLOW, **APPROVAL)
    assert done.stdout.strip().endswith("{'promoted': False, 'waiting': True}"), done.stdout + done.stderr
    assert result_of(second_home.run("history", "--json")) == []
    names = {"LOGNAME": "anna", "USER": "anna"}
    assert result_of(second_home.run("approve", "1", "--json", **APPROVAL, **names))["champion"] == "1"
    account = pwd.getpwuid(os.getuid()).pw_name
    assert {row["by"] for row in result_of(second_home.run("history", "--json"))} == {account}


def test_promote_flow_promotes_where_no_approval_is_needed(second_home: RealHome) -> None:
    second_home.cut_after_verdict(promotion=True)
    done = python(second_home, FLOW, ACADEMY_TRAINING_INTERVAL_HOURS="24")
    assert done.stdout.strip().endswith("{'promoted': True, 'waiting': False}"), done.stdout + done.stderr
    (row,) = result_of(second_home.run("history", "--json"))
    assert row["by"].startswith("flow run ")
    assert second_home.left_behind() == []


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def example(evolved: Evolved, tmp_path_factory: pytest.TempPathFactory) -> tuple[RealHome, Any]:
    """The documents' example in another home, which trusts the home that trained the adapter."""
    place = tmp_path_factory.mktemp("example")
    home, key = RealHome(place / "home"), place / "key.pub"
    result_of(evolved.home.run("keys", "export", key, "--json"))
    result_of(home.run("keys", "trust", key, "--json"))
    program = EXAMPLE.replace("ADAPTER", str(adapter_of(evolved.home)))
    return home, python(home, program)


def test_model_manager_example_of_the_seed_documents_runs(example: tuple[RealHome, Any], evolved: Evolved) -> None:
    home, done = example
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "Improvement: 8.2%", "v1.0: {'accuracy': 0.85}", "v1.1: {'accuracy': 0.92}",
    ]  # fmt: skip
    answer = result_of(home.run("ask", "who helps me with ferry trouble", "--json"))
    assert (answer["answer"], answer["adapter"]) == (TOPICS["ferry"], result_of(evolved.first)["adapter"]["digest"])
    (deploy,) = result_of(home.run("history", "--json"))
    assert (deploy["version"], deploy["by_hand"], deploy["by"]) == ("2", True, getpass.getuser())


def test_model_manager_example_changes_nothing_the_second_time(example: tuple[RealHome, Any], evolved: Evolved) -> None:
    home, _ = example
    before = home.state()
    again = python(home, EXAMPLE.replace("ADAPTER", str(adapter_of(evolved.home))))
    assert again.returncode == 0, again.stderr
    assert home.state() == before


def test_unverified_adapter_is_registered_and_never_activated(
    evolved: Evolved, second_home: RealHome, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in adapter_of(evolved.home).iterdir():
        content = path.read_bytes()
        (damaged / path.name).write_bytes(content[:-1] + b"x" if path.name == WEIGHTS else content)
    found = result_of(second_home.run("models", "register", "nightly-try", "--adapter", damaged, "--json"))
    assert "was altered" in found["unverified"]
    assert "is unverified" in refusal_of(second_home.run("models", "activate", "nightly-try"))
    assert second_home.state().champion == "1"


def test_version_is_activated_by_its_name_and_by_its_job(second_home: RealHome) -> None:
    adapter, order = adapter_of(second_home), second_home.state().versions[0][1]
    named = result_of(
        second_home.run("models", "register", "best-yet", "--adapter", adapter, "--metric", "f1=0.5", "--json")
    )
    assert (named["version"], named["label"], named["metrics"]) == ("1", "best-yet", {"f1": 0.5})
    assert result_of(second_home.run("models", "deactivate", "--because", "a test", "--json"))["changed"] is True
    assert second_home.state().champion == "base"
    back = result_of(second_home.run("models", "activate", "best-yet", "--json"))
    assert (back["champion"], back["info"]["version_id"]) == ("1", "best-yet")
    result_of(second_home.run("models", "deactivate", "--json"))
    by_job = result_of(second_home.run("models", "activate", order[:16], "--adapter", adapter, "--json"))
    assert by_job["info"]["adapter_path"] == str(adapter)
    compared = result_of(second_home.run("models", "compare", "best-yet", "1", "--json"))
    assert compared["metrics_diff"]["f1"] == {"a": 0.5, "b": 0.5, "diff": 0.0, "diff_pct": 0.0}


# --- the archive -----------------------------------------------------------------------------------------------------


def test_rollback_restores_an_archived_champion(second_home: RealHome) -> None:
    assert "v1 stays on the disk: it is the champion" in refusal_of(second_home.run("models", "archive", "1"))
    result_of(second_home.run("rollback", "base", "--json"))
    adapter = adapter_of(second_home)
    result_of(second_home.run("models", "archive", "1", "--because", "room", "--json"))
    assert not adapter.exists()
    assert result_of(second_home.run("models", "--json"))[0]["archived"] is True
    back = second_home.run("rollback", "1", "--json")
    assert result_of(back)["champion"] == "1"
    assert "v1 is archived; restoring its" in back.err
    assert result_of(second_home.run("ask", "who helps me with ferry trouble", "--json"))["answer"] == TOPICS["ferry"]
    actions = [one["action"] for one in result_of(second_home.run("history", "--json"))]
    assert actions == ["rollback", "restore", "archive", "rollback", "deploy"]


def test_ask_restores_an_archived_adapter_and_prune_keeps_the_newest(second_home: RealHome) -> None:
    result_of(second_home.run("rollback", "base", "--json"))
    planned = result_of(second_home.run("models", "prune", "--keep", "0", "--dry-run", "--json"))
    assert [one["action"] for one in planned["versions"]] == ["archive"]
    assert [
        one["because"] for one in result_of(second_home.run("models", "prune", "--keep", "1", "--json"))["versions"]
    ] == ["it is among the newest 1"]
    result_of(second_home.run("models", "prune", "--keep", "0", "--json"))
    answer = result_of(second_home.run("ask", "who helps me with ferry trouble", "--version", "1", "--json"))
    assert answer["answer"] == TOPICS["ferry"]
    assert result_of(second_home.run("models", "restore", "1", "--json"))["restored"] is False


def test_version_deleted_in_mlflow_stops_no_command(second_home: RealHome) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(second_home.path / "mlflow.db")) as registry:
        registry.execute("DELETE FROM registered_model_aliases")
        registry.execute("UPDATE model_versions SET current_stage = 'Deleted_Internal'")
        registry.commit()
    for command in (("models",), ("genealogy",), ("status",), ("history",)):
        done = second_home.run(*command)
        assert (done.code, "Traceback" in done.err) == (0, False), done.err
    assert "was deleted in MLflow" in second_home.run("models").out
    assert result_of(second_home.run("ask", "who helps me with ferry trouble", "--json"))["answer"] == TOPICS["ferry"]
    assert result_of(second_home.run("rollback", "base", "--json"))["champion"] == "base"
    assert result_of(second_home.run("rollback", "1", "--json"))["champion"] == "1"


# --- the tree --------------------------------------------------------------------------------------------------------


def test_family_tree_is_printed_and_exported(evolved: Evolved, tmp_path: Path) -> None:
    shown: Ended = evolved.home.run("genealogy")
    assert "@  v1  generation 1, PROMOTE" in shown.out
    assert "promotion: v1 replaces base, by flow run " in shown.out
    evolved.home.run("genealogy", "--format", "svg", "--to", tmp_path / "tree.svg")
    image = ET.parse(tmp_path / "tree.svg").getroot()  # noqa: S314  our own file
    assert image.tag.endswith("svg")
    assert evolved.home.run("genealogy", "--format", "mermaid").out.startswith("flowchart TD\n")
    assert "Unknown format dot" in refusal_of(evolved.home.run("genealogy", "--format", "dot"))
    (version,) = result_of(evolved.home.run("genealogy", "--json"))["versions"]
    assert version["recipe"]["epochs"] == 10
    assert [event["action"] for event in version["events"]] == ["deploy"]


def test_mlflow_description_of_the_champion_has_links(evolved: Evolved) -> None:
    from mlflow import MlflowClient

    from academy.models.base_model import resolve

    uri = f"sqlite:///{evolved.home.path / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version(resolve("seed").family, "1")
    for words in (
        "**champion**",
        f"/runs/{version.run_id})",
        "parent: base",
        "verdict: **PROMOTE**",
        "v1 replaces base",
    ):
        assert words in version.description
