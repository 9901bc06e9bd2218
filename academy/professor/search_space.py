"""What a search for a recipe tries and finds, as records: the space around a recipe, the trials, the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from academy.errors import InputError
from academy.professor.recipe import Recipe
from academy.records import Record

if TYPE_CHECKING:
    from optuna.trial import Trial as Asked

DEV_SHARE = 0.15
"""Of the training side, by requests: what a trial is judged on."""
FEWEST_DEV = 10
"""Examples to judge on, below which a difference says nothing."""
MOST_TRIALS = 500
SEARCHED = ("rank", "learning_rate", "epochs")
"""What a person can fix of what is searched."""
State = Literal["done", "pruned", "failed"]


class SearchSpace(Record):
    """What is searched around a recipe; whatever has one value stays."""

    start: Recipe
    learning_rates: tuple[float, float]  # lowest and highest, on a logarithmic scale
    ranks: tuple[int, ...]
    epochs: tuple[int, int]  # fewest and most
    use_rslora: tuple[bool, ...] = (False, True)
    dropouts: tuple[float, ...]

    def recipe(self, values: dict[str, Any]) -> Recipe:
        """The recipe of a point. Alpha is twice the rank, as ever, so that ranks differ in their rank alone."""
        changed = {**self.start.model_dump(), **values}
        if "rank" in values:
            changed["alpha"] = 2 * values["rank"]
        return Recipe.model_validate(changed)

    def values(self, recipe: Recipe) -> dict[str, Any]:
        """A recipe as a point: what of it is searched, by its names."""
        return {name: getattr(recipe, name) for name, among in self._free().items() if among}

    def ask(self, trial: Asked) -> dict[str, Any]:
        """Optuna's next point."""
        free = self._free()
        found: dict[str, Any] = {}
        if free["learning_rate"]:
            found["learning_rate"] = trial.suggest_float("learning_rate", *self.learning_rates, log=True)
        if free["rank"]:
            found["rank"] = trial.suggest_categorical("rank", self.ranks)
        if free["epochs"]:
            found["epochs"] = trial.suggest_int("epochs", *self.epochs)
        if free["use_rslora"]:
            found["use_rslora"] = trial.suggest_categorical("use_rslora", self.use_rslora)
        if free["dropout"]:
            found["dropout"] = trial.suggest_categorical("dropout", self.dropouts)
        return found

    def _free(self) -> dict[str, bool]:
        return {
            "learning_rate": self.learning_rates[0] < self.learning_rates[1], "rank": len(self.ranks) > 1,
            "epochs": self.epochs[0] < self.epochs[1], "use_rslora": len(self.use_rslora) > 1,
            "dropout": len(self.dropouts) > 1,
        }  # fmt: skip


class Trial(Record):
    """One trial: its recipe, what that changed of the professor's, and how it ended.

    `loss` is the lowest of its evaluations (nats a token of the answers), `last` the last one; None where there was
    none. `because` says why it was pruned or failed.
    """

    number: int  # from 0, which is the professor's own recipe
    values: dict[str, float | int | bool]
    recipe: Recipe
    state: State
    because: str = ""
    loss: float | None = None
    last: float | None = None
    seconds: float

    @property
    def words(self) -> str:
        """What it changed, for people."""
        return describe_values(self.recipe, self.values)


class TuningResult(Record):
    """A search that has ended. `recipe` is for all examples, but for the dev_share that a person gave."""

    key: str
    base: str  # digest
    dataset: str  # digest
    space: SearchSpace
    wanted: int  # trials
    minutes: float  # that it was given
    ended: Literal["trials", "minutes"]
    recipe: Recipe
    trials: tuple[Trial, ...]

    @property
    def own(self) -> float | None:
        """The dev loss of the professor's recipe; None where that one failed."""
        first = self.trials[0]
        return first.loss if first.state == "done" else None

    @property
    def best(self) -> Trial:
        """The trial whose recipe is used."""
        return best_trial(self.trials)

    @property
    def sentence(self) -> str:
        """What was found, beside the professor's recipe."""
        seconds = sum(trial.seconds for trial in self.trials)
        missing = f" of {self.wanted}, the time was over" if len(self.trials) < self.wanted else ""
        tried = f"{len(self.trials)} trial{'s' if len(self.trials) > 1 else ''}{missing}, {seconds / 60:.1f} min"
        own = f"{self.own:.4f}" if self.own is not None else "no loss, for it failed,"
        if self.best.number == 0:
            return f"{tried}: none was better than the professor's recipe (dev loss {own})"
        return f"{tried}: dev loss {own} with the professor's recipe, {self.best.loss:.4f} with {self.best.words}"

    @property
    def tags(self) -> dict[str, str]:
        """What the MLflow run of the training with its recipe is found by."""
        return {"academy.tuning": self.key, "academy.tuning.found": self.sentence}


