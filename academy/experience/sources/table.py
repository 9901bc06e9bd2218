"""Finds sources by name: ours, and those that installed packages add (entry points of the group academy.sources)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from academy.errors import InputError
from academy.experience.lessons import LessonsStore
from academy.experience.sources.base import ExperienceSource, Reference, SourceContext
from academy.experience.sources.tagged import TaggedSource
from academy.system.plugins import load_plugin

SOURCES = {
    "lesson": "academy.experience.sources.lessons:open_lessons",
    "task": "academy.experience.sources.tasks:open_tasks",
    "commit": "academy.experience.sources.commits:open_commits",
}
"""Our sources: name -> the function that opens them."""

OpenSources = Callable[[SourceContext], Sequence[ExperienceSource]]


def open_sources(names: Sequence[str], context: SourceContext) -> Iterator[ExperienceSource]:
    """The sources of these names, in this order. Raises InputError for an unknown name, and for no name."""
    if not names:
        raise InputError("ACADEMY_SOURCES names no source.", f"Choose from {', '.join(SOURCES)}, or leave it unset.")
    openers: list[OpenSources] = [load_plugin("academy.sources", name, SOURCES) for name in dict.fromkeys(names)]
    for open_source in openers:
        sources = open_source(context)
        yield from [TaggedSource(source, context.tags) for source in sources] if context.tags else sources


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
