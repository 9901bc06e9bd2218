"""An evolution prepares once: it finishes, imports, counts and decides before its stages run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from academy.errors import InputError
from academy.loop.decide import Counts
from academy.loop.dry_run import dry_run
from academy.loop.evolve import EvolutionRequest, EvolutionResult, evolve
from academy.loop.examine_player import examine_player
from academy.loop.home import Home
from academy.loop.serve import serve
from academy.loop.train_by_hand import TrainingRequest, train_by_hand
from academy.loop.training_jobs import TrainingJobs
from academy.operations.homes import open_home
from academy.professor.decision import should_train
from academy.professor.recipe_options import RecipeOptions


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Home]:
    """A home that trains from one lesson on."""
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ACADEMY_WORKSPACE_ROOT", str(tmp_path))
    monkeypatch.setenv("ACADEMY_MIN_LESSONS", "1")
    monkeypatch.setenv("ACADEMY_MIN_NEW_LESSONS", "1")
    home = open_home()
    yield home
    home.database.engine.dispose()


@pytest.fixture
def lessons(tmp_path: Path) -> Path:
    file = tmp_path / "lessons.jsonl"
    rows = ({"situation": f"request {n}", "action": f"answer {n}", "result": "success"} for n in range(3))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class Stages:
    """Records what the stages of an evolution are called with, and decides no."""

    def __init__(self) -> None:
        self.calls: list[tuple[EvolutionRequest, Counts]] = []

    def __call__(self, request: EvolutionRequest, counts: Counts) -> EvolutionResult:
        self.calls.append((request, counts))
        decision = should_train(
            lessons=counts.lessons, new_lessons=counts.new_lessons, last_verdict=counts.last_verdict, now=counts.at,
            min_lessons=1, min_new_lessons=1, interval_hours=0, examples=2,
        )  # fmt: skip
        return EvolutionResult.at_decision(decision, {"dataset": 0.5, "decision": 0.25})


def test_evolve_imports_and_counts_once_and_passes_its_counts_to_the_stages(home: Home, lessons: Path) -> None:
    stages = Stages()
    request = EvolutionRequest(lessons=(lessons,), recipe=RecipeOptions(epochs=2))
    result = evolve(home, request, stages)
    ((passed, counts),) = stages.calls
    assert passed == request
    assert (counts.lessons, counts.new_lessons, counts.last_verdict) == (3, 3, None)
    assert [imported.admitted for imported in result.imported] == [3]
    assert result.stages.keys() == {"experience", "dataset", "decision", "start"}
    assert result.decision.because == "2 training examples (minimum 50)."
    assert EvolutionResult.model_validate_json(result.model_dump_json()) == result
    assert {"decision", "imported", "dataset", "recipe", "tuning", "adapter", "verdict", "promoted", "waiting"} <= (
        result.as_json().keys()
    )


def test_evolve_runs_no_stage_if_the_counts_say_no(
    home: Home, lessons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("ACADEMY_MIN_LESSONS", "100")
    stages = Stages()
    result = evolve(open_home(), EvolutionRequest(lessons=(lessons,)), stages)
    assert stages.calls == []
    assert (result.decision.train, result.adapter, result.stages.keys()) == (False, None, {"decision"})
    assert [imported.admitted for imported in result.imported] == [3]


def test_evolve_refuses_contradicting_options_before_it_imports(home: Home, lessons: Path) -> None:
    request = EvolutionRequest(lessons=(lessons,), tune_minutes=3)
    for verb in (lambda: evolve(home, request, Stages()), lambda: dry_run(home, request)):
        with pytest.raises(InputError, match="Add --tune N"):
            verb()
    assert home.store.trainable() == 0


def test_a_dry_run_reports_decision_dataset_and_recipe(home: Home, lessons: Path) -> None:
    preview = dry_run(home, EvolutionRequest(lessons=(lessons,), recipe=RecipeOptions(rank=8)))
    assert preview.decision.train is False
    assert "training examples (minimum 50)" in preview.decision.because
    assert (preview.recipe.rank, preview.tuning, preview.seconds) == (8, None, None)
    assert preview.dataset.examples + preview.dataset.holdout == 3


def test_the_home_of_a_process_is_opened_once_for_its_settings_and_base_model(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert open_home() is home
    assert open_home("seed") is not home
    monkeypatch.setenv("ACADEMY_HOME", str(tmp_path / "other"))
    assert open_home().settings.home == tmp_path / "other"


def test_an_invalid_judge_is_refused_before_anything_is_imported(home: Home, lessons: Path) -> None:
    stages = Stages()
    home.settings = home.settings.model_copy(update={"judge": "nonsense"})
    with pytest.raises(InputError, match="nonsense"):
        evolve(home, EvolutionRequest(lessons=(lessons,)), stages)
    assert stages.calls == []
    assert home.store.get_statistics()["total_lessons"] == 0


def test_disabled_academy_imports_but_neither_trains_examines_nor_serves(
    home: Home, lessons: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENABLE_ACADEMY", "false")
    disabled, stages = open_home(), Stages()
    result = evolve(disabled, EvolutionRequest(lessons=(lessons,), force=True), stages)
    assert stages.calls == []
    assert [imported.admitted for imported in result.imported] == [3]
    assert result.decision.because == "the Academy is disabled (ACADEMY_ENABLE=false)."
    with pytest.raises(InputError, match="The Academy is disabled"):
        train_by_hand(disabled, TrainingRequest())
    with pytest.raises(InputError, match="The Academy is disabled"):
        examine_player(disabled, "v1", None)
    with pytest.raises(InputError, match="The Academy is disabled"):
        serve(
            disabled, name="default", host="127.0.0.1", port=0, runtime="peft", runtime_url="", seen_as="", by="",
            started=lambda gateway: None,
        )  # fmt: skip
    with pytest.raises(InputError, match="The Academy is disabled"):
        TrainingJobs().start(lessons, "seed", tmp_path / "output")
    disabled.database.engine.dispose()
