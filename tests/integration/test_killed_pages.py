"""A worker or the server is killed under a training: it goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.process import ProcessBackend
from academy.habitat.run_folder import EVENTS, ORDER, read_events
from academy.loop.home import Home
from tests.servers.pages import Pages, ended
from tests.topics import write_topics

pytestmark = pytest.mark.campaign  # two evolutions on a server of their own


def events(home: Path) -> list[TrainingEvent]:
    """Of the one training of a home, as far as it has come."""
    found = list((home / "runs").glob(f"*/{EVENTS}"))
    return list(read_events(found[0])) if found else []


def victim(pages: Pages, words: tuple[str, ...]) -> int:
    """The id of the home's process whose command line has all these words and is not that of a supervisor."""
    mark = f"ACADEMY_HOME={pages.home}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            there = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if there and "academy.operations.child" not in line and all(word in line for word in words):
            return int(entry.name)
    pytest.fail(f"no process {words}")


def begin(pages: Pages, lessons: list[Path]) -> dict[str, object]:
    """An evolution on the server of the pages."""
    deployment = next(one for one in pages.post("/deployments/filter", {}) if one["name"] == "on-demand")
    options = {"lessons": [str(one) for one in lessons], "recipe": {"epochs": 4}, "force": True}
    run: dict[str, object] = pages.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": options})
    return run


@pytest.mark.parametrize(
    "words",
    [("prefect_worker", "academy-train-cpu"), ("academy.operations.prefect_server",)],
    ids=["worker", "server"],
)
def test_a_training_goes_on_after_a_kill(tmp_path: Path, words: tuple[str, ...]) -> None:
    pages = Pages(tmp_path / "home")
    pages.wait_for("Ctrl-C ends everything")
    run = begin(pages, [write_topics(tmp_path / "topics.jsonl")])
    until = time.monotonic() + 240
    while not any(event.phase == "checkpoint" for event in events(pages.home)):
        assert time.monotonic() < until, "no checkpoint"
        time.sleep(0.1)
    os.kill(victim(pages, words), signal.SIGKILL)
    assert pages.process.wait(timeout=60) != 0, "pages must not serve a part of them only"
    pages.log.close()
    until = time.monotonic() + 30
    while pages.left() and time.monotonic() < until:
        time.sleep(0.3)
    assert pages.left() == []
    before = events(pages.home)
    assert before[-1].phase not in ("done", "failed") or before[-1].cause == "killed", before[-1]
    kept = max(event.step for event in before if event.phase == "checkpoint")

    again = Pages(tmp_path / "home")
    again.wait_for("Ctrl-C ends everything")
    (dead,) = again.post("/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert dead["state_type"] in ("CRASHED", "FAILED", "CANCELLED"), dead["state"]
    found = ended(again, begin(again, []), patience=600)
    assert found["state_type"] == "COMPLETED", found["state"]
    told = events(again.home)
    assert told[-1].phase == "done"
    starts = [event.n for event in told if event.phase == "started"]
    assert len(starts) == 2
    assert next(event.step for event in told if event.n > starts[1] and event.phase == "step") > kept, "it began again"
    assert again.end(signal.SIGTERM) == []

    work = Home.open(home=again.home)
    (version,) = work.versions.newest()
    assert version.adapter == told[-1].adapter
    ours = work.mlflow.search_runs([work.mlflow.get_run(version.run).info.experiment_id])
    trainings = [one for one in ours if one.data.tags.get("academy.order") == version.order]
    assert [one.info.run_id for one in trainings] == [version.run], "both attempts are one run in MLflow"

    (written,) = (again.home / "runs").glob(f"*/{ORDER}")
    order = TrainingOrder.model_validate_json(written.read_bytes())
    alone = order.model_copy(update={"runs": tmp_path / "runs", "adapters": tmp_path / "adapters"})
    os.environ["OMP_NUM_THREADS"] = "1"
    assert list(ProcessBackend(gpu="").train(alone))[-1].adapter == version.adapter, "other bytes than in one go"
