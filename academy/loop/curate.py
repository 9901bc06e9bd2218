"""Curates experience into a dataset."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from academy.curriculum import replay
from academy.curriculum.curator import DatasetCurator
from academy.curriculum.dataset import Dataset
from academy.curriculum.sharding import ShardRunner, in_process
from academy.experience.sources.base import SourceContext
from academy.experience.sources.table import open_sources
from academy.loop.choose_suites import guarded_texts
from academy.loop.home import Home
from academy.loop.refuse_overlap import allowed_overlaps
from academy.store.ledger_rows import VerdictEntry

log = logging.getLogger(__name__)


def curate(
    home: Home,
    repos: Sequence[Path],
    lessons_limit: int | None = None,
    shards: int = 1,
    run: ShardRunner = in_process,
    tags: Sequence[str] = (),
) -> Dataset:
    """Write the store's lessons and the repositories' commits as a dataset, in a folder named by its digest.

    With `tags`, only experience with one of them. Other new lessons then still count as new after a promotion.

    The dataset is the same for any number of shards and any runner. Curating again after a kill is harmless.
    """
    curator = open_curator(home, shards, run)
    context = SourceContext(
        store=home.store,
        repositories=repos,
        commits_limit=home.settings.git_commits_limit,
        trusted_authors=home.settings.trusted_authors,
        cache=home.settings.folder("git"),
        tags=tags,
    )
    if tags:
        curator.covered = home.store.covered_by(tags, home.ledger.champion().cursor)
    if note := home.base.template_note:
        log.warning("%s", note)
    for source in open_sources(home.settings.sources, context):
        curator.collect(source, lessons_limit)
    curator.filter_low_quality()
    dataset = curator.save(home.datasets, home.holdout)
    log.info(
        "dataset %s: %d examples (%d tokens), %d held out",
        dataset.digest[:12], dataset.examples, dataset.tokens, dataset.holdout,
    )  # fmt: skip
    if dataset.contradictions:
        batches = Counter(" and ".join(sorted(set(pair.batches))) for pair in dataset.contradictions)
        log.warning("%d contradictions, most in %s", len(dataset.contradictions), batches.most_common(1)[0][0])
    return dataset


def open_curator(home: Home, shards: int = 1, run: ShardRunner = in_process) -> DatasetCurator:
    """A curator with this home's base model, quotas, hold-out, guarded suites and allowed overlaps."""
    return DatasetCurator(
        home.store,
        home.base.measure,
        context=home.base.context,
        max_lessons=home.settings.max_lessons,
        base=home.base.digest,
        replay=replay_share(home),
        allowed=allowed_overlaps(home),
        guarded=guarded_texts(home.settings),
        shards=shards,
        run=run,
        per_source=home.settings.max_per_source,
        per_author=home.settings.max_per_author,
        untrusted_share=home.settings.untrusted_share,
    )


def replay_share(home: Home) -> float:
    """The share of older lessons in the next dataset. It rises where earlier examinations lost guard questions."""
    share = replay.SHARE
    for row in home.ledger.rows(VerdictEntry):
        guard = row.body.guard
        share = replay.share_after(share, guard.difference if guard else None, guard.low if guard else None)
    return share
