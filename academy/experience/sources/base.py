"""What a source of experience is, and how to add one.

To add one from your own package, write a class with the members of `ExperienceSource`, and a function that takes a
`SourceContext` and returns the sources to read (none where there is nothing to read). Name the function in your
pyproject.toml, and name the source in ACADEMY_SOURCES:

    [project.entry-points."academy.sources"]
    wiki = "my_package.wiki:open_wiki"          # ACADEMY_SOURCES=lesson,task,commit,wiki

A source inside this package is a file in this folder and a row in `table.py`.

Choose a source for experience that lives elsewhere and is read again for each dataset, as commits are. It counts as
lessons and as new ones when the professor decides; `academy lessons forget` erases it here and keeps a tombstone, so
that it is not taken again; `academy holdout renew` retires its questions. Import experience into the store instead
(`academy lessons import`) if users may ask to supersede it, to undo its batch or to set it aside after a REJECT: only
the store does that. The leak suite asks only about the store's lessons.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.records import Record


class Skipped(Record):
    """Something that a source does not give, and why. The reason is counted, so it holds no names or numbers."""

    what: str
    because: str


class Reference(Record):
    """Names one experience that a dataset was made from, so that its source can read it again."""

    id: str
    seq: int = 0  # the lesson's number at that time; 0: not from the store
    commit: str = ""
    repository: str = ""  # the source's location; empty for the store
    source: str = ""  # name of a source from another package; empty for ours
    trusted: bool = True  # as it was at that time


class SourceContext(NamedTuple):
    """What a source may need from the home that reads it."""

    store: LessonsStore
    repositories: Sequence[Path] = ()
    commits_limit: int = 100
    trusted_authors: Sequence[str] = ()
    cache: Path | None = None  # a folder for data that can be extracted again
    tags: Sequence[str] = ()  # only experience with one of them is read; a source need not look at them


class ExperienceSource(Protocol):
    """Gives experience to the curator.

    An implementer promises:

    * ids are digests of the content (`academy.records.digest_of`): reading twice gives the same ids, and no id twice;
    * the order is stable: two readings of unchanged data give the same sequence, oldest first;
    * everything that is not given is a `Skipped` with its reason;
    * `read` streams: it does not hold all of its data in memory where the data may be large;
    * `read_again` gives the same records as the reading that the references come from, and silently omits those that
      no longer exist.

    A caller must tolerate that a source ends early with an AcademyError where its folder, database or network fails.
    Any other exception of an installed source becomes an InputError that names the source (table.py).
    It must not assume that texts are clean: secrets, personal data and injections are the filters' task.
    """

    @property
    def name(self) -> str:
        """The name in the table or of the entry point; the funnel counts under it, as in "collected: lesson"."""
        ...

    @property
    def location(self) -> str:
        """Where the data is, where one name has several sources: a repository's path. Empty otherwise."""
        ...

    @property
    def limited(self) -> bool:
        """Whether the curator keeps only the newest lessons and replays older ones; False: the source has a limit."""
        ...

    def read(self) -> Iterator[Experience | Skipped]:
        """Everything that the source gives now."""
        ...

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        """The experience that these references name. A reference with `seq` 0 means the present number."""
        ...
