"""Runs the trials of a search for a recipe, each judged on a development split of the training side.

    runs/tune-<key>/tuning.json   the result: all that remains of a finished search
                    trials.log    Optuna's journal, while trials are missing
                    <order>/      the running trial, removed when it ends
                    adapters/     where it publishes, removed as well

The hold-out is not used. The first trial is the professor's own recipe and always runs to its end, so the result is
never worse than that recipe on the development split. A search is identified by what decides it (base model, training
file, space, number of trials): repeated, it returns its result, and after a kill it continues with the trial that was
running. Trials are neither versions nor MLflow runs; the training with the chosen recipe carries the record.
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

from academy.errors import TrainingError
from academy.habitat.backends.base import TrainingEvent, TrainingOrder
from academy.habitat.runs import SEARCH
from academy.professor.recipe import Recipe
from academy.professor.search_space import (
    DEV_SHARE,
    SearchSpace,
    State,
    Trial,
    TuningResult,
    best_trial,
    trial_recipe,
)
from academy.records import canonical, digest_of
from academy.store.files import explain_disk_errors, write_file

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, TrialState
    from optuna.trial import Trial as OptunaTrial

log = logging.getLogger(__name__)
RECORD, JOURNAL, ADAPTERS = "tuning.json", "trials.log", "adapters"
WHOLE_TRIALS = 2
"""Trials that must finish before one may be pruned, since a median needs more than one value."""
PARTS = 6
"""Points of a training at which evaluations are compared; the trainer evaluates about as often."""
UNPRUNED_PARTS = 2
"""First parts in which no trial is pruned: the learning rate has hardly begun to fall."""
RECIPE_FAULTS = ("loss", "memory", "killed", "unknown")
"""Causes of a failure that lie in a trial's recipe. Any other cause would fail every trial, so it ends the search."""


TrialTrainer = Callable[[Recipe], Generator[TrainingEvent, None, None]]
"""Trains a recipe and yields its events; closing the generator ends the trainer."""


class Search(NamedTuple):
    """A search: the order with the professor's recipe, the space around that recipe, and the number of trials."""

    order: TrainingOrder
    space: SearchSpace
    trials: int

    @property
    def key(self) -> str:
        """Identifies the search by what decides its result. Its minutes do not: with more minutes it continues."""
        return digest_of({
            "base": self.order.base.digest, "train": self.order.train_digest, "dev_share": DEV_SHARE,
            "space": self.space.model_dump(mode="json"), "trials": self.trials,
        })  # fmt: skip

    @property
    def folder(self) -> Path:
        """The folder in which its trials run and its record stays."""
        return self.order.runs / f"{SEARCH}{self.key[:16]}"

    def earlier_result(self, minutes: float) -> TuningResult | None:
        """The result of an earlier run of this search that had all its trials, or at least as many minutes."""
        with suppress(OSError, ValidationError):
            result = TuningResult.model_validate_json((self.folder / RECORD).read_bytes())
            if result.key == self.key and (result.ended == "trials" or result.minutes >= minutes):
                return result
        return None


def run_trials(
    search: Search,
    train: TrialTrainer,
    dataset: str,
    minutes: float,
    clock: Callable[[], float] = time.monotonic,
) -> TuningResult:
    """Run the missing trials of a search and write its record; `clock` counts seconds.

    The caller makes sure that no other process runs this search. Raises TrainingError for a failure that does not lie
    in a trial's recipe, and if no trial ended with a loss.
    """
    folder = search.folder
    with explain_disk_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        study = _study(folder / JOURNAL)
        while True:
            trials = _finished(study, search)
            seconds = sum(trial.seconds for trial in trials)
            limit: Literal["trials", "minutes"] = "trials" if len(trials) >= search.trials else "minutes"
            if limit == "trials" or (trials and seconds >= 60 * minutes):
                break
            if not _run_trial(study, search, train, 60 * minutes - seconds, clock):
                break
            _remove_trials(folder)
        if not any(trial.state == "done" for trial in trials):
            _remove_trials(folder, JOURNAL)  # so that the next attempt starts over
            raise TrainingError(
                f"None of {len(trials)} trials ended with a loss. The first one: {trials[0].because}",
                "Train without --tune, or with a smaller --learning-rate or --rank.",
            )
        recipe = search.space.recipe(dict(best_trial(trials).values))
        result = TuningResult(
            key=search.key, base=search.order.base.digest, dataset=dataset, space=search.space, wanted=search.trials,
            minutes=minutes, ended=limit, recipe=recipe, trials=tuple(trials),
        )  # fmt: skip
        write_file(folder / RECORD, canonical(result))
        _remove_trials(folder, *([JOURNAL] if limit == "trials" else []))
    return result


