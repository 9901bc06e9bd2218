"""Supervises learning in words: prepare a dataset, train on it, report the progress, evaluate the adapter.

Each request is one of four, in English or Polish, and the answer is a sentence. A problem is an answer, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from academy.errors import AcademyError, InputError
from academy.genealogy.versions import Version
from academy.loop.carry_out import carry_out
from academy.loop.choose_recipe import choose_recipe
from academy.loop.curate_by_steps import CurationSteps
from academy.loop.datasets import newest_dataset
from academy.loop.decide import decide
from academy.loop.examine_player import examine_player
from academy.loop.named_versions import version_of_job
from academy.loop.not_counted import main_reasons
from academy.loop.summaries import DecisionSummary
from academy.loop.train import require_enough_examples
from academy.loop.training_jobs import TrainingJobs
from academy.loop.trainings import list_trainings
from academy.professor.recipe_options import RecipeOptions

EXAMPLES = "prepare learning materials, start training, check training progress, evaluate model"


class Supervision:
    """The requests of one caller. They are carried out one after the other."""

    def __init__(self, steps: CurationSteps, jobs: TrainingJobs, *, by: str) -> None:
        self.home = steps.home
        self.steps = steps
        self.jobs = jobs
        self.by = by
        self._one_at_a_time = threading.Lock()
        # the first that has a word of the request: "check training progress" is not a request to train
        self._actions: tuple[tuple[tuple[str, ...], Callable[[], str]], ...] = (
            (("progress", "status", "check", "sprawd", "postęp", "postep"), self._progress),
            (("evaluat", "assess", "examin", "oceń", "ocen"), self._evaluate),
            (("prepare", "dataset", "material", "curate", "przygotuj", "generuj"), self._prepare),
            (("train", "trening", "trenuj", "start", "rozpocznij"), self._train),
        )

    def decision(self) -> dict[str, Any]:
        """Whether training pays now, as `academy decide` says it."""
        summary = DecisionSummary.of(decide(self.home, force=False))
        return {
            "should_train": summary.train,
            "reason": summary.because,
            "reasons": [reason.model_dump() for reason in summary.reasons],
        }

    def answer(self, request: str) -> str:
        """Carry out a request in words and return the result of it."""
        words = str(request or "").lower()
        for marks, action in self._actions:
            if any(mark in words for mark in marks):
                with self._one_at_a_time:
                    try:
                        return action()
                    except AcademyError as problem:
                        return str(problem)
        return f"This request is not known. Say one of: {EXAMPLES}."

    def _prepare(self) -> str:
        self.steps.collect_lessons(None, ())
        self.steps.collect_tasks(None)
        self.steps.collect_commits(None, None)
        self.steps.filter()
        file = self.steps.save("openai")
        dataset = newest_dataset(self.home, self.steps.digest)
        dropped = main_reasons(dataset.funnel)
        return (
            f"Dataset saved: {file}. {dataset.examples:,} examples, {dataset.holdout:,} held out for examinations"
            f"{f'; dropped: {dropped}' if dropped else ''}."
        )

    def _train(self) -> str:
        dataset = newest_dataset(self.home, self.steps.digest)
        require_enough_examples(dataset)
        recipe = choose_recipe(self.home, dataset, RecipeOptions())
        job = self.jobs.start_recipe(self.home, Path(dataset.train_file), recipe)
        return (
            f"Training started: {job['job_name']} on the {job['device'].upper()}, {dataset.examples:,} examples, "
            f"rank {recipe.rank}, {recipe.epochs} epochs."
        )

    def _progress(self) -> str:
        trainings = list_trainings(self.home.settings)
        if not trainings:
            return "No training was started yet."
        newest = trainings[0].progress
        name = trainings[0].job or trainings[0].run
        loss = "" if newest.loss is None else f", loss {newest.loss:.4f}"
        problem = f" {newest.error}" if newest.error else ""
        return f"{name} is {newest.status}: step {newest.step} of {newest.steps}{loss}.{problem}"

    def _evaluate(self) -> str:
        version = self._newest_version()
        examination = examine_player(self.home, version.version, None)
        verdict = examination.verdict
        words = f"{version.name} ({version.label or version.order[:12]}): {verdict['outcome']}. {verdict['because']}"
        if examination.row is None:
            return words
        outcome = carry_out(self.home, version, examination.row, by=self.by)
        if outcome.waiting:
            return f"{words} It waits for approval: academy approve {version.name}"
        return f"{words} It is the champion now." if outcome.promoted else words

    def _newest_version(self) -> Version:
        """The version of the newest finished training; it is registered if it is not yet."""
        for training in list_trainings(self.home.settings):
            if training.progress.status == "finished" and training.job:
                return version_of_job(self.home, training.job)
        raise InputError("No training has finished yet, so there is no model to evaluate.", "Start a training first.")
