"""Training by tag: the dataset, the decision's counts and what still counts as new afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from academy.errors import InputError
from academy.loop.curate import curate
from academy.loop.decide import count, decide, preview_decision
from academy.loop.dry_run import dry_run
from academy.loop.evolve import EvolutionRequest, prepare
from academy.loop.home import Home
from academy.loop.tags import read_tags
from academy.loop.train_by_hand import TrainingRequest, train_by_hand
from academy.operations.homes import open_home


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACADEMY_WORKSPACE_ROOT", str(tmp_path))
    home = open_home()
    yield home
    home.database.engine.dispose()


def teach(home: Home, count: int, *tags: str) -> None:
    start = home.store.newest()
    for n in range(start, start + count):
        home.store.add_lesson(f"question {n} about number {n * 7}", f"answer {n}", "success", tags=list(tags))


def test_tags_are_read_with_commas_and_repeats() -> None:
    assert read_tags([]) == ()
    assert read_tags(["deploy, rollback", "deploy", " on call "]) == ("deploy", "rollback", "on call")
    for text in ("", ",", " , "):
        with pytest.raises(InputError, match="names no tag"):
            read_tags([text])


def test_dataset_has_only_experience_with_a_tag_and_counts_the_rest(home: Home) -> None:
    teach(home, 10, "deploy")
    teach(home, 5, "rollback", "night")
    teach(home, 7, "lunch")
    teach(home, 3)
    dataset = curate(home, [], tags=("deploy", "night"))
    assert dataset.funnel["collected: lesson"] == 15
    assert dataset.funnel["dropped: lesson: has none of the tags"] == 10
    assert {row["id"] for row in dataset.inputs()} == {
        lesson.id for lesson in home.store.read() if {"deploy", "night"} & set(lesson.tags)
    }


def test_counts_and_sentences_are_those_of_the_tags(home: Home) -> None:
    teach(home, 10, "deploy")
    teach(home, 200, "lunch")
    counts = count(home, ("deploy", "rollback"))
    assert (counts.lessons, counts.new_lessons) == (10, 10)
    decision = decide(home, force=False, counts=counts)
    assert "10 lessons tagged deploy or rollback (minimum 100)" in decision.because
    assert "10 new lessons tagged deploy or rollback since" in decision.because
    assert preview_decision(home, force=False, tags=("deploy",)).decision.train is False
    assert preview_decision(home, force=False, tags=("lunch",)).decision.train
    assert prepare(home, EvolutionRequest(tags=("deploy",))).decision.train is False
    assert "10 lessons tagged deploy" in dry_run(home, EvolutionRequest(tags=("deploy",))).decision.because


def test_lessons_with_other_tags_stay_new_after_a_training_by_tag(home: Home) -> None:
    teach(home, 4, "deploy")
    teach(home, 6, "lunch")
    teach(home, 5, "deploy")
    dataset = curate(home, [], tags=("deploy",))
    assert dataset.cursor == 4  # the last number before which every lesson has the tag
    assert home.store.trainable(since=dataset.cursor) == 11
    assert curate(home, [], tags=("deploy", "lunch")).cursor == home.store.newest()
    assert curate(home, []).cursor == home.store.newest()


def test_existing_dataset_cannot_be_restricted_to_tags(home: Home) -> None:
    teach(home, 4, "deploy")
    digest = curate(home, []).digest
    with pytest.raises(InputError, match="cannot be restricted to tags"):
        train_by_hand(home, TrainingRequest(dataset=digest, tags=("deploy",)))


def test_unknown_format_is_refused_before_anything_is_curated(home: Home) -> None:
    teach(home, 4, "deploy")
    with pytest.raises(InputError, match="Unknown format yaml"):
        train_by_hand(home, TrainingRequest(form="yaml"))
    assert list(home.datasets.iterdir()) == []


def test_request_with_tags_survives_json() -> None:
    request = EvolutionRequest(tags=("deploy",))
    assert EvolutionRequest.model_validate(json.loads(request.model_dump_json())) == request
