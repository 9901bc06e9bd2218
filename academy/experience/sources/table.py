"""Finds sources by name: ours, and those that installed packages add (entry points of the group academy.sources)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from academy.errors import AcademyError, InputError
from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import ExperienceSource, Reference, Skipped, SourceContext
from academy.experience.sources.tagged import TaggedSource
from academy.system.plugins import load_plugin

SOURCES = {
    "lesson": "academy.experience.sources.lessons:open_lessons",
    "task": "academy.experience.sources.tasks:open_tasks",
    "commit": "academy.experience.sources.commits:open_commits",
}
"""Our sources: name -> the function that opens them."""
LONGEST_PROBLEM = 200

OpenSources = Callable[[SourceContext], Sequence[ExperienceSource]]


class OutsideSource:
    """A source of an installed package. Whatever it raises, and whatever else it gives, is an InputError."""

    def __init__(self, source: ExperienceSource) -> None:
        self._source = source
        self.name, self.location, self.limited = source.name, source.location, source.limited

    def read(self) -> Iterator[Experience | Skipped]:
        """As the source itself."""
        return self._checked(self._source.read)

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        """As the source itself."""
        return self._checked(lambda: self._source.read_again(references))

    def _checked(self, read: Callable[[], Iterator[Experience | Skipped]]) -> Iterator[Experience | Skipped]:
        with _blamed(self.name):
            for item in read():
                if not isinstance(item, Experience | Skipped):
                    raise TypeError(f"it gave {type(item).__name__} in place of Experience or Skipped")
                yield item


@contextmanager
def _blamed(name: str) -> Iterator[None]:
    """Turn any failure of an installed source into an InputError that names it."""
    try:
        yield
    except AcademyError:
        raise
    except Exception as problem:
        words = " ".join(str(problem).split())[:LONGEST_PROBLEM]
        raise InputError(
            f"The source {name} failed ({type(problem).__name__}{f': {words}' if words else ''}).",
            "Fix or update the package that provides it, or remove its name from ACADEMY_SOURCES.",
        ) from problem


def open_sources(names: Sequence[str], context: SourceContext) -> Iterator[ExperienceSource]:
    """The sources of these names, in this order. Raises InputError for an unknown name, and for no name."""
    if not names:
        raise InputError("ACADEMY_SOURCES names no source.", f"Choose from {', '.join(SOURCES)}, or leave it unset.")
    openers: dict[str, OpenSources] = {name: load_plugin("academy.sources", name, SOURCES) for name in names}
    for name, open_source in openers.items():
        if name in SOURCES:
            sources = open_source(context)
        else:
            with _blamed(name):
                sources = [OutsideSource(source) for source in open_source(context)]
        yield from [TaggedSource(source, context.tags) for source in sources] if context.tags else sources


def outside_sources(names: Sequence[str], context: SourceContext) -> Iterator[ExperienceSource]:
    """Those of the sources that installed packages provide."""
    outside = [name for name in names if name not in SOURCES]
    if outside:
        yield from open_sources(outside, context)


def reopen_sources(references: Sequence[Reference], store: LessonsStore) -> Iterator[ExperienceSource]:
    """The sources that gave what these references name. Raises InputError where one is not installed any more."""
    repositories = sorted({Path(reference.repository) for reference in references if reference.commit})
    names = [*SOURCES, *sorted({reference.source for reference in references if reference.source})]
    yield from open_sources(names, SourceContext(store=store, repositories=repositories))


def refer(source: ExperienceSource, id_: str, seq: int = 0, commit: str = "") -> Reference:
    """The reference by which this source reads an experience again."""
    name = "" if source.name in SOURCES else source.name
    return Reference(id=id_, seq=seq, commit=commit, repository=source.location, source=name)


def references_of(source: ExperienceSource, references: Sequence[Reference]) -> list[Reference]:
    """Those of the references that this source may have given; lessons and tasks share a store."""
    name = "" if source.name in SOURCES else source.name
    return [ref for ref in references if (ref.source, ref.repository) == (name, source.location)]
