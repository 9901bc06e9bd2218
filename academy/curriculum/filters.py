"""Filters: each a small function that says why an experience is not trained on, or nothing.

They see one experience at a time. What needs the whole collection (duplicates, hold-out, quotas) is in curator.py.
Secrets and personal data are taken out of the text first (`clean`); what is left of it may still be dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from academy.curriculum import personal, secrets
from academy.curriculum.injection import find_injection
from academy.curriculum.quality import LEAST, noise, quality
from academy.experience.experience import Experience

Filter = Callable[[Experience], str]

SHORTEST, LONGEST = 2, 20_000
"""Characters of a request or an answer."""
MOSTLY = 0.5
"""Share of a text that may be secrets and personal data; with more there is nothing to learn from the rest."""


def clean(experience: Experience) -> tuple[Experience, Counter[str]]:
    """The experience with secrets and personal data replaced by marks, and how many of each kind there were."""
    found: Counter[str] = Counter()

    def cleaned(text: str) -> str:
        for room, redact in (("secret", secrets.redact), ("personal", personal.redact)):
            text, findings = redact(text)
            found.update(f"{room}: {one.kind}" for one in findings)
        return text

    request, answer = cleaned(experience.request), cleaned(experience.answer)
    context = tuple(turn.model_copy(update={"content": cleaned(turn.content)}) for turn in experience.context)
    if not found:
        return experience, found
    return experience.model_copy(update={"request": request, "answer": answer, "context": context}), found


def holds_key_file(experience: Experience) -> str:
    """A private key, or a text that is hardly more than secrets: nothing is left to learn once it is taken out."""
    for text in (experience.request, experience.answer):
        if secrets.holds_key_file(text):
            return "holds a private key"
        taken = sum(one.end - one.start for one in secrets.find_secrets(text))
        if taken > MOSTLY * len(text):
            return "holds little but secrets"
    return ""


def not_successful(experience: Experience) -> str:
    """What failed, or is not known to have worked, is not an example to follow."""
    return "" if experience.outcome == "success" else f"outcome {experience.outcome}"


def wrong_length(experience: Experience) -> str:
    """Empty or very long texts."""
    for name, text in (("request", experience.request), ("answer", experience.answer)):
        if len(text.strip()) < SHORTEST:
            return f"{name} too short"
        if len(text) > LONGEST:
            return f"{name} too long"
    return ""


def noisy(experience: Experience) -> str:
    """Noise in any language."""
    for name, text in (("request", experience.request), ("answer", experience.answer)):
        if reason := noise(text):
            return f"{name}: {reason}"
    return ""


def injected(experience: Experience) -> str:
    """Orders to the reader, in any part of it."""
    texts = (experience.request, experience.answer, *(turn.content for turn in experience.context))
    return next((f"injection: {reason}" for text in texts if (reason := find_injection(text))), "")


def low_quality(experience: Experience) -> str:
    """A score below LEAST."""
    return "low quality" if quality(experience) < LEAST else ""


FILTERS: tuple[Filter, ...] = (not_successful, wrong_length, holds_key_file, injected, noisy, low_quality)


def reason_to_drop(experience: Experience) -> str:
    """The first filter's reason, or nothing."""
    return next((reason for check in FILTERS if (reason := check(experience))), "")
