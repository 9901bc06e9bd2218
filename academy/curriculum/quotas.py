"""Shares: who may fill how much of a training set, and whether it has grown one-sided.

Quotas and caps drop, and each drop has a reason that can be counted. The diversity alarm drops nothing: it says in
sentences what a person should look at. All of it is pure and does not depend on the order of the records.

Memory: a QuotaEntry is a few short strings; no texts pass here but the sample that `alarms` is given.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from academy.curriculum.similarity import jaccard, shingles
from academy.records import Record, stable_fraction

MODEL_MADE = 0.3
"""Answers that a model wrote and nobody rated make at most this share of the tokens."""
SAMPLE = 200
"""Texts that the mean nearest similarity is measured on."""
ONE_ANSWER, ONE_OPENING, ALIKE, FEWEST = 0.2, 0.4, 0.6, 0.1
"""Where the alarm rings: the most frequent answer, the most frequent opening (its first words), the mean nearest
similarity, and the effective number of answers as a share of the examples."""


class QuotaEntry(Record):
    """What quotas need to know of an example; `at` is its time or place in the order of admission, newest last."""

    id: str
    source: str
    author: str = ""
    tokens: int = 1
    model_made: bool = False
    at: str = ""


def drops(
    shares: Iterable[QuotaEntry],
    *,
    per_source: Mapping[str, int] | int | None = None,
    per_author: Mapping[str, int] | int | None = None,
    model_made: float = MODEL_MADE,
) -> dict[str, str]:
    """Reasons by id of those that are too many: quotas in examples, first by source, then by author, then the cap.

    A quota is one number for all, or one for each that is named (the others have none). The newest stay; of equally
    old ones those with the smaller id. Nobody's author ("") has no quota.
    """
    left = sorted(sorted(shares, key=lambda share: share.id), key=lambda share: share.at, reverse=True)
    found = over_quota(left, lambda share: share.source, per_source, "over the quota of source {}")
    left = [share for share in left if share.id not in found]
    found |= over_quota(left, lambda share: share.author, per_author, "over the quota of author {}")
    left = [share for share in left if share.id not in found]
    return found | over_share(left, model_made)


def over_quota(
    newest_first: Iterable[QuotaEntry],
    name_of: Callable[[QuotaEntry], str],
    quota: Mapping[str, int] | int | None,
    reason: str,
) -> dict[str, str]:
    """Those beyond the first `quota` of each name."""
    seen: Counter[str] = Counter()
    found = {}
    for share in newest_first:
        name = name_of(share)
        most = quota.get(name) if isinstance(quota, Mapping) else quota
        if most is not None and name:
            seen[name] += 1
            if seen[name] > most:
                found[share.id] = reason.format(name)
    return found


def over_share(newest_first: Sequence[QuotaEntry], most: float = MODEL_MADE) -> dict[str, str]:
    """Model-made examples beyond their share of all tokens. Where all are model-made and `most` is below 1: all."""
    theirs = [share for share in newest_first if share.model_made]
    if most >= 1:
        return {}
    room = most / (1 - most) * sum(share.tokens for share in newest_first if not share.model_made)
    found = {}
    for share in theirs:
        room -= share.tokens
        if room < -1e-9:
            room += share.tokens
            found[share.id] = "over the share of model-made examples"
    return found


def counted(reasons: Mapping[str, str]) -> dict[str, int]:
    """How many were dropped for each reason."""
    return dict(sorted(Counter(reasons.values()).items()))


class Diversity(Record):
    """How many-sided answers are. Shares and similarities are between 0 and 1."""

    examples: int
    answers: float  # effective number of different answers: exp of the entropy
    most_frequent_answer: float
    most_frequent_opening: float
    nearest: float  # mean similarity of a sampled text to the nearest other one of the sample


def diversity(answer_groups: Iterable[str], openings: Iterable[str], sample: Sequence[str]) -> Diversity:
    """Measured from the names of the answers (hashes will do), their openings, and a sample of texts."""
    groups, first_words = Counter(answer_groups), Counter(openings)
    total = groups.total()
    entropy = -sum(n / total * math.log(n / total) for n in sorted(groups.values()))
    return Diversity(
        examples=total,
        answers=math.exp(entropy) if total else 0.0,
        most_frequent_answer=max(groups.values(), default=0) / max(1, total),
        most_frequent_opening=max(first_words.values(), default=0) / max(1, first_words.total()),
        nearest=mean_nearest(sample),
    )


def first_words(answer: str) -> str:
    """The first three words of an answer, in small letters."""
    return " ".join(answer[:200].lower().split()[:3])


def sample_ids(ids: Iterable[str], seed: str = "", count: int = SAMPLE) -> list[str]:
    """The same ids whatever their order, for `diversity`'s sample; memory does not grow with their number."""
    best: list[tuple[float, str]] = []
    for name in ids:
        best.append((stable_fraction("diversity", seed, name), name))
        if len(best) >= 4 * count:
            best = sorted(best)[:count]
    return sorted(name for _, name in sorted(best)[:count])


def mean_nearest(texts: Sequence[str]) -> float:
    """Mean over the texts of the similarity to their nearest other one (0 for fewer than two)."""
    grams = [shingles(text) for text in texts]
    if len(grams) < 2:
        return 0.0
    return sum(
        max(jaccard(mine, other) for j, other in enumerate(grams) if i != j) for i, mine in enumerate(grams)
    ) / len(grams)


def alarms(found: Diversity) -> tuple[str, ...]:
    """What a person should look at, one sentence each; nothing where there are too few examples to say."""
    if found.examples < 20:
        return ()
    said = []
    if found.most_frequent_answer > ONE_ANSWER:
        said.append(f"One answer makes {found.most_frequent_answer:.0%} of all examples: the model may learn it alone.")
    if found.most_frequent_opening > ONE_OPENING:
        said.append(f"{found.most_frequent_opening:.0%} of the answers begin with the same three words.")
    if found.answers < FEWEST * found.examples:
        said.append(f"{found.examples} examples teach as little as {found.answers:.0f} different answers would.")
    if found.nearest > ALIKE:
        said.append(
            f"Examples are {found.nearest:.0%} alike to their nearest neighbour: they may be made from one form."
        )
    return tuple(said)
