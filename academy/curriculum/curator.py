"""DatasetCurator: collects experience, drops what should not be learned, and writes the dataset.

Every drop has a reason and is counted in the funnel. Contradictions are counted and shown, never quietly removed:
where a batch teaches wrong answers to known questions, the examination is what refuses it.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from academy import __version__
from academy.curriculum import replay
from academy.curriculum.dataset import (
    Contradiction,
    Dataset,
    Example,
    Input,
    OverlappingExample,
    group_of,
    write_dataset,
)
from academy.curriculum.decontamination import GuardedSuite, OverlapIndex, counted
from academy.curriculum.filters import clean, reason_to_drop
from academy.curriculum.holdout import Assignment, GroupedRequest, Holdout, request_key
from academy.curriculum.quotas import QuotaEntry, alarms, diversity, drops, opening, sampled
from academy.curriculum.replay import EarlierExample, draw_replay
from academy.curriculum.sharding import ShardRunner, in_process, merge, near_duplicates, overlapping, shard
from academy.curriculum.similarity import example_text, near_between
from academy.errors import ExaminationError
from academy.experience.commits import ASKED, CommitsSource
from academy.experience.lessons import LessonsStore
from academy.experience.reading import normalised
from academy.experience.source import Experience, Skipped

COMMITS_SHARE = 0.20
"""Commits make at most this share of the training tokens."""
TEMPLATE_TOKENS = 16
"""Room for the marks that a chat template sets around a request and an answer."""

CountTokens = Callable[[list[str]], list[int]]


class DatasetCurator:
    """Collect (any number of sources), filter, save: in this order, once."""

    def __init__(
        self,
        lessons_store: LessonsStore,
        count_tokens: CountTokens | None = None,
        *,
        context: int = 2048,
        max_lessons: int = 5000,
        replay: float = replay.SHARE,
        base: str = "",
        guarded: Sequence[GuardedSuite] = (),
        allowed: Collection[str] = (),
        shards: int = 1,
        run: ShardRunner = in_process,
        commits_cache: Path | None = None,
        trusted: Sequence[str] = (),
        per_source: int | None = None,
        per_author: int | None = None,
    ) -> None:
        self.store = lessons_store
        self.count_tokens = count_tokens or _seed_tokens()
        self.context = min(context, 2048)
        self.max_lessons = max_lessons
        self.replay = replay
        self.base = base
        self.guarded = tuple(guarded)
        self.allowed = frozenset(allowed)
        self.shards = shards
        self.run = run
        self.commits_cache = commits_cache
        self.trusted = tuple(trusted)
        self.per_source = per_source
        self.per_author = per_author
        self.overlaps: list[OverlappingExample] = []
        self.cursor = lessons_store.newest()
        self.funnel: Counter[str] = Counter()
        self.contradictions: list[Contradiction] = []
        self.alarms: list[str] = []
        self._inputs: list[Input] = []
        self._experience: list[Experience] = []
        self._examples: list[tuple[Example, Assignment, int]] = []

    def collect_from_lessons(self, limit: int | None = None, tags: Sequence[str] = ()) -> int:
        """Active lessons, conversations and files of the store: all, or so many. Returns how many."""
        cap = min(limit or self.max_lessons, self.max_lessons)
        return self._collect("lesson", self._capped(cap, lambda one: one.kind != "task", tags))

    def collect_from_task_history(self, max_tasks: int | None = None) -> int:
        """Completed tasks of the store. Returns how many."""
        cap = min(max_tasks or self.max_lessons, self.max_lessons)
        return self._collect("task", self._capped(cap, lambda one: one.kind == "task", ()))

    def collect_from_git_history(self, repo_path: Path | str = ".", max_commits: int = 100) -> int:
        """Commits of one repository. Returns how many are worth learning from."""
        source = CommitsSource(Path(repo_path), max_commits, trusted=self.trusted, cache=self.commits_cache)
        found = list(source.read())
        return self._collect("commit", found, str(Path(repo_path).resolve()))

    def collect_again(self, inputs: Sequence[Input]) -> int:
        """Exactly what an earlier curation looked at, whatever became of it since. Returns how many are gone."""
        lessons = self.store.by_id(one.id for one in inputs if not one.commit)
        found: dict[str, list[Experience | Skipped]] = defaultdict(list)
        for one in inputs:
            if lesson := lessons.get(one.id):
                found[lesson.kind if lesson.kind == "task" else "lesson"].append(
                    lesson.model_copy(update={"seq": one.seq})
                )
        for repository in sorted({one.repository for one in inputs if one.commit}):
            wanted = [one.commit for one in inputs if one.repository == repository][::-1]  # newest first, as git log
            found[repository] = list(CommitsSource(Path(repository), len(wanted), only=wanted).read())
        known = {"lesson", "task"}
        taken = sum(
            self._collect(kind if kind in known else "commit", some, "" if kind in known else kind)
            for kind, some in found.items()
        )
        return len(inputs) - taken

    def filter_low_quality(self) -> int:
        """Drop what the filters refuse and what says the same twice. Returns how many were dropped."""
        before = len(self._experience)
        ranked = sorted(self._experience, key=lambda e: e.seq)  # commits (0) keep their order
        judged = merge(self.run(judge, [(part,) for part in shard(ranked, self.shards)]))
        kept: dict[tuple[str, str], Experience] = {}
        for experience, reason, taken_out in judged:
            if reason:
                self._count(reason, 1)
                continue
            for kind, number in taken_out.items():
                self.funnel[f"taken out: {kind}"] += number
            same = (normalised(experience.request), experience.answer)
            if same in kept:
                self._count("exact duplicate", 1)
            else:
                kept[same] = experience
        self._experience = list(kept.values())
        self._drop(self._near_duplicates())
        self._drop(self._too_many())
        return before - len(self._experience)

    def save_dataset(self, format: str = "openai") -> Path:  # noqa: A002  the seed documents' name
        """Write the dataset into the settings' home, in a format of models/formats.py; returns the file to train on."""
        from academy.settings import load_settings

        dataset = self.save(load_settings().folder("datasets"), Holdout(self.store.database))
        return dataset.train_file if format == "openai" else dataset.export(format)

    def save(self, folder: Path, holdout: Holdout) -> Dataset:
        """Split by the register, keep the hold-out clean, cap the commits, and write.

        Raises ExaminationError where a training request is still too near to a held-out one.
        """
        self._split(holdout)
        train = [(example, tokens) for example, place, tokens in self._examples if place.side == "train"]
        held_out = [example for example, place, _ in self._examples if place.side == "holdout"]
        questions = _one_question_each(held_out)
        self._count("held out already with another answer", len(held_out) - len(questions))
        held_out = questions
        train = self._decontaminate(train, held_out)
        train, held_out = self._cap_commits(train, held_out)
        self._find_contradictions()
        self._sound_alarms([example for example, _ in train])
        refuse_overlap([example for example, _ in train], held_out, self.guarded, self.allowed)
        return write_dataset(
            folder,
            [example for example, _ in train],
            held_out,
            lessons=self.store.trainable(until=self.cursor),
            cursor=self.cursor,
            tokens=sum(tokens for _, tokens in train),
            longest=max((tokens for _, tokens in train), default=0),
            funnel=dict(sorted(self.funnel.items())),
            contradictions=tuple(self.contradictions),
            inputs=sorted(self._inputs, key=lambda one: (one.repository, one.seq)),  # commits: as they were read
            overlaps=self.overlaps,
            alarms=tuple(self.alarms),
            base=self.base,
            context=self.context,
            version=__version__,
        )

    def get_statistics(self) -> dict[str, Any]:
        """Counts and average lengths in characters, under the seed documents' names."""
        kept = self._experience
        return {
            "total_examples": len(kept),
            "lessons_collected": self.funnel["collected: lesson"],
            "tasks_collected": self.funnel["collected: task"],
            "git_commits_collected": self.funnel["collected: commit"],
            "removed_low_quality": sum(n for name, n in self.funnel.items() if name.startswith("dropped: ")),
            "avg_input_length": round(sum(len(e.request) for e in kept) / len(kept)) if kept else 0,
            "avg_output_length": round(sum(len(e.answer) for e in kept) / len(kept)) if kept else 0,
        }

    def _capped(
        self, cap: int, wanted: Callable[[Experience], bool], tags: Sequence[str]
    ) -> Sequence[Experience | Skipped]:
        """The newest ones; where there are more than fit, a share of the places goes to older ones (replay).

        Which older ones is decided by their ids alone, so the choice is the same every time. Memory holds the cap.
        """
        newest: deque[Experience] = deque()
        passed = 0

        def older() -> Iterator[EarlierExample]:
            nonlocal passed
            for lesson in self.store.read():
                if lesson.seq > self.cursor or not wanted(lesson) or (tags and not set(tags) & set(lesson.tags)):
                    continue
                newest.append(lesson)
                if len(newest) > cap:
                    passed += 1
                    earlier = newest.popleft()
                    yield EarlierExample(id=earlier.id, group=group_of(earlier.answer))

        ids = draw_replay(older(), cap - round(cap * self.replay), self.replay)
        self._count("over the limit of lessons", passed)
        if ids:
            self.funnel["replayed"] += len(ids)
        replayed = sorted(self.store.by_id(ids).values(), key=lambda one: one.seq)
        return replayed + list(newest)[len(newest) - cap + len(replayed) if replayed else 0 :]

    def _collect(self, kind: str, found: Sequence[Experience | Skipped], repository: str = "") -> int:
        taken = [one for one in found if isinstance(one, Experience)]
        self._inputs += [
            Input(id=one.id, seq=one.seq, commit=one.provenance.get("commit", ""), repository=repository)
            for one in taken
        ]
        for one in found:
            if isinstance(one, Skipped):
                self._count(f"{kind}: {one.because}", 1)
        self._experience += taken
        self.funnel[f"collected: {kind}"] += len(taken)
        return len(taken)

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.funnel[f"dropped: {reason}"] += number

    def _drop(self, reasons: Mapping[str, str]) -> None:
        """Leave out the experiences (ids) that have a reason."""
        for reason in reasons.values():
            self._count(reason, 1)
        self._experience = [one for one in self._experience if one.id not in reasons]

    def _near_duplicates(self) -> dict[str, str]:
        """Later ones whose request and whose answer are near to an earlier one's: the wording adds nothing.

        Wordings that differ are wanted, however long the answer that they share; so both sides are compared.
        """
        texts = [example_text(one.request, one.answer) for one in self._experience]
        found = near_duplicates(texts, shards=self.shards, run=self.run)
        return {self._experience[one.number].id: "near duplicate" for one in found}

    def _too_many(self) -> dict[str, str]:
        """Those over the quotas of source and author, and over the share of model-made ones."""
        shares = [
            QuotaEntry(
                id=one.id,
                source=one.batch,
                author=one.author,
                tokens=len(one.request) + len(one.answer),
                model_made=one.model_made,
                at=f"{one.seq:012d}",
            )
            for one in self._experience
        ]
        return drops(shares, per_source=self.per_source, per_author=self.per_author)

    def _decontaminate(self, train: list[tuple[Example, int]], held_out: list[Example]) -> list[tuple[Example, int]]:
        """Training examples without those that overlap with what is examined, here or in another suite."""
        guarded = guard(held_out, self.guarded, self.allowed)
        asked = [(example.request, example.answer) for example, _ in train]
        found = overlapping(guarded, asked, shards=self.shards, run=self.run)
        self.overlaps = [
            OverlappingExample(example=train[n][0].id, overlaps=overlaps) for n, overlaps in sorted(found.items())
        ]
        for reason, number in counted(found.values()).items():
            self.funnel[reason] = number
        self._count("overlap with an examination", len(found))
        return [pair for n, pair in enumerate(train) if n not in found]

    def _sound_alarms(self, train: Sequence[Example]) -> None:
        """What is not wrong, but one-sided."""
        chosen = set(sampled(example.id for example in train))
        measured = diversity(
            (example.group for example in train),
            (opening(example.answer) for example in train),
            [example.request for example in train if example.id in chosen],
        )
        self.alarms += alarms(measured)

    def _split(self, holdout: Holdout) -> None:
        examples = [Example.of(experience, origin="") for experience in self._experience]
        places = holdout.assign(GroupedRequest(text=e.opening, suite=e.suite, group=e.group) for e in examples)
        lengths = self.count_tokens(["".join(m["content"] for m in e.messages) for e in examples])
        for example, length in zip(examples, lengths, strict=True):
            place = places[request_key(example.suite, example.opening)]
            if example.context and place.side == "holdout":
                # the exam asks single requests; the rest of its conversation is not trained on either
                self._count("a later turn of a held-out conversation", 1)
            elif length + TEMPLATE_TOKENS > self.context:
                self._count("longer than the model's context", 1)
            elif place.side == "neither":
                self._count("near both a trained and a held-out request", 1)
            elif place.side == "retired":
                self._count("retired from the hold-out", 1)
            else:
                placed = example.model_copy(update={"origin": place.origin})
                self._examples.append((placed, place, length + TEMPLATE_TOKENS))

    def _cap_commits(
        self, train: list[tuple[Example, int]], held_out: list[Example]
    ) -> tuple[list[tuple[Example, int]], list[Example]]:
        """Keep the newest commits up to their share of the tokens. Only lessons: no commits, and no exam of them."""
        lessons = [(e, n) for e, n in train if e.suite != "commits"]
        commits = [(e, n) for e, n in train if e.suite == "commits"]
        room = int(sum(n for _, n in lessons) * COMMITS_SHARE / (1 - COMMITS_SHARE))
        kept = []
        for example, tokens in reversed(commits):
            if tokens <= room:
                room -= tokens
                kept.append((example, tokens))
        self._count("over the share of commits", len(commits) - len(kept))
        self.funnel["kept for training: lesson"] = len(lessons)
        self.funnel["kept for training: commit"] = len(kept)
        self.funnel["held out"] = len(held_out)
        return lessons + kept, held_out

    def _find_contradictions(self) -> None:
        """Examples of one suite that share a request and not the answer."""
        answers: dict[str, list[Example]] = defaultdict(list)
        for example, _, _ in sorted(self._examples, key=lambda found: (found[0].seq, found[0].id)):
            answers[request_key(example.suite, example.request)].append(example)
        for same in answers.values():
            first = same[0]
            self.contradictions += [
                Contradiction(first=first.id, second=other.id, batches=(first.batch, other.batch))
                for other in same[1:]
                if other.answer != first.answer
            ]
        if self.contradictions:
            self.funnel["contradictions"] = len(self.contradictions)


