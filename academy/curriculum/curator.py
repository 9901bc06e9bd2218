"""DatasetCurator: collects experience from its sources, filters it, and writes the dataset.

Every example that is dropped has a reason and is counted in the funnel. Contradictions are counted and shown but not
removed: where a batch teaches wrong answers to known questions, the examination rejects it. They are looked for before
near duplicates, which they would resemble, and none of their lessons is dropped as one.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from academy import __version__
from academy.curriculum import replay
from academy.curriculum.contradictions import contradicting_trusted, find_contradictions
from academy.curriculum.dataset import Contradiction, Dataset, Example, OverlappingExample, group_of, write_dataset
from academy.curriculum.decontamination import GuardedSuite, count_overlaps
from academy.curriculum.filters import judge
from academy.curriculum.holdout import Assignment, Holdout, first_of_each_request, grouped, request_key
from academy.curriculum.overlap_check import guarded_index, near_by_another_answer, refuse_overlap
from academy.curriculum.quotas import UNTRUSTED, QuotaEntry, alarms, diversity, drops, first_words, sample_ids
from academy.curriculum.replay import EarlierExample, draw_replay
from academy.curriculum.sharding import ShardRunner, in_process, merge, near_duplicates, overlapping, shard
from academy.curriculum.similarity import example_text
from academy.experience.experience import Experience
from academy.experience.lessons import LessonsStore
from academy.experience.reading import normalised
from academy.experience.sources.base import ExperienceSource, Reference, Skipped
from academy.experience.sources.commits import CommitsSource
from academy.experience.sources.lessons import LessonsSource
from academy.experience.sources.table import refer, references_of, reopen_sources
from academy.experience.sources.tasks import TasksSource
from academy.experience.tombstones import buried
from academy.models.messages import Transcript

COMMITS_SHARE = 0.20
"""Largest share of the training tokens that commits may have."""
COLLECTED = "collected: "
"""How a line of the funnel begins that counts what a source gave."""

Measure = Callable[[Sequence[Transcript]], Sequence[int | str]]
"""The tokens of each conversation as the base model's chat template renders it, or why the template rejects it."""


