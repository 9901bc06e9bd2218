"""The Python of the seed documents from the first lesson to the active version, as they write it, in one program.

The programs are in docs/how-to/use-from-python.md. Two things differ from the documents: the package is `academy.sdk`,
and a local base model and the adapter that was just trained stand in place of those that they name.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from academy.sdk import Professor
from tests.documents import block_named
from tests.homes import bare
from tests.topics import TOPICS, WORDINGS


@pytest.mark.timeout(600)
def test_the_documents_professor_prepares_trains_reports_and_evaluates(tmp_path: Path) -> None:
    topics = list(TOPICS.items())[:20]
    lessons = [(wording.format(topic), answer) for topic, answer in topics for wording in WORDINGS]
    (tmp_path / "program.py").write_text(
        f"lessons = {lessons!r}\n{block_named('seed professor').text}", encoding="utf-8"
    )
    settings = {"ACADEMY_NUM_EPOCHS": "2", "ACADEMY_SUITES": "recall,style"}
    ran = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=bare() | settings, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ready, prepared, started, finished, evaluated = ran.stdout.splitlines()
    assert ready == "Ready for training!"
    assert re.fullmatch(r"Dataset saved: .*\.jsonl\. \d+ examples, \d+ held out for examinations.*\.", prepared)
    assert re.fullmatch(
        r"Training started: training_\d{8}_\d{6} on the CPU, \d+ examples, rank 16, 2 epochs\.", started
    )
    assert re.fullmatch(r"training_\d{8}_\d{6} is finished: step (\d+) of \1, loss [\d.]+\.", finished)
    assert re.match(r"v1 \(training_\d{8}_\d{6}\): (PROMOTE|HOLD|REJECT|CANNOT DECIDE)\. ", evaluated)


@pytest.mark.timeout(600)
def test_the_documents_python_runs_from_the_first_lesson_to_the_active_version(tmp_path: Path) -> None:
    topics = list(TOPICS.items())[:16]
    lessons = [(wording.format(topic), answer) for topic, answer in topics for wording in WORDINGS]
    (tmp_path / "program.py").write_text(f"lessons = {lessons!r}\n{block_named('seed python').text}", encoding="utf-8")
    environment = bare() | {"DO_NOT_TRACK": "true"}
    ran = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    out = ran.stdout
    dataset = Path(re.search(r"Dataset saved: (.*)", out)[1])  # type: ignore[index]
    assert dataset.parent == tmp_path / "data" / "training"
    examples = [json.loads(line) for line in dataset.read_text().splitlines()]
    assert f"Number of examples: {len(examples)}\n" in out
    assert len(examples) >= 50
    job = re.search(r"Job ID: (training_\d{8}_\d{6})\nContainer: None\n", out)
    assert job, out
    assert "Status: finished\n" in out
    assert re.search(r"^step \d+ of \d+, epoch .*, loss \d", out, re.MULTILINE)
    assert "Improvement: 8.2%\n" in out
    assert out.endswith("v1.0: {'accuracy': 0.85}\nv1.1: {'accuracy': 0.92}\n")

    def academy(*arguments: str) -> str:
        command = [sys.executable, "-m", "academy.cli.main", *arguments]
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    # the same home from the command line
    (run,) = json.loads(academy("habitat", "runs", "--json"))
    assert (run["job"], run["status"]) == (job[1], "finished")
    assert json.loads(academy("habitat", "status", job[1], "--json"))["run"] == run["run"]
    status = json.loads(academy("status", "--json"))
    assert status["champion"] == "2"
    assert status["lessons"]["outcomes"] == {"success": len(lessons)}
    assert academy("verify", "v1.1").startswith("v2  adapter")
    assert academy("keys", "resign", "v1.1") == "No version needed a new signature.\n"


def test_the_professor_answers_every_request_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    professor = Professor()
    assert professor.should_start_training()["should_train"] is False
    for request, answer in {
        "make me a sandwich": "This request is not known. Say one of: prepare learning materials",
        "": "This request is not known.",
        "evaluate model": "No training has finished yet",
        "oceń model": "No training has finished yet",
        "sprawdź postęp treningu": "No training was started yet.",
        "rozpocznij trening": "No dataset exists yet.",
        "przygotuj materiały do nauki": "Dataset saved: ",
        "start training": "The dataset has 0 training examples",
    }.items():
        assert asyncio.run(professor.process(request)).startswith(answer), request
