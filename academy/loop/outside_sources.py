"""What installed sources give: experience outside the store that counts, is renewed and is forgotten like lessons."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from academy.curriculum.dataset import Dataset, Example, all_datasets, read_rows, transcript_of
from academy.experience.experience import Experience
from academy.experience.sources.base import SourceContext
from academy.experience.sources.table import outside_sources
from academy.experience.tombstones import buried
from academy.loop.home import Home
from academy.models.messages import Transcript
from academy.store.ledger_rows import VerdictEntry


def outside_ids(home: Home, tags: Sequence[str] = ()) -> set[str]:
    """Ids of the successful experience that installed sources give now, without what was forgotten.

    With tags: of the experience that has one of them.

    Raises InputError for a source that fails.
    """
    context = SourceContext(store=home.store, trusted_authors=home.settings.trusted_authors, tags=tuple(tags))
    ids = {
        item.id
        for source in outside_sources(home.settings.sources, context)
        for item in source.read()
        if isinstance(item, Experience) and item.outcome == "success"
    }
    return ids - buried(home.database, sorted(ids))


def examined_outside_ids(home: Home) -> set[str]:
    """Ids from installed sources in the dataset that the champion was trained on."""
    champion = home.ledger.champion().adapter
    digests = {row.body.dataset for row in home.ledger.rows(VerdictEntry) if row.body.challenger == champion}
    return {
        row["id"]
        for dataset in all_datasets(home.datasets)
        if dataset.digest in digests
        for row in dataset.inputs()
        if row.get("source")
    }


def outside_examples(dataset: Dataset) -> Iterator[Example]:
    """The held-out examples of a dataset that are neither lessons of the store nor commits."""
    yield from (
        example for example in dataset.held_out() if example.suite == "recall" and "lesson" not in example.provenance
    )


def outside_conversations(dataset: Dataset) -> Iterator[Transcript]:
    """The conversations of a dataset's training side that are neither lessons of the store nor commits."""
    origins = read_rows(dataset.path / "provenance.jsonl")
    for row, origin in zip(read_rows(dataset.train_file), origins, strict=True):
        if "messages" in row and "lesson" not in origin and "commit" not in origin:
            yield transcript_of(row)
