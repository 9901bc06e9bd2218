"""The last check before training: no training text is similar to, or contains, what an examination asks.

Hold-out and curation keep both sides apart; this check proves that they did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from academy.curriculum.dataset import Example
from academy.curriculum.decontamination import GuardedSuite, OverlapIndex
from academy.curriculum.similarity import near_between
from academy.errors import ExaminationError
from academy.experience.sources.commits import REQUEST_PREFIX


def guarded_index(
    held_out: Sequence[Example], others: Sequence[GuardedSuite] = (), allowed: Collection[str] = ()
) -> OverlapIndex:
    """Index of the held-out requests and of the texts of the other suites."""
    # Requests of one team share phrases, so a shared run of words means nothing; only a whole quoted request counts.
    # The hold-out itself keeps similar requests apart.
    requests = [example.request for example in held_out if example.suite == "recall"]
    recall = GuardedSuite("recall", requests, requests_only=True, shared_runs=False)
    subjects = [f"{example.request}\n{example.answer}" for example in held_out if example.suite == "commits"]
    commits = GuardedSuite("commits", subjects, shared_runs=False)  # unrelated changes share lines
    return OverlapIndex([recall, commits, *others], allowed, boilerplate=(REQUEST_PREFIX,))


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
    """Raises ExaminationError with the first pair of texts that overlap. `train`: conversations, lists of messages."""
    requests = [example.request for example in held_out]
    openings = [next(m["content"] for m in messages if m["role"] == "user") for messages in train]
    texts = [(messages[-2]["content"], messages[-1]["content"]) for messages in train]
    for i, j, similarity in near_between(requests, openings):
        raise ExaminationError(
            f"A training request is too similar ({similarity:.2f}) to a held-out one: '{openings[j]}' and "
            f"'{requests[i]}'.",
            "Nothing was trained. Remove the lesson with `academy lessons forget`, or report a fault of the hold-out.",
        )
    for n, overlaps in guarded_index(held_out, others, allowed).scan(texts).items():
        raise ExaminationError(
            f"A training example overlaps with suite {overlaps[0].suite}: '{overlaps[0].matched}' is part of "
            f"'{texts[n][0]}'.",
            "Nothing was trained. Run `academy curate` again; `academy dataset show` lists what it dropped.",
        )