def space_around(start: Recipe, fixed: Sequence[str] = ()) -> SearchSpace:
    """What is searched around the professor's recipe; the names in `fixed` stay. Dropout is searched where it is used.

    Raises InputError where nothing would be left to search.
    """
    refuse_fixed(fixed)
    rate, epochs, rank = start.learning_rate, start.epochs, start.rank
    return SearchSpace(
        start=start,
        learning_rates=(rate, rate) if "learning_rate" in fixed else (rate / 5, min(rate * 5, 1e-2)),
        ranks=(rank,) if "rank" in fixed else tuple(r for r in (rank // 2, rank, 2 * rank, 4 * rank) if 4 <= r <= 256),
        epochs=(epochs, epochs) if "epochs" in fixed else (max(1, epochs // 2), min(20, epochs + epochs // 2)),
        use_rslora=(start.use_rslora,) if "use_rslora" in fixed else (False, True),
        dropouts=(
            tuple(sorted({0.0, 0.05, 0.1} | {start.dropout}))
            if start.dropout and "dropout" not in fixed
            else (start.dropout,)
        ),
    )


def refuse_fixed(fixed: Sequence[str]) -> None:
    """Raises InputError where a person fixed all that would be searched."""
    if set(SEARCHED) <= set(fixed):
        raise InputError(
            "Rank, learning rate and epochs are all fixed, so there is nothing to search.",
            "Leave out --tune, or one of --rank, --learning-rate, --epochs and the settings or recipe's keys so named.",
        )


def refuse_few(space: SearchSpace, requests: Sequence[str], trials: int) -> None:
    """Raises InputError for a number of trials out of bounds, and for requests too few to be divided."""
    if not 1 <= trials <= MOST_TRIALS:
        raise InputError(
            f"A search of {trials} trials cannot be held.", f"Give --tune a number from 1 to {MOST_TRIALS}."
        )
    trial = trial_recipe(space.start)
    held = sum(trial.holds_back(request) for request in requests)
    if held < FEWEST_DEV or held == len(requests):
        raise InputError(
            f"{len(requests)} training examples are too few to search a recipe: {held} of them would be judged on, and "
            f"{FEWEST_DEV} are needed.",
            "Import more lessons, or train without --tune.",
        )


def trial_recipe(recipe: Recipe) -> Recipe:
    """A recipe as a trial carries it out."""
    return recipe.model_copy(update={"dev_share": DEV_SHARE})


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The lowest loss of the trials that came to their end; the earliest of equals."""
    return min(
        (trial for trial in trials if trial.state == "done"),
        key=lambda trial: (math.inf if trial.loss is None else trial.loss, trial.number),
    )


def describe_values(recipe: Recipe, values: dict[str, float | int | bool]) -> str:
    """A point in words, such as "learning rate 0.0031, rank 32, rsLoRA"."""
    if not values:
        return "the professor's recipe"
    said = {
        "learning_rate": f"learning rate {recipe.learning_rate:.2g}", "rank": f"rank {recipe.rank}",
        "epochs": f"{recipe.epochs} epochs", "use_rslora": "rsLoRA" if recipe.use_rslora else "plain LoRA",
        "dropout": f"dropout {recipe.dropout:g}",
    }  # fmt: skip
    return ", ".join(words for name, words in said.items() if name in values)
