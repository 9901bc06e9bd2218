"""Records of a search for a recipe: the space around a recipe, the trials, and the result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from academy.errors import InputError
from academy.professor.recipe import Recipe
from academy.records import Record

if TYPE_CHECKING:
    from optuna.trial import Trial as OptunaTrial

DEV_SHARE = 0.15
"""Share of the requests of the training side that a trial is evaluated on."""
MIN_DEV_EXAMPLES = 10
"""Fewest examples to evaluate on; with fewer a difference means nothing."""
MAX_TRIALS = 500
SEARCHED = ("rank", "learning_rate", "epochs")
"""Searched fields that a user can fix."""
State = Literal["done", "pruned", "failed"]


class SearchSpace(Record):
    """The values to search around a recipe. A field with a single value is not searched."""

    start: Recipe
    learning_rates: tuple[float, float]  # lowest and highest, on a logarithmic scale
    ranks: tuple[int, ...]
    epochs: tuple[int, int]  # lowest and highest
    use_rslora: tuple[bool, ...] = (False, True)
    dropouts: tuple[float, ...]

    def recipe(self, values: dict[str, Any]) -> Recipe:
        """The recipe of a point. Alpha is always twice the rank, so that the scale stays the same."""
        fields = {**self.start.model_dump(), **values}
        if "rank" in values:
            fields["alpha"] = 2 * values["rank"]
        return Recipe.model_validate(fields)

    def values(self, recipe: Recipe) -> dict[str, Any]:
        """A recipe as a point: the values of the searched fields."""
        return {name: getattr(recipe, name) for name, is_free in self._free().items() if is_free}

    def ask(self, trial: OptunaTrial) -> dict[str, Any]:
        """The next point from Optuna."""
        is_free = self._free()
        point: dict[str, Any] = {}
        if is_free["learning_rate"]:
            point["learning_rate"] = trial.suggest_float("learning_rate", *self.learning_rates, log=True)
        if is_free["rank"]:
            point["rank"] = trial.suggest_categorical("rank", self.ranks)
        if is_free["epochs"]:
            point["epochs"] = trial.suggest_int("epochs", *self.epochs)
        if is_free["use_rslora"]:
            point["use_rslora"] = trial.suggest_categorical("use_rslora", self.use_rslora)
        if is_free["dropout"]:
            point["dropout"] = trial.suggest_categorical("dropout", self.dropouts)
        return point

    def _free(self) -> dict[str, bool]:
        return {
            "learning_rate": self.learning_rates[0] < self.learning_rates[1], "rank": len(self.ranks) > 1,
            "epochs": self.epochs[0] < self.epochs[1], "use_rslora": len(self.use_rslora) > 1,
            "dropout": len(self.dropouts) > 1,
        }  # fmt: skip


class Trial(Record):
    """A trial: its recipe, the values that differ from the professor's recipe, and how it ended.

    `loss` is the lowest of its evaluations (nats per answer token), `last` the last one; None without an evaluation.
    `because` is the reason why it was pruned or failed.
    """

    number: int  # 0 is the professor's recipe
    values: dict[str, float | int | bool]
    recipe: Recipe
    state: State
    because: str = ""
    loss: float | None = None
    last: float | None = None
    seconds: float

    @property
    def words(self) -> str:
        """The changed values in words."""
        return describe_values(self.recipe, self.values)


class TuningResult(Record):
    """The result of a search. `recipe` trains on all examples except the dev_share that the user set."""

    key: str
    base: str  # digest
    dataset: str  # digest
    space: SearchSpace
    wanted: int  # trials
    minutes: float  # time limit
    ended: Literal["trials", "minutes"]
    recipe: Recipe
    trials: tuple[Trial, ...]

    @property
    def professor_loss(self) -> float | None:
        """The dev loss of the professor's recipe; None if that trial failed."""
        first = self.trials[0]
        return first.loss if first.state == "done" else None

    @property
    def best(self) -> Trial:
        """The trial with the best recipe."""
        return best_trial(self.trials)

    @property
    def sentence(self) -> str:
        """The result compared with the professor's recipe."""
        seconds = sum(trial.seconds for trial in self.trials)
        missing = f" of {self.wanted} (time limit reached)" if len(self.trials) < self.wanted else ""
        trials = f"{len(self.trials)} trial{'s' if len(self.trials) > 1 else ''}{missing}, {seconds / 60:.1f} min"
        loss = f"dev loss {self.professor_loss:.4f}" if self.professor_loss is not None else "no dev loss (it failed)"
        if self.best.number == 0:
            return f"{trials}: none was better than the professor's recipe ({loss})"
        return f"{trials}: {loss} with the professor's recipe, {self.best.loss:.4f} with {self.best.words}"

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the MLflow run that trains with the recipe."""
        return {"academy.tuning": self.key, "academy.tuning.found": self.sentence}


def space_around(start: Recipe, fixed: Sequence[str] = ()) -> SearchSpace:
    """The space around the professor's recipe, without the fields in `fixed`. Dropout is searched only if it is in use.

    Raises InputError if there is nothing to search.
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
    """Raises InputError if the user fixed every searched field."""
    if set(SEARCHED) <= set(fixed):
        raise InputError(
            "Rank, learning rate and epochs are all fixed, so there is nothing to search.",
            "Omit --tune, or one of --rank, --learning-rate, --epochs (settings and recipe fields count, too).",
        )


def refuse_few(space: SearchSpace, requests: Sequence[str], trials: int) -> None:
    """Raises InputError if the number of trials is out of bounds or there are too few requests to divide."""
    if not 1 <= trials <= MAX_TRIALS:
        raise InputError(f"A search cannot have {trials} trials.", f"Set --tune to a number from 1 to {MAX_TRIALS}.")
    trial = trial_recipe(space.start)
    dev_examples = sum(trial.holds_back(request) for request in requests)
    if dev_examples < MIN_DEV_EXAMPLES or dev_examples == len(requests):
        raise InputError(
            f"{len(requests)} training examples are too few to search a recipe: {dev_examples} of them would be "
            f"evaluated on (minimum {MIN_DEV_EXAMPLES}), and others must remain to train on.",
            "Import more lessons, or train without --tune.",
        )


def trial_recipe(recipe: Recipe) -> Recipe:
    """A recipe as a trial trains it: with a development split."""
    return recipe.model_copy(update={"dev_share": DEV_SHARE})


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The completed trial with the lowest loss; the earliest of equals."""
    return min(
        (trial for trial in trials if trial.state == "done"),
        key=lambda trial: (math.inf if trial.loss is None else trial.loss, trial.number),
    )


def describe_values(recipe: Recipe, values: dict[str, float | int | bool]) -> str:
    """The values of a point in words, such as "learning rate 0.0031, rank 32, rsLoRA"."""
    if not values:
        return "the professor's recipe"
    phrases = {
        "learning_rate": f"learning rate {recipe.learning_rate:.2g}", "rank": f"rank {recipe.rank}",
        "epochs": f"{recipe.epochs} epochs", "use_rslora": "rsLoRA" if recipe.use_rslora else "plain LoRA",
        "dropout": f"dropout {recipe.dropout:g}",
    }  # fmt: skip
    return ", ".join(phrase for name, phrase in phrases.items() if name in values)
