"""A search for a recipe: what is searched, what is pruned, what fails, and what a kill leaves to be done."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from academy.curriculum.dataset import Dataset
from academy.errors import InputError, TrainingError
from academy.habitat.backends.base import Phase, TrainingEvent, TrainingOrder
from academy.loop.decide import decide
from academy.loop.home import Home
from academy.loop.place_order import place_order
from academy.loop.run_trials import JOURNAL, RECORD, Search, run_trials
from academy.models.base_model import resolve
from academy.professor.recipe import Recipe
from academy.professor.search_space import DEV_SHARE, SearchSpace, TuningResult, refuse_few, space_around
from academy.settings import Settings
from tests.ledger_entries import verdict

START = Recipe(learning_rate=5e-3, epochs=6, batch_size=8, accumulation=1)
STEPS = 12


def loss_of(recipe: Recipe) -> float:
    """A smooth surface whose lowest place is not the professor's recipe."""
    return (
        0.3 + abs(math.log(recipe.learning_rate / 2e-3)) + abs(recipe.epochs - 8) / 10 + 0.2 * (not recipe.use_rslora)
    )


class Trainer:
    """A trainer that computes its losses: six evaluations that fall towards the surface's value."""

    def __init__(self, fails: dict[int, str] | None = None, dies_in: int | None = None) -> None:
        self.fails = fails or {}
        self.dies_in = dies_in
        self.recipes: list[Recipe] = []
        self.ended: list[int] = []
        self.seconds = 0.0

    def __call__(self, recipe: Recipe) -> Generator[TrainingEvent, None, None]:
        number = len(self.recipes)
        self.recipes.append(recipe)
        try:
            for n, step in enumerate(range(2, STEPS + 1, 2), 1):
                self.seconds += 10
                if number == self.dies_in and n == 4:
                    raise KeyboardInterrupt
                if number in self.fails and n == 2:
                    yield event(n, "failed", message="It went wrong.", cause=self.fails[number])
                    return
                yield event(n, "step", step=step, steps=STEPS, eval_loss=loss_of(recipe) * (1 + 1 / step))
            yield event(7, "done", adapter="0" * 64)
        finally:
            self.ended.append(number)


def event(n: int, phase: Phase, **fields: Any) -> TrainingEvent:
    """One event."""
    return TrainingEvent(n=n, at=0.0, phase=phase, **fields)


