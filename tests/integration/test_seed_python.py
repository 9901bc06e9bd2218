"""The Python of the seed documents from the first lesson to the active version, as they write it, in one program.

Two things differ from the documents: the package is `academy.sdk`, and a local base model and the adapter that was just
trained stand in place of those that they name.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.homes import bare
from tests.topics import TOPICS, WORDINGS

PROGRAM = """
import time

from academy.sdk import DatasetCurator, GPUHabitat, LessonsStore, ModelManager

lessons_store = LessonsStore()
for situation, action in LESSONS:
    lessons_store.add_lesson(situation=situation, action=action, result="it worked", tags=["office"])

# Initialize
curator = DatasetCurator(lessons_store=lessons_store)

# Collect data
curator.collect_from_lessons(limit=200)
curator.collect_from_git_history(max_commits=100)

# Filter
curator.filter_low_quality()

# Save
dataset_path = curator.save_dataset(format="alpaca")
print(f"Dataset saved: {dataset_path}")

# Statistics
stats = curator.get_statistics()
print(f"Number of examples: {stats['total_examples']}")

# Initialize
habitat = GPUHabitat(enable_gpu=True)

# Run training
job_info = habitat.run_training_job(
    dataset_path=dataset_path,
    base_model="seed",
    output_dir="./data/models/training_0",
    lora_rank=16,
    learning_rate=2e-4,
    num_epochs=3,
)

print(f"Job ID: {job_info['job_name']}")
print(f"Container: {job_info['container_id']}")

# Monitor progress
status = habitat.get_training_status(job_info['job_name'])
while status["status"] in ("queued", "preparing", "running"):
    time.sleep(0.2)
    status = habitat.get_training_status(job_info['job_name'])
print(f"Status: {status['status']}")
print(f"Logs:\\n{status['logs']}")

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
    adapter_path="./data/models/training_0/adapter",
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


PROFESSOR = """
import asyncio

from academy.sdk import DatasetCurator, GPUHabitat, LessonsStore, Professor

lessons_store = LessonsStore()
for situation, action in LESSONS:
    lessons_store.add_lesson(situation=situation, action=action, result="it worked")
kernel = None
dataset_curator = DatasetCurator(lessons_store=lessons_store)
gpu_habitat = GPUHabitat(enable_gpu=True)


async def main():
    # Initialize
    professor = Professor(kernel, dataset_curator, gpu_habitat, lessons_store)

    # Check readiness
    decision = professor.should_start_training()
    if decision["should_train"]:
        print("✅ Ready for training!")

    print(await professor.process("make me a sandwich"))
    print(await professor.process("evaluate model"))

    # Generate dataset
    print(await professor.process("prepare learning materials"))

    # Start training
    print(await professor.process("start training"))

    # Check progress
    result = await professor.process("sprawdź postęp treningu")
    while "is finished" not in result and "is failed" not in result:
        await asyncio.sleep(0.2)
        result = await professor.process("check training progress")
    print(result)

    # Evaluate model
    print(await professor.process("oceń model"))


asyncio.run(main())
"""


@pytest.mark.timeout(600)
def test_the_documents_professor_prepares_trains_reports_and_evaluates(tmp_path: Path) -> None:
    topics = list(TOPICS.items())[:20]
    lessons = [(wording.format(topic), answer) for topic, answer in topics for wording in WORDINGS]
    (tmp_path / "program.py").write_text(f"LESSONS = {lessons!r}\n{PROFESSOR}", encoding="utf-8")
    settings = {"ACADEMY_NUM_EPOCHS": "2", "ACADEMY_SUITES": "recall,style"}
    ran = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=bare() | settings, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ready, unknown, early, prepared, started, finished, evaluated = ran.stdout.splitlines()
    assert ready == "✅ Ready for training!"
    assert unknown.startswith("This request is not known. Say one of: prepare learning materials")
    assert early == "No training has finished yet, so there is no model to evaluate. Start a training first."
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
    (tmp_path / "program.py").write_text(f"LESSONS = {lessons!r}\n{PROGRAM}", encoding="utf-8")
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
