"""Lessons that give different answers to one request. They stay, counted and shown, until a user supersedes one."""

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
    by_request: dict[Any, list[Experience]] = defaultdict(list)
    for experience in sorted(experiences, key=lambda experience: (experience.seq, experience.id)):
        words = wording(experience.request), signs(experience.request)
        by_request[experience.kind == "commit", experience.before, words].append(experience)
    return [
        Contradiction(first=first.id, second=later.id, batches=(first.batch, later.batch))
        for first, *others in by_request.values()
        for later in others
        if contradict(first.words, later.words)
    ]
