"""Filters: each is a function that returns the reason to drop an experience, or an empty string.

A filter sees one experience. Checks of the whole collection (duplicates, hold-out, quotas) are in curator.py. `clean`
removes secrets and personal data from the experiences that remain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from academy.curriculum import secrets
from academy.curriculum.cleaning import Cleaner
from academy.curriculum.injection import find_injection
from academy.curriculum.quality import MIN_QUALITY, noise, quality
from academy.curriculum.secrets import UnscannableError
from academy.experience.experience import Experience

Filter = Callable[[Experience], str]

SHORTEST, LONGEST = 1, 20_000
"""Characters that a request or an answer may have. "y" and "5" are answers."""
LONGEST_CONTEXT = 200_000
"""Characters of all earlier turns together, with their calls, results and thoughts."""
MAX_SECRETS = 0.5
"""Largest share of a text that may be secrets; with more there is nothing to learn from the rest."""


NAMES_OF_PARTS = {"image": "a picture", "audio": "a sound", "video": "a film", "file": "a file"}
"""Parts of a message other than texts."""


def clean(experience: Experience) -> tuple[Experience, Counter[str]]:
    """The experience with secrets and personal data replaced by marks, and the number of each kind."""
    cleaner = Cleaner()
    update = {
        "request": cleaner.text(experience.request),
        "answer": cleaner.text(experience.answer),
        "context": tuple(map(cleaner.message, experience.context)),
        "trace": cleaner.trace(experience.trace),
    }
    if not cleaner.redactions:
        return experience, cleaner.redactions
    return experience.model_copy(update=update), cleaner.redactions


def as_learned(experience: Experience) -> Experience | None:
    """The experience as curation writes it; None where its length or its scan says that it is never written."""
    if wrong_length(experience):
        return None
    try:
        return clean(experience)[0]
    except UnscannableError:
        return None


def holds_key_file(experience: Experience) -> str:
    """A private key, or a text that is mostly secrets: nothing is left to learn after redaction."""
    for text in (experience.request, experience.answer, *experience.transcript.texts):
        if secrets.holds_key_file(text):
            return "holds a private key"
    names = {call.name for message in experience.transcript.messages for call in message.tool_calls}
    if any(secrets.find_secrets(name) for name in names | {tool.name for tool in experience.trace.tools}):
        return "holds a secret as the name of a tool"  # a mark cannot be a name
    for text in (experience.request, experience.words):
        length = sum(finding.end - finding.start for finding in secrets.find_secrets(text))
        if length > MAX_SECRETS * len(text):
            return "holds little but secrets"
    return ""


def not_successful(experience: Experience) -> str:
    """A failure, or an unknown outcome: not an example to follow."""
    return "" if experience.outcome == "success" else f"outcome {experience.outcome}"


def wrong_length(experience: Experience) -> str:
    """Empty or very long texts, and very long earlier turns."""
    for name, text in (("request", experience.request), ("answer", experience.words)):
        if len(text.strip()) < SHORTEST:
            return f"{name} too short"
        if len(text) > LONGEST:
            return f"{name} too long"
    if sum(len(turn.words) + len(turn.reasoning) for turn in experience.before) > LONGEST_CONTEXT:
        return "earlier turns too long"
    if sum(len(tool.description) + len(tool.parameters) for tool in experience.trace.tools) > LONGEST_CONTEXT:
        return "definitions of tools too long"
    return "thoughts too long" if len(experience.trace.reasoning) > LONGEST_CONTEXT else ""


def noisy(experience: Experience) -> str:
    """Noise in any language."""
    for name, text in (("request", experience.request), ("answer", experience.answer)):
        if reason := noise(text):
            return f"{name}: {reason}"
    return ""


def injected(experience: Experience) -> str:
    """Orders to the reader in any part of the experience."""
    texts = experience.transcript.texts
    return next((f"injection: {reason}" for text in texts if (reason := find_injection(text))), "")


def other_than_text(experience: Experience) -> str:
    """A picture, a sound, a film or a file: the base model reads texts only, and the text may make no sense alone."""
    parts = (part for message in experience.transcript.messages for part in message.parts)
    return next((f"has {NAMES_OF_PARTS[part.kind]}, which the base model cannot take" for part in parts), "")


def low_quality(experience: Experience) -> str:
    """A quality score below MIN_QUALITY."""
    return "low quality" if quality(experience) < MIN_QUALITY else ""


FILTERS: tuple[Filter, ...] = (
    not_successful,
    other_than_text,
    wrong_length,
    holds_key_file,
    injected,
    noisy,
    low_quality,
)


def reason_to_drop(experience: Experience) -> str:
    """The reason of the first filter that rejects the experience; empty if none does."""
    return next((reason for check in FILTERS if (reason := check(experience))), "")


def judge(experiences: Sequence[Experience]) -> list[tuple[Experience, str, dict[str, int]]]:
    """Run the filters on one shard: each experience with the reason against it, or redacted with the counts by kind."""
    judgements = []
    for raw in experiences:
        reason = reason_to_drop(raw)
        experience, redactions = raw, Counter[str]()
        if not reason:
            try:
                experience, redactions = clean(raw)
            except UnscannableError:
                reason = "cannot be scanned for secrets in time"
        judgements.append((experience, reason, dict(redactions)))
    return judgements
