"""A search for the recipe with real trainings: killed in the middle, continued, used, and stored."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from academy.adapters.adapter import read_adapter
from academy.habitat.backends.process import ProcessBackend
from academy.loop.run_trials import RECORD
from academy.professor.recipe import Recipe
from academy.professor.search_space import DEV_SHARE, TuningResult
from tests.homes import Ended, RealHome
from tests.orders import order_of, topic_rows, write_rows
from tests.topics import write_topics

pytestmark = pytest.mark.campaign  # four minutes of trainings; tests/unit/test_tuning.py searches without them

OPTIONS = ("--epochs", "2", "--batch-size", "16", "--tune", "2", "--json")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> RealHome:
    """An empty home."""
    return RealHome(tmp_path_factory.mktemp("tuning") / "home")


@pytest.fixture(scope="module")
def killed(home: RealHome, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """An evolution that is killed in its search's second trial; the names of the two trials' orders."""
    lessons = write_topics(tmp_path_factory.mktemp("lessons") / "topics.jsonl")
    started = home.start("evolve", "--lessons", lessons, *OPTIONS, stderr=home.desk / "killed.err")
    seen: set[str] = set()
    until = time.monotonic() + 400
    while len(seen) < 2:
        assert started.poll() is None, (home.desk / "killed.err").read_text()
        assert time.monotonic() < until, (home.desk / "killed.err").read_text()
        seen |= {path.parent.name for path in home.path.glob("runs/tune-*/*/events.jsonl")}
        time.sleep(0.05)
    started.send_signal(signal.SIGKILL)
    started.wait()
    home.end()
    assert home.left_behind() == []
    return seen


@pytest.fixture(scope="module")
def evolved(home: RealHome, killed: set[str]) -> Ended:
    """The same command again."""
    ended = home.run("evolve", *OPTIONS, timeout=900)
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="module")
def result(evolved: Ended) -> TuningResult:
    """The result of the search."""
    return TuningResult.model_validate(evolved.json["tuning"])


def test_a_killed_search_does_not_repeat_its_finished_trials(evolved: Ended, result: TuningResult) -> None:
    assert [trial.number for trial in result.trials] == [0, 1]
    assert "trial 1 of 2" not in evolved.err
    assert "trial 2 of 2" in evolved.err
    assert {trial.recipe.epochs for trial in result.trials} == {2}
    assert {trial.recipe.dev_share for trial in result.trials} == {DEV_SHARE}
    assert result.trials[0].words == "the professor's recipe"


def test_the_resulting_recipe_is_never_worse_and_is_trained_on_all_examples(
    home: RealHome, evolved: Ended, result: TuningResult
) -> None:
    assert result.professor_loss is not None
    assert result.best.loss is not None
    assert result.best.loss <= result.professor_loss
    assert evolved.json["recipe"] == result.recipe.model_dump(mode="json")
    (folder,) = home.path.glob("adapters/*")  # trials publish none
    adapter = read_adapter(folder)
    assert adapter.digest == evolved.json["adapter"]["digest"]
    assert adapter.manifest.recipe == result.recipe
    assert adapter.manifest.recipe.dev_share == 0
    assert adapter.manifest.examples == evolved.json["dataset"]["examples"]
    assert {"tuning", "second decision"} <= set(evolved.json["stages"])


def test_a_search_leaves_its_record_and_nothing_else(home: RealHome, result: TuningResult) -> None:
    (folder,) = home.path.glob("runs/tune-*")
    assert [path.name for path in folder.iterdir()] == [RECORD]
    assert TuningResult.model_validate_json((folder / RECORD).read_bytes()) == result
    assert home.left_behind() == []
    assert len(home.state().runs) == 1


def test_mlflow_has_the_search_with_the_run_of_its_recipe(home: RealHome, result: TuningResult) -> None:
    from mlflow import MlflowClient

    client: Any = MlflowClient(tracking_uri=f"sqlite:///{home.path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("academy").experiment_id])
    assert run.data.tags["academy.tuning"] == result.key
    assert run.data.tags["academy.tuning.found"] == result.sentence
    (kept,) = home.path.glob("mlartifacts/**/tuning/trials.json")
    assert TuningResult.model_validate(orjson.loads(Path(kept).read_bytes())) == result


def test_a_repeated_search_returns_its_result_at_once(home: RealHome, evolved: Ended, result: TuningResult) -> None:
    again = home.run("train", *OPTIONS)
    assert again.code == 0, again.err
    assert "this search ran before" in again.err
    assert again.json["tuning"] == result.model_dump(mode="json")
    assert again.json["adapter"]["digest"] == evolved.json["adapter"]["digest"]
    told = home.run("train", *OPTIONS[:-1])
    assert f"Result of the search: {result.sentence}." in told.out
    dry = home.run("evolve", "--dry-run", *OPTIONS[:-1])
    assert f"The recipe was chosen by an earlier search: {result.sentence}." in dry.out
    another = home.run("evolve", "--dry-run", *OPTIONS[:-1], "--rank", "8")
    assert "The recipe would be searched first, in 2 trials" in another.out


def test_closing_the_events_of_a_trial_ends_its_trainer(tmp_path: Path) -> None:
    recipe = Recipe(epochs=6, batch_size=2, accumulation=1, max_length=128, dev_share=0.3)
    order = order_of(tmp_path, write_rows(tmp_path / "train.jsonl", topic_rows(wordings=["{}"])), recipe=recipe)
    events: Any = ProcessBackend(gpu="").train(order)
    evaluated = next(event for event in events if event.eval_loss is not None)
    assert evaluated.step < evaluated.steps
    mark = str(order.folder).encode()
    assert _commands_with(mark)
    events.close()
    assert not _commands_with(mark)
    assert not order.adapters.exists()


def _commands_with(mark: bytes) -> list[bytes]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # the process ended meanwhile
            commands.append(path.read_bytes())
    return [command for command in commands if mark in command]
