"""Curates in single steps, as a Python program does it: collect, filter, save, count.

The steps follow the same settings as `academy curate`: trusted authors, quotas, the hold-out and guarded suites.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from academy.curriculum.dataset import Dataset, read_rows, shown_texts
from academy.curriculum.statistics import removals
from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import ExperienceSource
from academy.experience.sources.commits import CommitsSource
from academy.experience.sources.lessons import LessonsSource
from academy.experience.sources.tasks import TasksSource
from academy.loop.curate import open_curator
from academy.loop.home import Home
from academy.loop.ingest import choose_repositories
from academy.loop.not_counted import main_reasons
from academy.models.formats import FORMATS
from academy.settings import load_settings
from academy.store.files import STAGING, explain_disk_errors

log = logging.getLogger(__name__)
FOLDER = "training"
"""The folder of the home with the files that Python programs saved."""


class CurationSteps:
    """One dataset in the making. Every step may be repeated; nothing is collected or counted twice."""

    def __init__(self, store: LessonsStore | None = None, home: Path | None = None) -> None:
        settings = load_settings(home)
        if store is not None:  # its database has the hold-out and the ledger, too
            settings = settings.model_copy(update={"database_url": store.database.url})
        self.home = Home(settings)
        self._curator = open_curator(self.home)
        self._read_until: dict[str, int] = {}
        self._filtered = False
        self._dataset: Dataset | None = None

    @property
    def digest(self) -> str | None:
        """The digest of the dataset that `save` wrote last; None before."""
        return self._dataset.digest if self._dataset else None

    def collect_lessons(self, limit: int | None, tags: Sequence[str]) -> int:
        """Collect active lessons of any kind but tasks. Returns how many are new in this curation."""
        return self._collect(LessonsSource(self.home.store, tags), _checked("limit", limit))

    def collect_tasks(self, limit: int | None) -> int:
        """Collect active tasks. Returns how many are new in this curation."""
        return self._collect(TasksSource(self.home.store), _checked("max_tasks", limit))

    def collect_commits(self, repository: str | Path | None, limit: int | None) -> int:
        """Collect commits of a repository, or of the workspace if it is one.

        Raises InputError for a repository that was named and is none.
        """
        paths = [Path(repository).expanduser()] if repository is not None else []
        limit = _checked("max_commits", limit)
        count = 0
        for path in choose_repositories(paths, self.home.settings.workspace_root):
            source = CommitsSource(
                path,
                self.home.settings.git_commits_limit if limit is None else limit,
                trusted=self.home.settings.trusted_authors,
                cache=self.home.settings.folder("git"),
            )
            count += self._collect(source, None)
        return count

    def filter(self) -> int:
        """Drop what must not be learned, duplicates, and what is over the quotas. Returns how many were dropped."""
        self._dataset, self._filtered = None, True
        return self._curator.filter_low_quality()

    def save(self, form: str, output: str | Path | None = None) -> Path:
        """Write the dataset, and its training side as one file in this format. Returns the file.

        Without `output` the file is training/dataset_<time>.jsonl in the home. What was not filtered yet is filtered
        first. Raises InputError for an unknown format, and for a place that cannot be written.
        """
        if form not in FORMATS:
            raise InputError(f"Unknown format {form}.", f"Choose one of {', '.join(FORMATS)}.")
        if not self._filtered:
            self.filter()
        dataset = self._curator.save(self.home.datasets, self.home.holdout)
        source = dataset.train_file if form == "openai" else dataset.export(form)
        if output is None:
            time = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
            file = _link(source, self.home.settings.folder(FOLDER), f"dataset_{time}")
        else:
            file = _copy(source, Path(output).expanduser().absolute())
        self._dataset = dataset
        if not dataset.examples:
            reasons = main_reasons(dataset.funnel)
            log.warning("%s has no examples%s", file, f": {reasons}" if reasons else "")
        return file

    def statistics(self) -> dict[str, Any]:
        """Numbers of examples and average lengths in characters.

        After `save` the examples are the lines of the file; before it, what was collected and not dropped.
        """
        funnel = self._curator.funnel
        removed = removals(funnel, [name.removeprefix("collected: ") for name in funnel if name[:11] == "collected: "])
        if self._dataset is not None:
            pairs = [shown_texts(row) for row in read_rows(self._dataset.train_file)]
        else:
            pairs = [(experience.request, experience.words) for experience in self._curator.remaining]
        return {
            "total_examples": len(pairs),
            "lessons_collected": funnel["collected: lesson"],
            "tasks_collected": funnel["collected: task"],
            "git_commits_collected": funnel["collected: commit"],
            "removed_low_quality": removed.low_quality,
            "removed_duplicates": removed.merged,
            "removed_over_limits": removed.over_limits,
            "removed_not_successful": removed.unsuccessful,
            "removed_for_examination": removed.examined,
            "held_out": funnel["held out"],
            "skipped_by_source": removed.skipped,
            "removed_by_reason": removed.reasons,
            "avg_input_length": round(fmean(len(request) for request, _ in pairs)) if pairs else 0,
            "avg_output_length": round(fmean(len(answer) for _, answer in pairs)) if pairs else 0,
        }

    def _collect(self, source: ExperienceSource, limit: int | None) -> int:
        self._dataset, self._filtered = None, False
        if limit == 0:
            return 0
        if source.limited:  # lessons that came after an earlier step are read now
            self._curator.cursor = self._read_until[source.name] = self.home.store.newest()
        count = self._curator.collect(source, limit)
        # the dataset's cursor: everything up to it was read
        self._curator.cursor = min(self._read_until.values(), default=self._curator.cursor)
        return count


def _checked(name: str, limit: int | None) -> int | None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InputError(f"{name} is {limit!r}; it must be a whole number (minimum 0).", f"Correct {name}.")
    return limit


def _link(source: Path, folder: Path, name: str) -> Path:
    """A second name of a file, with `_2` and so on where the name is taken; a copy on another disk."""
    with explain_disk_errors(folder), tempfile.TemporaryDirectory(dir=folder, prefix=STAGING) as staging:
        copy = Path(staging) / source.name
        try:
            copy.hardlink_to(source)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, copy)
        number = 1
        while True:
            place = folder / f"{name}{'' if number == 1 else f'_{number}'}.jsonl"
            with suppress(FileExistsError):
                place.hardlink_to(copy)
                return place
            number += 1


def _copy(source: Path, place: Path) -> Path:
    if place.is_dir():
        raise InputError(f"{place} is a folder.", "Give the name of a file.")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging = place.with_name(f"{STAGING}{os.getpid()}-{place.name}")
        shutil.copyfile(source, staging)
        staging.replace(place)
    except OSError as problem:
        raise InputError(f"{place} cannot be written ({problem.strerror}).", "Choose another file.") from problem
    return place
