"""The trainings of a home: which there are, how they progress, their logs, and how to cancel one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from academy.habitat import runs
from academy.habitat.job_names import job_name, job_names
from academy.habitat.progress import LogLine, Progress, iso
from academy.habitat.run_folder import LOG, ORDER
from academy.records import Record
from academy.settings import Settings

VERSION = re.compile(r"v\d{1,18}", re.ASCII)


class Training(Record):
    """A training: the name of its run (the first digits of its order's digest), its folder, and its progress.

    `job` is its job's name, `training_<time>`; empty for a training from before there were names, and for a trial.
    """

    run: str
    job: str
    folder: Path
    progress: Progress

    @property
    def order_file(self) -> Path:
        """The order, as JSON."""
        return self.folder / ORDER

    @property
    def output_file(self) -> Path:
        """What the trainer printed."""
        return self.folder / LOG

    @property
    def last_event_at(self) -> str:
        """The time of the last event (ISO 8601, UTC); empty where there is none."""
        return iso(self.progress.told) if self.progress.told is not None else ""


def list_trainings(settings: Settings) -> list[Training]:
    """All trainings of a home, newest first."""
    folder = settings.folder("runs")
    names = job_names(folder)
    return [
        Training(run=run, job=names.get(run, ""), folder=folder / run, progress=progress)
        for run, progress in runs.all_runs(folder, settings.price_per_hour)
    ]


def training(settings: Settings, name: str) -> Training:
    """One training, by its order's digest, its job's name, or a version that was made in it. Raises InputError."""
    folder = _find(settings, name)
    return _training(folder, runs.run_progress(folder, settings.price_per_hour))


def training_log(settings: Settings, name: str, *, follow: bool) -> tuple[str, Iterator[LogLine]]:
    """The name of a run and its events in words; with `follow` as they come, until the training ends."""
    folder = _find(settings, name)
    return folder.name, runs.run_log(folder, follow=follow)


def cancel_training(settings: Settings, name: str) -> Training:
    """End a training that any process of this home runs; its last checkpoint stays. Raises InputError."""
    folder = _find(settings, name)
    return _training(folder, runs.cancel_run(folder, settings.price_per_hour))


def _training(folder: Path, progress: Progress) -> Training:
    return Training(run=folder.name, job=job_name(folder.parent, folder.name), folder=folder, progress=progress)


def _find(settings: Settings, name: str) -> Path:
    if VERSION.fullmatch(name):
        from academy.loop.home import Home

        name = Home.open().versions.get(name).order
    return runs.find_run(settings.folder("runs"), name)
