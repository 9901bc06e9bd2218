"""The part of a source's experience that has at least one of some tags."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from academy.experience.experience import Experience
from academy.experience.sources.base import ExperienceSource, Reference, Skipped

OTHER_TAGS = Skipped(what="", because="has none of the tags")


class TaggedSource:
    """Another source without the experience that has none of the tags; that is counted. Commits have no tags."""

    def __init__(self, source: ExperienceSource, tags: Sequence[str]) -> None:
        self.source = source
        self.tags = frozenset(tags)
        self.name = source.name
        self.location = source.location
        self.limited = source.limited

    def read(self) -> Iterator[Experience | Skipped]:
        """The experience with one of the tags, and what is skipped."""
        for item in self.source.read():
            if isinstance(item, Skipped) or self.tags & set(item.tags):
                yield item
            else:
                yield OTHER_TAGS.model_copy(update={"what": item.id})

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        """What the references name, whatever its tags."""
        return self.source.read_again(references)