def judge(experiences: Sequence[Experience]) -> list[tuple[Experience, str, dict[str, int]]]:
    """Each experience with the reason against it, or cleaned, with what was taken out: the filters' part of a shard."""
    found = []
    for raw in experiences:
        reason = reason_to_drop(raw)
        experience, taken_out = (raw, Counter[str]()) if reason else clean(raw)
        found.append((experience, reason, dict(taken_out)))
    return found


def _seed_tokens() -> CountTokens:
    """Counts with the base model of the settings, where nobody said how."""
    from academy.models.base_model import resolve
    from academy.settings import load_settings

    return resolve(load_settings().base_model).count_tokens


def guard(
    held_out: Sequence[Example], others: Sequence[GuardedSuite] = (), allowed: Collection[str] = ()
) -> OverlapIndex:
    """Everything that must stay out of training: the hold-out's requests and the other suites' texts."""
    # Wordings of one team share phrases: a run of words betrays nothing here, only a whole request that is quoted does.
    # What is near to one otherwise is the register's matter.
    asked = [example.request for example in held_out if example.suite == "recall"]
    recall = GuardedSuite("recall", asked, requests_only=True, shared_runs=False)
    subjects = [f"{example.request}\n{example.answer}" for example in held_out if example.suite == "commits"]
    commits = GuardedSuite("commits", subjects, shared_runs=False)  # changes share lines by their nature
    return OverlapIndex([recall, commits, *others], allowed, boilerplate=(ASKED,))


