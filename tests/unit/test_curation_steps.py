"""Curation from Python in steps: what is collected, filtered, saved and counted, under the settings of the home."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.errors import InputError
from academy.lifecycle.forgetting import forget
from academy.sdk import DatasetCurator, LessonsStore
from tests.unit.histories import history


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and a working directory that is in no repository."""
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> LessonsStore:
    return LessonsStore()


def add(store: LessonsStore, count: int, seed: int = 1, **metadata: Any) -> None:
    chance = random.Random(seed)
    for n in range(count):
        words = " ".join("".join(chance.choices("abcdefghij", k=6)) for _ in range(6))
        store.add_lesson(f"how do I {words}", f"answer {n % 12}", "it worked", metadata=metadata)


def lines(file: Path) -> list[Any]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def test_statistics_count_each_removal_under_its_reason(store: LessonsStore) -> None:
    add(store, 60)
    store.add_lesson("how do I fail", "an answer", "it failed")
    store.add_lesson("how do I know", "an answer", metadata={"outcome": "unknown"})
    store.add_lesson("print nothing at all", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
    for result in ("it worked", "worked again"):
        store.add_lesson("how do I say it twice", "the same answer", result)
    curator = DatasetCurator(store)
    assert curator.collect_from_lessons() == 65
    assert curator.filter_low_quality() == 4
    before = curator.get_statistics()
    assert (before["total_examples"], before["lessons_collected"]) == (61, 65)
    assert (before["removed_low_quality"], before["removed_duplicates"], before["removed_not_successful"]) == (1, 1, 2)
    file = curator.save_dataset()
    after = curator.get_statistics()
    assert after["total_examples"] == len(lines(file)) > 0
    removed = (
        "removed_low_quality", "removed_duplicates", "removed_over_limits", "removed_not_successful",
        "removed_for_examination",
    )  # fmt: skip
    assert after["total_examples"] + after["held_out"] + sum(after[name] for name in removed) == 65
    assert sum(after["removed_by_reason"].values()) == sum(after[name] for name in removed)
    assert after["removed_by_reason"]["outcome unknown"] == 1


def test_saving_and_collecting_again_doubles_nothing(store: LessonsStore) -> None:
    add(store, 60)
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    first = curator.save_dataset("alpaca")
    numbers = curator.get_statistics()
    second = curator.save_dataset("alpaca")
    assert first != second
    assert first.read_bytes() == second.read_bytes()
    assert curator.get_statistics() == numbers
    assert curator.collect_from_lessons() == 0
    assert curator.save_dataset("alpaca").read_bytes() == first.read_bytes()
    assert curator.get_statistics() == numbers


def test_a_lesson_that_came_after_the_curator_is_collected(store: LessonsStore) -> None:
    curator = DatasetCurator(store)
    add(store, 60)
    assert curator.collect_from_lessons(limit=20) == 20
    add(store, 5, seed=2)
    assert curator.collect_from_lessons(limit=25) >= 5
    assert curator.collect_from_task_history() == 0


def test_what_was_not_filtered_is_filtered_before_it_is_saved(store: LessonsStore) -> None:
    add(store, 60)
    store.add_lesson("how do I fail", "never do this", "it failed")
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    assert b"never do this" not in curator.save_dataset().read_bytes()


def test_outside_a_repository_no_commits_are_collected(
    store: LessonsStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    curator = DatasetCurator(store)
    with caplog.at_level(logging.INFO):
        assert curator.collect_from_git_history(max_commits=100) == 0
    assert "is not a git repository" in caplog.text
    with pytest.raises(InputError, match="is not a git repository"):
        curator.collect_from_git_history(tmp_path / "desk")


def test_commits_come_from_the_workspace_and_from_trusted_authors(
    store: LessonsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKSPACE_ROOT", str(history(tmp_path / "repo", 20)))
    assert DatasetCurator(store).collect_from_git_history() > 0
    assert DatasetCurator(store).collect_from_git_history(max_commits=0) == 0
    monkeypatch.setenv("ACADEMY_TRUSTED_AUTHORS", "unknown@example.org")
    curator = DatasetCurator(store)
    assert curator.collect_from_git_history() == 0
    assert curator.get_statistics()["skipped_by_source"] > 0


def test_quotas_of_the_settings_hold(store: LessonsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACADEMY_MAX_PER_AUTHOR", "10")
    add(store, 60, author="Ann")
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    curator.filter_low_quality()
    assert curator.get_statistics()["total_examples"] == 10
    assert curator.get_statistics()["removed_over_limits"] == 50


def test_questions_of_the_suites_are_kept_out(store: LessonsStore) -> None:
    from academy.loop.choose_suites import guarded_texts
    from academy.settings import load_settings

    (texts,) = (suite.texts for suite in guarded_texts(load_settings()) if suite.name == "coding")
    add(store, 60)
    for number, text in enumerate(texts[:10]):  # some of them may be held out
        store.add_lesson(text, f"the answer with the number {number}, in a few words")
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    saved = curator.save_dataset().read_text()
    assert not any(text[:40] in saved for text in texts[:10])
    assert curator.get_statistics()["removed_by_reason"]["overlap with an examination"] > 0


def test_a_dataset_is_written_where_the_caller_says(
    store: LessonsStore, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, 60)
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    named = curator.save_dataset("sharegpt", "with blanks/my set.jsonl")
    assert named == tmp_path / "desk" / "with blanks" / "my set.jsonl"
    assert lines(named)[0]["conversations"][0]["from"] == "human"
    default = curator.save_dataset(format="sharegpt")
    assert default.parent == home / "training"
    assert default.read_bytes() == named.read_bytes()
    with pytest.raises(InputError, match="is a folder"):
        curator.save_dataset(output_path=tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        curator.save_dataset(output_path="/dev/null/set.jsonl")
    with pytest.raises(InputError, match="Unknown format csv"):
        curator.save_dataset("csv")
    for limit in (-1, 2.5, "ten"):
        with pytest.raises(InputError, match="limit is"):
            curator.collect_from_lessons(limit=limit)  # type: ignore[arg-type]


def test_the_saved_file_costs_no_space(store: LessonsStore) -> None:
    add(store, 60)
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    assert curator.save_dataset("alpaca").stat().st_nlink >= 2


def test_an_empty_dataset_is_saved_with_a_warning_and_its_reasons(
    store: LessonsStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.add_lesson("how do I know", "an answer", metadata={"outcome": "unknown"})
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    assert curator.save_dataset().read_bytes() == b""
    assert "has no examples: 1 outcome unknown" in caplog.text
    assert curator.get_statistics()["avg_input_length"] == 0


def test_a_forgotten_lesson_is_in_no_saved_file(store: LessonsStore, home: Path) -> None:
    from academy.loop.home import Home

    add(store, 60)
    curator = DatasetCurator(store)
    curator.collect_from_lessons()
    file = curator.save_dataset("alpaca")
    request = lines(file)[0]["instruction"]
    (lesson,) = [lesson for lesson in store.every() if lesson.request == request]
    forget(store.database, home, Home.open().mlflow, lesson.id, "a test")
    assert not file.exists()
    assert not any(request.encode() in path.read_bytes() for path in (home / "training").glob("*"))