Make = Callable[..., Search]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Searches in one home."""

    def search(trials: int = 8, space: SearchSpace | None = None) -> Search:
        order = TrainingOrder(
            base=resolve("seed"), dataset="1" * 64, train_file=tmp_path / "train.jsonl", train_digest="2" * 64,
            recipe=START, runs=tmp_path / "runs", adapters=tmp_path / "adapters",
        )  # fmt: skip
        return Search(order, space or space_around(START), trials)

    return search


def search_result(search: Search, trainer: Trainer, minutes: float = 60) -> TuningResult:
    """A search by this trainer, whose time is its own."""
    return run_trials(search, trainer, "1" * 64, minutes, clock=lambda: trainer.seconds)


# --- what is searched --------------------------------------------------------------------------------------------


def test_the_space_lies_around_the_professors_recipe_and_within_its_bounds() -> None:
    space = space_around(START)
    assert space.learning_rates == (1e-3, 1e-2)
    assert space.ranks == (8, 16, 32, 64)
    assert space.epochs == (3, 9)
    assert space.dropouts == (0.0,)  # it uses none
    assert space_around(Recipe(rank=4)).ranks == (4, 8, 16)
    assert space_around(Recipe(rank=256, alpha=512)).ranks == (128, 256)
    assert space_around(Recipe(epochs=20)).epochs == (10, 20)
    assert space_around(Recipe(dropout=0.05)).dropouts == (0.0, 0.05, 0.1)


def test_fixed_fields_are_not_searched(make: Make) -> None:
    trainer = Trainer()
    found = search_result(make(8, space_around(START, ["rank", "epochs"])), trainer)
    assert {(recipe.rank, recipe.alpha, recipe.epochs) for recipe in trainer.recipes} == {(16, 32, 6)}
    assert len({recipe.learning_rate for recipe in trainer.recipes}) == 8
    assert (found.recipe.rank, found.recipe.epochs) == (16, 6)


def test_a_search_with_all_fields_fixed_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to search") as refusal:
        space_around(START, ["rank", "learning_rate", "epochs"])
    assert "--epochs" in refusal.value.remedy


@pytest.mark.parametrize("trials", [0, -1, 501])
def test_a_number_of_trials_out_of_bounds_is_refused(trials: int) -> None:
    with pytest.raises(InputError, match=f"cannot have {trials} trials"):
        refuse_few(space_around(START), [f"request {n}" for n in range(500)], trials)


def test_a_dataset_too_small_to_divide_is_refused() -> None:
    space = space_around(START)
    refuse_few(space, [f"request {n}" for n in range(200)], 3)
    for requests in ([f"request {n}" for n in range(20)], ["the same"] * 200):
        with pytest.raises(InputError, match="too few to search a recipe") as refusal:
            refuse_few(space, requests, 3)
        assert "without --tune" in refusal.value.remedy


def test_a_request_is_held_back_as_often_as_the_share_says() -> None:
    recipe = Recipe(dev_share=DEV_SHARE)
    held_back = {f"request {n}" for n in range(2000) if recipe.holds_back(f"request {n}")}
    assert 240 < len(held_back) < 360
    assert not any(Recipe().holds_back(request) for request in held_back)


# --- what is found -----------------------------------------------------------------------------------------------


def test_a_search_starts_with_the_professors_recipe_and_returns_the_best(make: Make) -> None:
    trainer = Trainer()
    search = make(20)
    found = search_result(search, trainer)
    assert trainer.recipes[0] == START.model_copy(update={"dev_share": DEV_SHARE})
    assert all(recipe.dev_share == DEV_SHARE for recipe in trainer.recipes)
    assert len(found.trials) == len(trainer.recipes) == 20
    assert found.ended == "trials"
    done = [trial for trial in found.trials if trial.state == "done"]
    assert found.professor_loss == done[0].loss
    assert found.best.loss == min(trial.loss for trial in done if trial.loss is not None)
    assert found.best.loss < found.professor_loss  # type: ignore[operator]
    assert found.recipe == found.best.recipe.model_copy(update={"dev_share": 0.0})
    assert loss_of(found.recipe) < loss_of(START)
    assert found.recipe.alpha == 2 * found.recipe.rank
    assert f"{found.best.loss:.4f} with {found.best.words}" in found.sentence


def test_the_professors_recipe_stays_if_no_trial_is_better(make: Make) -> None:
    found = search_result(make(1), Trainer())
    assert found.recipe == START
    assert "none was better than the professor's recipe" in found.sentence


def test_trials_worse_than_the_median_are_pruned(make: Make) -> None:
    trainer = Trainer()
    found = search_result(make(20), trainer)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert trainer.ended == list(range(20))  # closed, all of them
    assert all("worse than the median" in trial.because for trial in pruned)
    assert all(trial.seconds < 60 for trial in pruned)
    assert all(trial.state == "done" for trial in found.trials[:2])


@pytest.mark.parametrize("cause", ["loss", "memory", "killed", "unknown"])
def test_failed_trials_are_recorded_and_do_not_end_the_search(make: Make, cause: str) -> None:
    found = search_result(make(6), Trainer(fails={0: cause, 2: cause}))
    assert [trial.number for trial in found.trials if trial.state == "failed"] == [0, 2]
    assert found.trials[2].because == "It went wrong."
    assert found.professor_loss is None
    assert found.best.number not in (0, 2)
    assert "(it failed)" in found.sentence


def test_a_trial_refused_before_its_start_has_failed(make: Make) -> None:
    trainer = Trainer()

    def carry_out(recipe: Recipe) -> Generator[TrainingEvent, None, None]:
        if recipe.rank > 16:
            raise TrainingError("It does not fit.", cause="memory")
        yield from trainer(recipe)

    found = run_trials(make(10), carry_out, "1" * 64, 60)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert {trial.because for trial in failed} == {"It does not fit."}
    assert all(trial.recipe.rank > 16 for trial in failed)


@pytest.mark.parametrize("cause", ["data", "engine", "disk", "template", "cancelled"])
def test_a_failure_of_every_trial_ends_the_search(make: Make, cause: str) -> None:
    trainer = Trainer(fails={1: cause})
    with pytest.raises(TrainingError, match="It went wrong") as problem:
        search_result(make(6), trainer)
    assert problem.value.cause == cause
    again = Trainer()
    found = search_result(make(6), again)
    assert len(again.recipes) == 5  # the first was done, the second comes again
    assert len(found.trials) == 6


def test_a_search_without_a_finished_trial_starts_over(make: Make) -> None:
    search = make(3)
    with pytest.raises(TrainingError, match=r"None of 3 trials ended with a loss\. The first one: It went wrong"):
        search_result(search, Trainer(fails=dict.fromkeys(range(3), "loss")))
    assert search.earlier_result(60) is None
    assert len(search_result(search, Trainer()).trials) == 3


def test_an_examined_recipe_prevents_a_training_but_not_a_search_around_it(tmp_path: Path) -> None:
    home = Home(Settings().model_copy(update={"home": tmp_path}))
    (tmp_path / "holdout.jsonl").touch()
    dataset = Dataset(
        digest="1" * 64, path=tmp_path, train_digest="2" * 64, examples=200, holdout=0, lessons=200, cursor=200,
        tokens=2000, longest=20, funnel={}, contradictions=(),
    )  # fmt: skip
    order = place_order(home, dataset, START)
    home.ledger.append("verdict:1", verdict("HOLD", order=order.digest, dataset=dataset.digest))
    for to_tune, names in ((False, ["not examined yet"]), (True, [])):
        decision = decide(home, force=True, order=order, dataset=dataset, to_tune=to_tune)
        assert [reason.name for reason in decision.reasons if reason.name == "not examined yet"] == names
        assert decision.train is to_tune


# --- once, whatever happens ----------------------------------------------------------------------------------------


def test_a_finished_search_keeps_only_its_record(make: Make) -> None:
    search = make(3)
    found = search_result(search, Trainer())
    assert search.earlier_result(60) == found
    assert make(3).earlier_result(999) == found
    assert make(4).earlier_result(60) is None
    assert make(3, space_around(START, ["rank"])).earlier_result(60) is None
    assert [path.name for path in search.folder.iterdir()] == [RECORD]


def test_a_killed_search_continues_with_its_running_trial(make: Make, tmp_path: Path) -> None:
    whole = search_result(make(8), Trainer())
    search = make(8)
    (search.folder / RECORD).unlink()
    first = Trainer(dies_in=3)
    with pytest.raises(KeyboardInterrupt):
        search_result(search, first)
    with (search.folder / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":')  # torn
    (search.folder / f"{JOURNAL}.lock").symlink_to(search.folder / JOURNAL)
    second = Trainer()
    found = search_result(search, second)
    assert first.recipes[3] == second.recipes[0]
    assert len(first.recipes) + len(second.recipes) == 9
    assert [trial.recipe for trial in found.trials] == [trial.recipe for trial in whole.trials]
    assert [(trial.state, trial.loss) for trial in found.trials] == [(one.state, one.loss) for one in whole.trials]
    assert found.recipe == whole.recipe


def test_the_time_limit_ends_a_search_but_not_its_first_trial(make: Make) -> None:
    search = make(8)
    trainer = Trainer()
    found = search_result(search, trainer, minutes=0.1)
    assert (found.ended, len(found.trials), found.recipe) == ("minutes", 1, START)
    assert "1 trial of 8 (time limit reached)" in found.sentence
    assert search.earlier_result(0.1) == found
    assert search.earlier_result(5) is None
    later = Trainer()
    more = search_result(search, later, minutes=2.5)  # trials of a minute at most, the last of which is broken off
    assert more.trials[0] == found.trials[0]
    assert more.ended == "minutes"
    assert 2 <= len(more.trials) < 8
    assert later.ended == list(range(len(more.trials))), "the last one is broken off, and no trial"
    assert search.earlier_result(2.5) == more
    assert sorted(path.name for path in search.folder.iterdir()) == [JOURNAL, RECORD]
