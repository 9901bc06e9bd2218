"""Lessons, conversations and files of the store as a source of experience."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import Reference, Skipped, SourceContext


class LessonsSource:
    """Active lessons in order of admission, with the tags if any are given; tasks are a source of their own."""

    name = "lesson"
    location = ""
    limited = True

    def __init__(self, store: LessonsStore, tags: Sequence[str] = ()) -> None:
        self.store = store
        self.tags = frozenset(tags)

    def read(self) -> Iterator[Experience | Skipped]:
        """Active lessons, conversations and files."""
        for lesson in self.store.read():
            if lesson.kind != "task" and (not self.tags or self.tags & set(lesson.tags)):
                yield lesson

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        """Lessons by id, whatever their standing now, in order of their numbers."""
        return (lesson for lesson in stored_again(self.store, references) if lesson.kind != "task")


def stored_again(store: LessonsStore, references: Sequence[Reference]) -> Iterator[Experience]:
    """Lessons and tasks of the store under the numbers of the references, in order of these."""
    present = store.by_id(reference.id for reference in references)
    lessons = [
        present[reference.id].model_copy(
            update={"seq": reference.seq or present[reference.id].seq, "trusted": reference.trusted}
        )
        for reference in references
        if reference.id in present
    ]
    return iter(sorted(lessons, key=lambda lesson: lesson.seq))


def open_lessons(context: SourceContext) -> list[LessonsSource]:
    """The lessons of a home."""
    return [LessonsSource(context.store)]