def _run_trial(
    study: Study, search: Search, train: TrialTrainer, seconds_left: float, clock: Callable[[], float]
) -> bool:
    """Run the next trial, or the one that was running when the search was killed.

    False if its time ran out first: that trial does not count, and runs again when the search gets more minutes.
    """
    trial = _next_trial(study, search)
    recipe = trial_recipe(search.space.recipe(search.space.ask(trial)))
    start = clock()
    # the first trial is what the others are compared with: it may take all the time that it needs
    time_is_up = (lambda: clock() - start >= seconds_left) if trial.number else lambda: False
    losses: list[float] = []
    events = train(recipe)
    try:
        ending = _follow(study, trial, events, losses, time_is_up)
    except TrainingError as problem:
        if problem.cause not in RECIPE_FAULTS:
            raise
        ending = "failed", problem.message
    finally:
        events.close()
    if ending is None:
        log.info("trial %d was stopped: the time is up", trial.number + 1)
        return False
    state, because = ending
    attributes = {
        "recipe": recipe.model_dump(mode="json"), "because": because, "seconds": round(clock() - start, 1),
        "loss": min(losses, default=None), "last": losses[-1] if losses else None,
    }  # fmt: skip
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    optuna_state = {name: optuna_name for optuna_name, name in _states().items()}[state]
    study.tell(trial, min(losses) if state == "done" else None, optuna_state)
    _log_trial(_record(study.trials[trial.number], search), search.trials)
    return True


def _follow(
    study: Study,
    trial: OptunaTrial,
    events: Generator[TrainingEvent, None, None],
    losses: list[float],
    time_is_up: Callable[[], bool],
) -> tuple[State, str] | None:
    """Follow a trial and collect its losses. Returns its state and the reason; None if its time ran out.

    Raises TrainingError for a failure, with its cause.
    """
    reported_parts = set(study.trials[trial.number].intermediate_values)  # before a kill
    for event in events:
        if event.eval_loss is not None:
            losses.append(event.eval_loss)
            part = event.step * PARTS // max(1, event.steps)
            if part and part not in reported_parts:
                reported_parts.add(part)
                trial.report(event.eval_loss, part)
            if event.step < event.steps and trial.should_prune():
                return "pruned", f"at step {event.step} of {event.steps} it was worse than the median of the others"
        if event.phase == "failed":
            raise TrainingError(event.message, "Fix this and run the same command again.", event.cause)
        if event.phase == "done":
            return ("done", "") if losses else ("failed", "It was never evaluated.")
        if time_is_up():
            return None
    return "failed", "It ended without a result."


def _study(journal: Path) -> Study:
    """Optuna's study in its journal. The caller is the only one that runs this search."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if journal.is_file():
        # a killed search leaves a torn last line and a lock: Optuna reads nothing after the line, and waits half a
        # minute for the lock
        content = journal.read_bytes()
        os.truncate(journal, content.rfind(b"\n") + 1)
    for leftover in journal.parent.glob(f"{journal.name}.*"):
        leftover.unlink()
    return optuna.create_study(
        study_name="recipe",
        storage=JournalStorage(JournalFileBackend(str(journal))),
        direction="minimize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=WHOLE_TRIALS, n_warmup_steps=UNPRUNED_PARTS),
    )


def _next_trial(study: Study, search: Search) -> OptunaTrial:
    """The trial that was running before a kill, or a new one. The first is the professor's own recipe.

    Each trial has a sampler with its own seed, so a search that was killed asks for the same points again.
    """
    from optuna.samplers import TPESampler
    from optuna.trial import Trial as OptunaTrial
    from optuna.trial import TrialState

    trials = study.trials
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    number = running[0].number if running else sum(trial.state != TrialState.WAITING for trial in trials)
    study.sampler = TPESampler(
        multivariate=True,  # whether rsLoRA helps depends on the learning rate
        seed=(int(search.key[:8], 16) + number) % 2**32,
        n_startup_trials=min(10, max(2, search.trials // 3)),
    )
    if running:
        return OptunaTrial(study, running[0]._trial_id)
    if not trials:
        study.enqueue_trial(search.space.values(search.space.start))
    return study.ask()


def _finished(study: Study, search: Search) -> list[Trial]:
    """The trials that have ended, in their order."""
    return [_record(trial, search) for trial in study.trials if trial.state.is_finished()]


def _record(trial: FrozenTrial, search: Search) -> Trial:
    start = search.space.values(search.space.start)
    changes = {name: value for name, value in trial.params.items() if value != start[name]}
    return Trial(number=trial.number, values=changes, state=_states()[trial.state], **trial.user_attrs)


def _states() -> dict[TrialState, State]:
    """Optuna's names of how a trial ended, and ours."""
    from optuna.trial import TrialState

    return {TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def _log_trial(trial: Trial, total: int) -> None:
    ending = f"dev loss {trial.loss:.4f}" if trial.state == "done" else f"{trial.state}: {trial.because}"
    log.info("trial %d of %d (%s): %s", trial.number + 1, total, trial.words, ending)


def _remove_trials(folder: Path, *files: str) -> None:
    """Remove the folders of trials, and the named files. The record and the journal stay."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
    for name in files:
        (folder / name).unlink(missing_ok=True)
