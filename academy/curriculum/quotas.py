"""Quotas of sources and authors in a training set, and alarms for a one-sided one.

Quotas and caps drop examples, each with a reason that is counted. The alarms drop nothing: each is a sentence about
something that a user should check. Everything is pure and independent of the order of the records.

Memory: a QuotaEntry is a few short strings; only the sample for `diversity` contains texts.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from academy.curriculum.similarity import jaccard, shingles
from academy.records import Record, stable_fraction

MODEL_MADE = 0.3
"""Largest share of the tokens that answers may have that a model wrote and no user rated."""
UNTRUSTED = 0.2
"""Largest share of the tokens that examples of untrusted sources may have. One of these sources has half of it."""
SAMPLE = 200
"""Number of texts on which the mean nearest similarity is measured."""
MAX_ANSWER, MAX_OPENING, MAX_SIMILARITY, MIN_ANSWERS = 0.2, 0.4, 0.6, 0.1
"""Limits of the alarms: the shares of the most frequent answer and of the most frequent opening (first words), the mean
nearest similarity, and the effective number of answers as a share of the examples."""


class QuotaEntry(Record):
    """The facts about an example that quotas need. `at` orders examples by time or admission, newest last."""

    id: str
    source: str
    author: str = ""
    tokens: int = 1
    model_made: bool = False
    at: str = ""
    trusted: bool = True


def drops(
    entries: Iterable[QuotaEntry],
    *,
    per_source: Mapping[str, int] | int | None = None,
    per_author: Mapping[str, int] | int | None = None,
    model_made: float = MODEL_MADE,
    untrusted: float = UNTRUSTED,
) -> dict[str, str]:
    """Reasons to drop by id: first the quotas of sources (in examples), then those of authors, then the caps.

    A quota is one number for all names, or a mapping with one number for each name (other names have no quota). The
    newest entries stay; of equally old ones those with the smaller id. An empty author has no quota.
    """
    remaining = sorted(sorted(entries, key=lambda entry: entry.id), key=lambda entry: entry.at, reverse=True)
    reasons = over_quota(remaining, lambda entry: entry.source, per_source, "over the quota of source {}")
    remaining = [entry for entry in remaining if entry.id not in reasons]
    reasons |= over_quota(remaining, lambda entry: entry.author, per_author, "over the quota of author {}")
    remaining = [entry for entry in remaining if entry.id not in reasons]
    reasons |= over_share(remaining, model_made)
    return reasons | _over_untrusted([entry for entry in remaining if entry.id not in reasons], untrusted)


def over_quota(
    newest_first: Iterable[QuotaEntry],
    name_of: Callable[[QuotaEntry], str],
    quota: Mapping[str, int] | int | None,
    reason: str,
) -> dict[str, str]:
    """Reasons for the entries after the first `quota` of each name."""
    counts: Counter[str] = Counter()
    reasons = {}
    for entry in newest_first:
        name = name_of(entry)
        limit = quota.get(name) if isinstance(quota, Mapping) else quota
        if limit is not None and name:
            counts[name] += 1
            if counts[name] > limit:
                reasons[entry.id] = reason.format(name)
    return reasons


def over_share(newest_first: Sequence[QuotaEntry], max_share: float = MODEL_MADE) -> dict[str, str]:
    """Reasons for model-made examples beyond their share of all tokens; all of them if nothing else is there."""
    if max_share >= 1:
        return {}
    room = max_share / (1 - max_share) * sum(entry.tokens for entry in newest_first if not entry.model_made)
    reasons = {}
    for entry in newest_first:
        if not entry.model_made:
            continue
        room -= entry.tokens
        if room < -1e-9:
            room += entry.tokens
            reasons[entry.id] = "over the share of model-made examples"
    return reasons


def _over_untrusted(newest_first: Sequence[QuotaEntry], max_share: float) -> dict[str, str]:
    """Reasons for examples of untrusted sources beyond their share, first by source (its author), then all together."""
    tokens = sum(entry.tokens for entry in newest_first if entry.trusted)
    room_of: dict[str, float] = defaultdict(lambda: max_share / 2 / (1 - max_share) * tokens)
    room = max_share / (1 - max_share) * tokens
    reasons = {}
    for entry in newest_first:
        if entry.trusted:
            continue
        for name, left in ((f"of source {entry.author}", room_of[entry.author]), ("of untrusted sources", room)):
            if entry.tokens > left + 1e-9:
                reasons[entry.id] = f"over the share {name}"
                break
        else:
            room_of[entry.author] -= entry.tokens
            room -= entry.tokens
    return reasons


class Diversity(Record):
    """The diversity of a training set. Shares and similarities are between 0 and 1."""

    examples: int
    answers: float  # effective number of different answers: exp(entropy)
    most_frequent_answer: float
    most_frequent_opening: float
    nearest: float  # mean similarity of a text of the sample to its nearest other one


def diversity(answer_groups: Iterable[str], openings: Iterable[str], sample: Sequence[str]) -> Diversity:
    """Measure it from the names of the answers (such as hashes), their first words, and a sample of texts."""
    groups, opening_counts = Counter(answer_groups), Counter(openings)
    total = groups.total()
    entropy = -sum(n / total * math.log(n / total) for n in sorted(groups.values()))
    return Diversity(
        examples=total,
        answers=math.exp(entropy) if total else 0.0,
        most_frequent_answer=max(groups.values(), default=0) / max(1, total),
        most_frequent_opening=max(opening_counts.values(), default=0) / max(1, opening_counts.total()),
        nearest=mean_nearest(sample),
    )


def first_words(answer: str) -> str:
    """The first three words of an answer in lower case."""
    return " ".join(answer[:200].lower().split()[:3])


def sample_ids(ids: Iterable[str], seed: str = "", count: int = SAMPLE) -> list[str]:
    """Ids for the sample of `diversity`, independent of their order. Memory does not grow with their number."""
    best: list[tuple[float, str]] = []
    for name in ids:
        best.append((stable_fraction("diversity", seed, name), name))
        if len(best) >= 4 * count:
            best = sorted(best)[:count]
    return sorted(name for _, name in sorted(best)[:count])


def mean_nearest(texts: Sequence[str]) -> float:
    """Mean similarity of the texts to their nearest other text (0 for fewer than two)."""
    grams = [shingles(text) for text in texts]
    if len(grams) < 2:
        return 0.0
    return sum(
        max(jaccard(first, second) for j, second in enumerate(grams) if i != j) for i, first in enumerate(grams)
    ) / len(grams)


def alarms(figures: Diversity) -> tuple[str, ...]:
    """Sentences about what a user should check; none with fewer than 20 examples, which say too little."""
    if figures.examples < 20:
        return ()
    sentences = []
    if figures.most_frequent_answer > MAX_ANSWER:
        sentences.append(
            f"One answer makes {figures.most_frequent_answer:.0%} of all examples: the model may learn only this one."
        )
    if figures.most_frequent_opening > MAX_OPENING:
        sentences.append(f"{figures.most_frequent_opening:.0%} of the answers begin with the same three words.")
    if figures.answers < MIN_ANSWERS * figures.examples:
        sentences.append(
            f"{figures.examples} examples teach as little as {figures.answers:.0f} different answers would."
        )
    if figures.nearest > MAX_SIMILARITY:
        sentences.append(
            f"Examples are {figures.nearest:.0%} similar to their nearest neighbour: they may come from one template."
        )
    return tuple(sentences)
