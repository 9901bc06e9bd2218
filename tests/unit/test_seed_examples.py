"""The examples of the seed documents run unchanged, except for their import lines."""

from __future__ import annotations

import random
import re
from pathlib import Path

import orjson
import pytest

from academy.models.formats import read_row
from tests.unit.histories import history

CURATION = """
from academy.sdk import DatasetCurator, LessonsStore

# Initialize
lessons_store = LessonsStore()
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
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as the working directory, and a home with lessons."""
    from academy.experience.lessons import LessonsStore

    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(history(tmp_path / "repo", 40))
    store = LessonsStore()
    chance = random.Random(1)
    for n in range(60):
        words = " ".join("".join(chance.choices("abcdefghij", k=6)) for _ in range(6))
        store.add_lesson(
            situation=f"how do I {words}", action=f"answer {n % 12}", result="✅ success", feedback="thanks",
            tags=["ops"], metadata={"author": "Ana"},
        )  # fmt: skip
    return tmp_path


def test_curating_as_the_documents_show(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(CURATION, "seed document", "exec"), {})  # noqa: S102  the example itself
    saved, number = capsys.readouterr().out.splitlines()
    path = Path(saved.removeprefix("Dataset saved: "))
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert path.parent == workspace / "home" / "training"
    assert re.fullmatch(r"dataset_\d{8}_\d{6}\.jsonl", path.name)
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    assert all(not isinstance(read_row(row), str) for row in rows)
    assert int(number.removeprefix("Number of examples: ")) == len(rows) >= 40
