"""Lessons that give different answers to one request. They stay, counted and shown, until a user supersedes one.

Where a trusted source contradicts one that is not trusted, the latter is dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from academy.curriculum.carrying import contradict
from academy.curriculum.dataset import Contradiction
from academy.experience.experience import Experience
from academy.experience.wording import signs, wording


def find_contradictions(experiences: Iterable[Experience]) -> list[Contradiction]:
    """Each later experience whose answer differs from the first one to the same request, after the same messages."""
    return [
        Contradiction(first=first.id, second=later.id, batches=(first.batch, later.batch))
        for first, *others in _by_request(experiences)
        for later in others
        if contradict(first.words, later.words)
    ]


def contradicting_trusted(experiences: Iterable[Experience]) -> dict[str, str]:
    """The reason to drop each experience of an untrusted source that contradicts one of a trusted source, by id.

    Only a person can decide against a trusted lesson: `academy lessons supersede` retires it.
    """
    reasons = {}
    for same_request in _by_request(experiences):
        trusted_answers = {experience.words for experience in same_request if experience.trusted}
        for experience in same_request if trusted_answers else ():
            if not experience.trusted and any(contradict(answer, experience.words) for answer in trusted_answers):
                reasons[experience.id] = "contradicts a trusted lesson"
    return reasons


def _by_request(experiences: Iterable[Experience]) -> list[list[Experience]]:
    """Experiences by request, after the same messages; each list in order of admission."""
    by_request: dict[Any, list[Experience]] = defaultdict(list)
    for experience in sorted(experiences, key=lambda experience: (experience.seq, experience.id)):
        words = wording(experience.request), signs(experience.request)
        by_request[experience.kind == "commit", experience.before, words].append(experience)
    return list(by_request.values())
