"""`DatasetCurator`: curation step by step under the method names of the seed documents (loop/curate_by_steps.py)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from academy.experience.lessons import LessonsStore
from academy.loop.curate_by_steps import CurationSteps


class DatasetCurator:
    """Collects experience, filters it, and saves the dataset. It follows the settings, as `academy curate` does."""

    def __init__(self, lessons_store: LessonsStore | None = None, home: Path | None = None) -> None:
        """The curator of a store of lessons, by default the store of the home."""
        self.steps = CurationSteps(lessons_store, home)

    def collect_from_lessons(self, limit: int | None = None, tags: Sequence[str] = ()) -> int:
        """Collect the newest lessons, with `tags` only those that have one of them. Returns how many."""
        return self.steps.collect_lessons(limit, tags)

    def collect_from_task_history(self, max_tasks: int | None = None) -> int:
        """Collect the newest tasks. Returns how many."""
        return self.steps.collect_tasks(max_tasks)

    def collect_from_git_history(self, repo_path: str | Path | None = None, max_commits: int | None = None) -> int:
        """Collect the newest commits of a repository. Returns how many can be learned from.

        Without `repo_path`, the repository of WORKSPACE_ROOT is read; outside a repository nothing is collected.
        Raises InputError for a `repo_path` that is not a git repository.
        """
        return self.steps.collect_commits(repo_path, max_commits)

    def filter_low_quality(self) -> int:
        """Drop what must not be learned, duplicates, and what is over the quotas. Returns how many were dropped."""
        return self.steps.filter()

    def save_dataset(self, format: str = "openai", output_path: str | Path | None = None) -> Path:  # noqa: A002  the seed documents' name
        """Save the examples to train on as one JSONL file; returns it.

        `format` is alpaca, sharegpt, chatml or openai. Without `output_path` the file is
        training/dataset_<time>.jsonl in the home. Some examples are held out for examinations and not in the file.
        """
        return self.steps.save(format, output_path)

    def get_statistics(self) -> dict[str, Any]:
        """Numbers of examples by their result, and average lengths in characters.

        After `save_dataset`, total_examples is the number of lines in the file.
        """
        return self.steps.statistics()
