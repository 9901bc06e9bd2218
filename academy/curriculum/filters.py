"""Filters: each a small function that says why an experience is not trained on, or nothing.

They see one experience at a time. What needs the whole collection (duplicates, hold-out, quotas) is in curator.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from academy.experience.source import Experience

Filter = Callable[[Experience], str]

SHORTEST, LONGEST = 2, 20_000
"""Characters of a request or an answer."""

SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_[A-Za-z0-9_]{40,}"
    r"|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\b[rs]k_live_[A-Za-z0-9]{16,}"
    r"|\bhf_[A-Za-z0-9]{30,}"
    r"|\bAIza[0-9A-Za-z_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
    r"|\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@]{3,}@"
)
"""The formats of well-known providers. It knows no entropy and no personal data."""


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


def holds_secret(experience: Experience) -> str:
    """Keys, tokens and passwords in URLs, by the providers' own formats."""
    return "holds a secret" if SECRETS.search(experience.request) or SECRETS.search(experience.answer) else ""


FILTERS: tuple[Filter, ...] = (not_successful, wrong_length, holds_secret)


def reason_to_drop(experience: Experience) -> str:
    """The first filter's reason, or nothing."""
    return next((reason for check in FILTERS if (reason := check(experience))), "")
