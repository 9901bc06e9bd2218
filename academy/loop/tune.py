"""The search for a recipe: trials of a training, judged on a development split of its training side.

    runs/tune-<key>/tuning.json   what was tried and found: all that is left of a search that has ended
                    trials.log    Optuna's journal, while trials are missing
                    <order>/      the trial under way; it publishes into runs/tune-<key>/adapters, and both go with it

The hold-out is never looked at. The professor's own recipe is the first trial and is always tried to its end, so what
is found is never worse than that one on the development split. A search is known by what decides it (base model,
training file, space, number of trials): asked again it gives what it found, and one that was killed goes on with the
trial that it was in. Trials are no versions and no MLflow runs; the training with the found recipe carries the record.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import ValidationError

from academy.curriculum.dataset import Dataset, read_rows
from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.backends.choice import create_backend
from academy.habitat.runs import SEARCH
from academy.loop.home import Home
from academy.loop.placement import place
from academy.professor.recipe import Recipe
from academy.professor.search_space import (
    DEV_SHARE,
    SearchSpace,
    State,
    Trial,
    TuningResult,
    best_trial,
    refuse_few,
    trial_recipe,
)
from academy.records import canonical, digest_of
from academy.store.files import explain_disk_errors, write_file
from academy.store.locks import exclusive_lock

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, TrialState
    from optuna.trial import Trial as Asked

log = logging.getLogger("academy")
RECORD, JOURNAL, ADAPTERS = "tuning.json", "trials.log", "adapters"
WHOLE_TRIALS = 2
"""Trials that come to their end before one may be pruned: the median of one is no median."""
PARTS = 6
"""Evaluations are compared at so many points of a training; the trainer evaluates about as often."""
SPARED = 2
"""Parts in which no trial is pruned: the learning rate has hardly begun to fall."""
OWN_FAULTS = ("loss", "memory", "killed", "unknown")
"""Causes of a failure that lie in a trial's recipe. Any other would end every trial, and ends the search."""


CarryOut = Callable[[Recipe], Generator[TrainingEvent, None, None]]
"""Trains a recipe and tells its events; closing it ends the trainer."""


