"""The last check before training: no training text is similar to, or contains, what an examination asks.

Hold-out and curation keep both sides apart; this check proves that they did.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from academy.curriculum.carrying import answer_key, carried, opposed, salts
from academy.curriculum.dataset import Example, opening_of
from academy.curriculum.decontamination import GuardedSuite, OverlapIndex
from academy.curriculum.similarity import near_between
from academy.errors import ExaminationError
from academy.experience.sources.commits import REQUEST_PREFIX
from academy.models.messages import Transcript


def near_held_out(train: Sequence[Transcript], held_out: Sequence[Example]) -> Iterator[tuple[int, int, float]]:
    """Pairs (held-out example, conversation, similarity) whose first requests are one question (carrying.py)."""
    openings = [opening_of(messages) for messages in train]
    requests = [example.request for example in held_out]
    yield from near_between(
        requests,
        [request for request, _ in openings],
        salts=(
            salts((example.request, answer_key(example.words)) for example in held_out),
            salts((request, answer_key(answer)) for request, answer in openings),
        ),
        distinct=opposed,
    )


def near_by_another_answer(train: Sequence[Transcript], held_out: Sequence[Example]) -> set[int]:
    """Conversations (by number) that are near a held-out request only because they give the same answer.

    The hold-out compares a request by its first answer. So a request that has several, in contradicting lessons, may
    be near a held-out one by another answer than the one it was assigned with.
    """
    words = [carried(example.request) for example in held_out]
    return {
        j for i, j, _ in near_held_out(train, held_out) if carried(opening_of(train[j])[0]) != words[i]
    }  # fmt: skip


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
    refuse_overlap_of_texts([example.transcript for example in train], held_out, others, allowed)


def refuse_overlap_of_texts(
    train: Sequence[Transcript],
    held_out: Sequence[Example],
    others: Sequence[GuardedSuite] = (),
    allowed: Collection[str] = (),
) -> None:
    """Raises ExaminationError with the first pair of texts that overlap. `train`: conversations."""
    texts = [(_request_of(transcript), transcript.messages[-1].words) for transcript in train]
    for i, j, similarity in near_held_out(train, held_out):
        raise ExaminationError(
            f"A training request is too similar ({similarity:.2f}) to a held-out one: '{opening_of(train[j])[0]}' and "
            f"'{held_out[i].request}'.",
            "Nothing was trained. Remove the lesson with `academy lessons forget`, or report a fault of the hold-out.",
        )
    for n, overlaps in guarded_index(held_out, others, allowed).scan(texts).items():
        raise ExaminationError(
            f"A training example overlaps with suite {overlaps[0].suite}: '{overlaps[0].matched}' is part of "
            f"'{texts[n][0]}'.",
            "Nothing was trained. Run `academy curate` again; `academy dataset show` lists what it dropped.",
        )


def _request_of(transcript: Transcript) -> str:
    """The last request."""
    return next(message.content for message in reversed(transcript.messages) if message.role == "user")
