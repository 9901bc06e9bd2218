"""Filters: each is a function that returns the reason to drop an experience, or an empty string.

A filter sees one experience. Checks of the whole collection (duplicates, hold-out, quotas) are in curator.py. `clean`
removes secrets and personal data from the experiences that remain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from academy.curriculum import personal, secrets
from academy.curriculum.injection import find_injection
from academy.curriculum.quality import MIN_QUALITY, noise, quality
from academy.experience.experience import Experience

Filter = Callable[[Experience], str]

SHORTEST, LONGEST = 1, 20_000
"""Characters that a request or an answer may have. "y" and "5" are answers."""
MAX_SECRETS = 0.5
"""Largest share of a text that may be secrets; with more there is nothing to learn from the rest."""


def clean(experience: Experience) -> tuple[Experience, Counter[str]]:
    """The experience with secrets and personal data replaced by marks, and the number of each kind."""
    redactions: Counter[str] = Counter()

    def clean_text(text: str) -> str:
        for category, redact in (("secret", secrets.redact), ("personal", personal.redact)):
            text, findings = redact(text)
            redactions.update(f"{category}: {finding.kind}" for finding in findings)
        return text

    request, answer = clean_text(experience.request), clean_text(experience.answer)
    context = tuple(turn.model_copy(update={"content": clean_text(turn.content)}) for turn in experience.context)
    if not redactions:
        return experience, redactions
    return experience.model_copy(update={"request": request, "answer": answer, "context": context}), redactions


def holds_key_file(experience: Experience) -> str:
    """A private key, or a text that is mostly secrets: nothing is left to learn after redaction."""
    for text in (experience.request, experience.answer):
        if secrets.holds_key_file(text):
            return "holds a private key"
        length = sum(finding.end - finding.start for finding in secrets.find_secrets(text))
        if length > MAX_SECRETS * len(text):
            return "holds little but secrets"
    return ""


def not_successful(experience: Experience) -> str:
    """A failure, or an unknown outcome: not an example to follow."""
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
    """Orders to the reader in any part of the experience."""
    texts = (experience.request, experience.answer, *(turn.content for turn in experience.context))
    return next((f"injection: {reason}" for text in texts if (reason := find_injection(text))), "")


def low_quality(experience: Experience) -> str:
    """A quality score below MIN_QUALITY."""
    return "low quality" if quality(experience) < MIN_QUALITY else ""


FILTERS: tuple[Filter, ...] = (not_successful, wrong_length, holds_key_file, injected, noisy, low_quality)


def reason_to_drop(experience: Experience) -> str:
    """The reason of the first filter that rejects the experience; empty if none does."""
    return next((reason for check in FILTERS if (reason := check(experience))), "")


def judge(experiences: Sequence[Experience]) -> list[tuple[Experience, str, dict[str, int]]]:
    """Run the filters on one shard: each experience with the reason against it, or redacted with the counts by kind."""
    judgements = []
    for raw in experiences:
        reason = reason_to_drop(raw)
        experience, redactions = (raw, Counter[str]()) if reason else clean(raw)
        judgements.append((experience, reason, dict(redactions)))
    return judgements