class Search(NamedTuple):
    """What is to be searched: the order with the professor's recipe, the space around that, and how many trials."""

    order: TrainingOrder
    space: SearchSpace
    trials: int

    @property
    def key(self) -> str:
        """Names the search by what decides its result. Its minutes do not: with more of them it goes on."""
        return digest_of({
            "base": self.order.base.digest, "train": self.order.train_digest, "dev_share": DEV_SHARE,
            "space": self.space.model_dump(mode="json"), "trials": self.trials,
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        """Where its trials run and its record stays."""
        return self.order.runs / f"{SEARCH}{self.key[:16]}"

    def kept(self, minutes: float) -> TuningResult | None:
        """What an earlier search found that had all its trials, or as many minutes."""
        with suppress(OSError, ValidationError):
            found = TuningResult.model_validate_json((self.folder / RECORD).read_bytes())
            if found.key == self.key and (found.ended == "trials" or found.minutes >= minutes):
                return found
        return None


def tune(home: Home, search: Search, dataset: Dataset, minutes: float) -> TuningResult:
    """Hold a search in this home, or give what it found before.

    Raises InputError where it cannot be held, HomeError where another one runs in this home, and TrainingError where
    something is wrong that is no trial's own fault, or where no trial ended with a loss.
    """
    requests = [row["messages"][-2]["content"] for row in read_rows(dataset.train_file)]
    refuse_few(search.space, requests, search.trials)
    with exclusive_lock(home.settings.folder("locks") / "tune", "Another search for a recipe is running in this home."):
        if found := search.kept(minutes):
            log.info("this search was held before: %s", found.sentence)
            return found

        def carry_out(recipe: Recipe) -> Generator[TrainingEvent, None, None]:
            # a trial has no ladder: that memory ran out would be taken for the recipe's fault
            placed = place(home, recipe, dataset.longest, cautious=True)
            placed.require()
            order = search.order.model_copy(
                update={
                    "recipe": placed.recipe, "plan": placed.plan, "changes": placed.changes,
                    "runs": search.folder, "adapters": search.folder / ADAPTERS,
                }
            )  # fmt: skip
            yield from create_backend(home.settings, placed.route).train(order)

        log.info("searching a recipe: %d trials, %g minutes at most", search.trials, minutes)
        found = hold(search, carry_out, dataset.digest, minutes)
        log.info("%s", found.sentence)
        return found


def hold(
    search: Search,
    carry_out: CarryOut,
    dataset: str,
    minutes: float,
    clock: Callable[[], float] = time.monotonic,
) -> TuningResult:
    """Hold a search, from wherever it stands, and keep its record.

    `clock` tells seconds. The caller sees to it that nobody else holds this search. Raises as `tune` does.
    """
    folder = search.folder
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        study = _study(folder / JOURNAL)
        while True:
            told = _told(study, search)
            spent = sum(trial.seconds for trial in told)
            ended: Literal["trials", "minutes"] = "trials" if len(told) >= search.trials else "minutes"
            if ended == "trials" or (told and spent >= 60 * minutes):
                break
            if not _one_trial(study, search, carry_out, 60 * minutes - spent, clock):
                break
            _remove_trials(folder)
        if not any(trial.state == "done" for trial in told):
            _remove_trials(folder, JOURNAL)  # so that another attempt begins anew
            raise TrainingError(
                f"None of {len(told)} trials ended with a loss; the first: {told[0].because}",
                "Train without --tune, or with a smaller --learning-rate or --rank.",
            )
        chosen = search.space.recipe(dict(best_trial(told).values))
        found = TuningResult(
            key=search.key, base=search.order.base.digest, dataset=dataset, space=search.space, wanted=search.trials,
            minutes=minutes, ended=ended, recipe=chosen, trials=tuple(told),
        )  # fmt: skip
        write_file(folder / RECORD, canonical(found))
        _remove_trials(folder, *([JOURNAL] if ended == "trials" else []))
    return found


def _one_trial(
    study: Study, search: Search, carry_out: CarryOut, seconds_left: float, clock: Callable[[], float]
) -> bool:
    """Carry out the next trial, or the one that was under way when a search was killed.

    False where the time was over first: that trial is not counted, and comes again where a search gets more minutes.
    """
    asked = _next(study, search)
    recipe = trial_recipe(search.space.recipe(search.space.ask(asked)))
    began = clock()
    # the first is what the others are compared with: it has all the time that it takes
    over = (lambda: clock() - began >= seconds_left) if asked.number else lambda: False
    losses: list[float] = []
    events = carry_out(recipe)
    try:
        ending = _watch(study, asked, events, losses, over)
    except TrainingError as problem:
        if problem.cause not in OWN_FAULTS:
            raise
        ending = "failed", problem.message
    finally:
        events.close()
    if ending is None:
        log.info("trial %d was broken off: the time is over", asked.number + 1)
        return False
    state, because = ending
    notes = {
        "recipe": recipe.model_dump(mode="json"), "because": because, "seconds": round(clock() - began, 1),
        "loss": min(losses, default=None), "last": losses[-1] if losses else None,
    }  # fmt: skip
    for name, value in notes.items():
        asked.set_user_attr(name, value)
    study.tell(asked, min(losses) if state == "done" else None, {named: one for one, named in _states().items()}[state])
    _tell(_record(study.trials[asked.number], search), search.trials)
    return True


def _watch(
    study: Study,
    asked: Asked,
    events: Generator[TrainingEvent, None, None],
    losses: list[float],
    over: Callable[[], bool],
) -> tuple[State, str] | None:
    """Follow a trial, gather its losses, and say how it ended and why; None where the time was over.

    Raises TrainingError for what went wrong, with its cause.
    """
    reported = set(study.trials[asked.number].intermediate_values)  # before a kill
    for event in events:
        if event.eval_loss is not None:
            losses.append(event.eval_loss)
            part = event.step * PARTS // max(1, event.steps)
            if part and part not in reported:
                reported.add(part)
                asked.report(event.eval_loss, part)
            if event.step < event.steps and asked.should_prune():
                return "pruned", f"at step {event.step} of {event.steps} it was worse than the median of the others"
        if event.phase == "failed":
            raise TrainingError(event.message, "Mend it and run the same command again.", event.cause)
        if event.phase == "done":
            return ("done", "") if losses else ("failed", "It was never evaluated.")
        if over():
            return None
    return "failed", "It ended without a word."


def _study(journal: Path) -> Study:
    """Optuna's study in its journal, as far as it was written. The caller holds the search."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if journal.is_file():
        # a killed search leaves a torn last line and a lock: Optuna reads no line behind the first, and waits for
        # half a minute for the second
        whole = journal.read_bytes()
        os.truncate(journal, whole.rfind(b"\n") + 1)
    for left in journal.parent.glob(f"{journal.name}.*"):
        left.unlink()
    return optuna.create_study(
        study_name="recipe",
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction="minimize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WHOLE_TRIALS, n_warmup_steps=SPARED),
    )


def _next(study: Study, search: Search) -> Asked:
    """The trial that was under way, or a new one. The first is the professor's own recipe.

    Each trial has a sampler of its own seed: a search that was killed in between asks for the same points.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import Trial as Asked
    from optuna.trial import TrialState

    known = study.trials
    under_way = [trial for trial in known if trial.state == TrialState.RUNNING]
    number = under_way[0].number if under_way else sum(trial.state != TrialState.WAITING for trial in known)
    study.sampler = TPESampler(
        multivariate=True,  # what rsLoRA is good for hangs on the learning rate
        seed=(int(search.key[:8], 16) + number) % 2**32,
        n_startup_trials=min(10, max(2, search.trials // 3)),
    )
    if under_way:
        return Asked(study, under_way[0]._trial_id)
    if not known:
        study.enqueue_trial(search.space.values(search.space.start))
    return study.ask()


def _told(study: Study, search: Search) -> list[Trial]:
    """The trials that have ended, in their order."""
    return [_record(trial, search) for trial in study.trials if trial.state.is_finished()]


def _record(trial: FrozenTrial, search: Search) -> Trial:
    started = search.space.values(search.space.start)
    notes = trial.user_attrs
    changed = {name: value for name, value in trial.params.items() if value != started[name]}
    return Trial(number=trial.number, values=changed, state=_states()[trial.state], **notes)


def _states() -> dict[TrialState, State]:
    """How Optuna calls what became of a trial."""
    from optuna.trial import TrialState

    return {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def _tell(trial: Trial, wanted: int) -> None:
    ended = f"dev loss {trial.loss:.4f}" if trial.state == "done" else f"{trial.state}: {trial.because}"
    log.info("trial %d of %d (%s): %s", trial.number + 1, wanted, trial.words, ended)


def _remove_trials(folder: Path, *more: str) -> None:
    """Everything of trials but the record and the journal; and what else is named."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    for name in more:
        (folder / name).unlink(missing_ok=True)