def refuse_overlap(
    train: Sequence[Example],
    held_out: Sequence[Example],
    others: Sequence[GuardedSuite] = (),
    allowed: Collection[str] = (),
) -> None:
    """As `refuse_overlap_of_texts`, for examples."""
    refuse_overlap_of_texts([example.messages for example in train], held_out, others, allowed)


def refuse_overlap_of_texts(
    train: Sequence[Sequence[Mapping[str, str]]],
    held_out: Sequence[Example],
    others: Sequence[GuardedSuite] = (),
    allowed: Collection[str] = (),
) -> None:
    """The last gate before training: nothing that is trained on may be near to, or hold, what is examined.

    `train` are conversations, lists of messages. Raises ExaminationError with the pair. Register and curation keep
    them apart; this proves that they did.
    """
    asked = [example.request for example in held_out]
    opened = [next(m["content"] for m in messages if m["role"] == "user") for messages in train]
    said = [(messages[-2]["content"], messages[-1]["content"]) for messages in train]
    for i, j, similarity in near_between(asked, opened):
        raise ExaminationError(
            f"A training request is {similarity:.2f} near a held-out one: '{opened[j]}' and '{asked[i]}'.",
            "Nothing was trained. Take the lesson out, or report this as a fault of the hold-out register.",
        )
    for n, overlaps in guard(held_out, others, allowed).scan(said).items():
        raise ExaminationError(
            f"A training example overlaps with the suite {overlaps[0].suite}: '{overlaps[0].matched}' stands in "
            f"'{said[n][0]}'.",
            "Nothing was trained. Run `academy curate` again; `academy dataset show` lists what it left out.",
        )


def _one_question_each(examples: list[Example]) -> list[Example]:
    """Of held-out examples with the same request the first one stands: a later answer cannot change the exam."""
    first: dict[str, Example] = {}
    for example in sorted(examples, key=lambda e: (e.seq, e.id)):
        first.setdefault(request_key(example.suite, example.request), example)
    return list(first.values())