class DatasetCurator:
    """Call in this order: collect (any number of sources), filter_low_quality, save.

    Each may be called again: what was collected before is not collected twice, and a second `save` writes the same
    dataset.
    """

    def __init__(
        self,
        lessons_store: LessonsStore,
        measure: Measure,
        *,
        context: int = 2048,
        max_lessons: int = 5000,
        replay: float = replay.SHARE,
        base: str = "",
        guarded: Sequence[GuardedSuite] = (),
        allowed: Collection[str] = (),
        shards: int = 1,
        run: ShardRunner = in_process,
        per_source: int | None = None,
        per_author: int | None = None,
        untrusted_share: float = UNTRUSTED,
    ) -> None:
        """`context`: tokens that an example may have. `replay`: share of older lessons. `base`: the base model's
        digest. `guarded`: texts of other suites. `allowed`: keys of overlaps that a user allows. `per_source` and
        `per_author`: quotas in examples. `untrusted_share`: of the tokens that strangers' examples may have.
        """
        self.store = lessons_store
        self.measure = measure
        self.context = min(context, 2048)
        self.max_lessons = max_lessons
        self.replay = replay
        self.base = base
        self.guarded = tuple(guarded)
        self.allowed = frozenset(allowed)
        self.shards = shards
        self.run = run
        self.per_source = per_source
        self.per_author = per_author
        self.untrusted_share = untrusted_share
        self.overlaps: list[OverlappingExample] = []
        self.cursor = lessons_store.newest()
        self.covered: int | None = None  # the last lesson that the dataset covers, where not all were collected
        self.funnel: Counter[str] = Counter()
        self.contradictions: list[Contradiction] = []
        self.alarms: list[str] = []
        self._references: list[Reference] = []
        self._sources: dict[str, str] = {}  # the name of the source by experience
        self._experience: list[Experience] = []
        self._examples: list[tuple[Example, Assignment, int]] = []  # with their tokens
        self._counted: dict[tuple[str, str], int] = {}  # what a source counted in its last collection
        self._skipped: set[tuple[str, str, str]] = set()
        self._untrusted: set[str] = set()  # ids of experience whose source is not trusted
        self._funnel_before_save: Counter[str] | None = None

    @property
    def remaining(self) -> Sequence[Experience]:
        """What was collected and not dropped."""
        return tuple(self._experience)

    def collect(self, source: ExperienceSource, limit: int | None = None) -> int:
        """Collect a source, at most `limit` experiences of a limited one. Returns how many were collected."""
        if not source.limited:
            return self._add(source, list(source.read()))
        return self._add(
            source, self._newest(source, self.max_lessons if limit is None else min(limit, self.max_lessons))
        )

    def collect_from_lessons(self, limit: int | None = None, tags: Sequence[str] = ()) -> int:
        """Collect active lessons, conversations and files of the store. Returns how many."""
        return self.collect(LessonsSource(self.store, tags), limit)

    def collect_from_task_history(self, max_tasks: int | None = None) -> int:
        """Collect active tasks of the store. Returns how many."""
        return self.collect(TasksSource(self.store), max_tasks)

    def collect_from_git_history(self, repo_path: Path | str = ".", max_commits: int = 100) -> int:
        """Collect commits of one repository. Returns how many can be learned from."""
        return self.collect(CommitsSource(Path(repo_path), max_commits))

    def collect_again(self, references: Sequence[Reference]) -> int:
        """Collect exactly what an earlier curation collected, whatever its standing. Returns how many are missing."""
        number = sum(
            self._add(source, list(source.read_again(references_of(source, references))))
            for source in reopen_sources(references, self.store)
        )
        return len(references) - number

    def filter_low_quality(self) -> int:
        """Drop what the filters reject, duplicates, and what is over the quotas. Returns how many were dropped."""
        self._undo_save()
        before = len(self._experience)
        by_seq = sorted(self._experience, key=lambda experience: experience.seq)  # commits (0) keep their order
        judgements = merge(self.run(judge, [(part,) for part in shard(by_seq, self.shards)]))
        distinct: dict[tuple[Any, ...], Experience] = {}
        for experience, reason, redactions in judgements:
            if reason:
                self._count(reason, 1)
                continue
            for kind, number in redactions.items():
                self.funnel[f"taken out: {kind}"] += number
            content = (experience.before, normalised(experience.request), experience.words, experience.trace.tools)
            if content in distinct:
                self._count("exact duplicate", 1)
                if experience.trusted and not distinct[content].trusted:
                    distinct[content] = experience
            else:
                distinct[content] = experience
        self._experience = list(distinct.values())
        self._drop(contradicting_trusted(self._experience))
        self.contradictions = find_contradictions(self._experience)
        self.funnel.pop("contradictions", None)
        if self.contradictions:
            self.funnel["contradictions"] = len(self.contradictions)
        self._drop(self._near_duplicates())
        self._drop(self._over_quotas())
        return before - len(self._experience)

    def save(self, folder: Path, holdout: Holdout) -> Dataset:
        """Split by the hold-out, decontaminate, cap the commits, and write.

        Raises ExaminationError if a training request is still too similar to a held-out one.
        """
        self._undo_save()
        self._funnel_before_save = self.funnel.copy()
        self._split(holdout)
        train = [(example, tokens) for example, assignment, tokens in self._examples if assignment.side == "train"]
        held_out = [example for example, assignment, _ in self._examples if assignment.side == "holdout"]
        questions = first_of_each_request(held_out)
        self._count("held out already with another answer", len(held_out) - len(questions))
        train = self._decontaminate(train, questions)
        train = self._cap_commits(train)
        self.funnel["held out"] = len(questions)
        examples = [example for example, _ in train]
        self._sound_alarms(examples)
        refuse_overlap(examples, questions, self.guarded, self.allowed)
        return write_dataset(
            folder,
            examples,
            questions,
            lessons=self.store.trainable(until=self.cursor),
            cursor=self.cursor if self.covered is None else self.covered,
            tokens=sum(tokens for _, tokens in train),
            longest=max((tokens for _, tokens in train), default=0),
            funnel=dict(sorted(self.funnel.items())),
            contradictions=tuple(self.contradictions),
            inputs=sorted(self._references, key=lambda ref: (ref.repository, ref.seq)),  # commits as they were read
            overlaps=self.overlaps,
            alarms=tuple(self.alarms),
            base=self.base,
            context=self.context,
            per_source=self.per_source,
            per_author=self.per_author,
            untrusted_share=self.untrusted_share,
            untrusted=sum(example.id in self._untrusted for example in examples),
            allowed=tuple(sorted(self.allowed)),
            version=__version__,
        )

    def _newest(self, source: ExperienceSource, limit: int) -> list[Experience | Skipped]:
        """The newest experiences of a source. If there are too many, older ones have a share of the limit (replay).

        Older ones are drawn by their ids alone, so the choice is always the same. Memory holds `limit` of them.
        """
        newest: deque[Experience] = deque()
        skips: list[Skipped] = []
        passed_over = 0

        def older() -> Iterator[EarlierExample]:
            nonlocal passed_over
            for experience in source.read():
                if isinstance(experience, Skipped):
                    skips.append(experience)
                    continue
                if experience.seq > self.cursor:
                    continue
                newest.append(experience)
                if len(newest) > limit:
                    passed_over += 1
                    earlier = newest.popleft()
                    yield EarlierExample(id=earlier.id, group=group_of(earlier.words))

        ids = draw_replay(older(), limit - round(limit * self.replay), self.replay)
        self._recount(source, "dropped: over the limit of lessons", passed_over)
        self._recount(source, "replayed", len(ids))
        if not ids:
            return [*skips, *newest]
        older_ones = list(source.read_again([refer(source, id_) for id_ in ids]))
        return [*skips, *older_ones, *list(newest)[len(newest) - limit + len(older_ones) :]]

    def _add(self, source: ExperienceSource, items: Sequence[Experience | Skipped]) -> int:
        self._undo_save()
        collected = {reference.id for reference in self._references}
        experiences = [item for item in items if isinstance(item, Experience) and item.id not in collected]
        if forgotten := buried(self.store.database, [experience.id for experience in experiences]):
            self._count("forgotten", len(forgotten))
            experiences = [experience for experience in experiences if experience.id not in forgotten]
        self._sources |= {experience.id: source.name for experience in experiences}
        self._references += [
            refer(source, experience.id, experience.seq, experience.provenance.get("commit", "")).model_copy(
                update={"trusted": experience.trusted}
            )
            for experience in experiences
        ]
        for item in items:
            if isinstance(item, Skipped) and (key := (source.name, source.location, item.what)) not in self._skipped:
                self._skipped.add(key)
                self._count(f"{source.name}: {item.because}", 1)
        self._untrusted |= {experience.id for experience in experiences if not experience.trusted}
        self._experience += experiences
        self.funnel[f"{COLLECTED}{source.name}"] += len(experiences)
        return len(experiences)

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.funnel[f"dropped: {reason}"] += number

    def _recount(self, source: ExperienceSource, name: str, number: int) -> None:
        """Count what one collection of a source did, in place of what its collection before did."""
        self.funnel[name] += number - self._counted.get((source.name, name), 0)
        self._counted[source.name, name] = number
        if not self.funnel[name]:
            del self.funnel[name]

    def _undo_save(self) -> None:
        """Go back to before the last `save`, so that saving again counts nothing twice."""
        if self._funnel_before_save is not None:
            self.funnel, self._funnel_before_save = self._funnel_before_save, None
            self._examples, self.alarms, self.overlaps = [], [], []

    def _drop(self, reasons: Mapping[str, str]) -> None:
        """Drop the experiences (ids) that have a reason."""
        for reason in reasons.values():
            self._count(reason, 1)
        self._experience = [experience for experience in self._experience if experience.id not in reasons]

    def _near_duplicates(self) -> dict[str, str]:
        """Experiences whose request and answer are both similar to those of an earlier one, after the same messages.

        Different wordings with the same answer are wanted, so both sides must be similar, and say the same.
        """
        by_context: dict[Any, list[Experience]] = defaultdict(list)
        for experience in self._experience:
            by_context[experience.before].append(experience)
        for experiences in by_context.values():
            experiences.sort(key=lambda experience: not experience.trusted)  # the earlier of two duplicates stays
        contradicting = {id_ for pair in self.contradictions for id_ in (pair.first, pair.second)}
        reasons: dict[str, str] = {}
        for experiences in by_context.values():
            if len(experiences) > 1:
                texts = [example_text(experience.request, experience.words) for experience in experiences]
                duplicates = near_duplicates(texts, shards=self.shards, run=self.run)
                ids = {experiences[duplicate.number].id for duplicate in duplicates}
                reasons |= dict.fromkeys(ids - contradicting, "near duplicate")
        return reasons

    def _over_quotas(self) -> dict[str, str]:
        """Experiences over the quotas of source and author, and over the share of model-made ones."""
        entries = [
            QuotaEntry(
                id=experience.id,
                source=experience.batch,
                author=experience.author,
                tokens=len(experience.request) + len(experience.words),
                model_made=experience.model_made,
                at=f"{experience.seq:012d}",
                trusted=experience.trusted,
            )
            for experience in self._experience
        ]
        return drops(entries, per_source=self.per_source, per_author=self.per_author, untrusted=self.untrusted_share)

    def _decontaminate(self, train: list[tuple[Example, int]], held_out: list[Example]) -> list[tuple[Example, int]]:
        """Training examples without those that overlap with an examination, of this dataset or of another suite."""
        near = near_by_another_answer([example.transcript for example, _ in train], held_out)
        self._count("near a held-out request", len(near))
        train = [pair for n, pair in enumerate(train) if n not in near]
        index = guarded_index(held_out, self.guarded, self.allowed)
        texts = [(example.request, example.words) for example, _ in train]
        matches = overlapping(index, texts, shards=self.shards, run=self.run)
        self.overlaps = [
            OverlappingExample(example=train[n][0].id, overlaps=overlaps) for n, overlaps in sorted(matches.items())
        ]
        for reason, number in count_overlaps(matches.values()).items():
            self.funnel[reason] = number
        self._count("overlap with an examination", len(matches))
        return [pair for n, pair in enumerate(train) if n not in matches]

    def _sound_alarms(self, train: Sequence[Example]) -> None:
        """Add a sentence for each way in which the training side is one-sided."""
        sample = set(sample_ids(example.id for example in train))
        figures = diversity(
            (example.group for example in train),
            (first_words(example.words) for example in train),
            [example.request for example in train if example.id in sample],
        )
        self.alarms += alarms(figures)

    def _split(self, holdout: Holdout) -> None:
        examples = self._renderable([Example.of(experience, origin="") for experience in self._experience])
        assignments = holdout.assign(grouped(example) for example, _ in examples if example.id not in self._untrusted)
        untrusted = holdout.look_up(grouped(example) for example, _ in examples if example.id in self._untrusted)
        for example, tokens in examples:
            is_untrusted = example.id in self._untrusted
            assignment = (untrusted if is_untrusted else assignments)[request_key(example.suite, example.opening)]
            if is_untrusted and assignment.side == "holdout":
                self._count("a held-out question, from a source that is not trusted", 1)
            elif example.follows_turns and assignment.side == "holdout":
                # an examination asks single requests; the rest of a held-out conversation must not be trained on
                self._count("a later turn of a held-out conversation", 1)
            elif example.transcript.has_tools and assignment.side == "holdout":
                self._count("a held-out conversation with tools: no suite asks it", 1)
            elif tokens > self.context:
                self._count("longer than the model's context", 1)
            elif assignment.side == "neither":
                self._count("near both a trained and a held-out request", 1)
            elif assignment.side == "retired":
                self._count("retired from the hold-out", 1)
            else:
                with_origin = example.model_copy(update={"origin": assignment.origin})
                self._examples.append((with_origin, assignment, tokens))

    def _renderable(self, examples: list[Example]) -> list[tuple[Example, int]]:
        """Examples with their tokens, without those that the base model's chat template rejects."""
        accepted = []
        for example, size in zip(examples, self.measure([example.transcript for example in examples]), strict=True):
            if isinstance(size, str):
                self._count(size, 1)
            else:
                accepted.append((example, size))
        return accepted

    def _cap_commits(self, train: list[tuple[Example, int]]) -> list[tuple[Example, int]]:
        """The training side with the newest commits up to their share of the tokens; none without lessons."""
        lessons = [(example, tokens) for example, tokens in train if example.suite != "commits"]
        commits = [(example, tokens) for example, tokens in train if example.suite == "commits"]
        room = int(sum(tokens for _, tokens in lessons) * COMMITS_SHARE / (1 - COMMITS_SHARE))
        newest = []
        for example, tokens in reversed(commits):
            if tokens <= room:
                room -= tokens
                newest.append((example, tokens))
        self._count("over the share of commits", len(commits) - len(newest))
        kept = Counter(self._sources[example.id] for example, _ in (*lessons, *newest))
        for name in [line.removeprefix(COLLECTED) for line in self.funnel if line.startswith(COLLECTED)]:
            self.funnel[f"kept for training: {name}"] = kept[name]
        return lessons + newest
