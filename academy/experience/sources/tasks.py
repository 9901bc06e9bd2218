"""Tasks of the store as a source of experience."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import Reference, Skipped, SourceContext
from academy.experience.sources.lessons import stored_again


class TasksSource:
    """Active tasks in order of admission, failed ones too: the filters drop those with a reason."""

    name = "task"
    location = ""
    limited = True

    def __init__(self, store: LessonsStore) -> None:
        self.store = store

    def read(self) -> Iterator[Experience | Skipped]:
        """Active tasks."""
        return (task for task in self.store.read() if task.kind == "task")

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        """Tasks by id, whatever their standing now, in order of their numbers."""
        return (task for task in stored_again(self.store, references) if task.kind == "task")


def open_tasks(context: SourceContext) -> list[TasksSource]:
    """The tasks of a home."""
    return [TasksSource(context.store)]
