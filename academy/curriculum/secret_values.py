# ruff: noqa: E501  a pattern is read in one piece
"""What a secret value looks like: not a placeholder, a word, a name in code, a digest, an identifier or a path."""

from __future__ import annotations

import math
import re
from collections import Counter

_PLACEHOLDER_WORDS = re.compile(
    r"(?:your|my[-_]|the[-_]|some[-_]|insert|enter|replace|change|example|sample|dummy|fake|test$|testing$|todo|fixme|none$|null$|"
    r"nil$|true$|false$|undefined|redacted|removed|hidden|masked|secrets?$|password|passwort|passwd|pass$|token$|empty|required|"
    r"optional|string|str$|int$|bytes|bool|function|lambda|self\.|this\.|os\.|env\b|environ|process\.env|config|settings|getenv|"
    r"secretref|valuefrom|fromenv|cache|hunter2$)",
    re.IGNORECASE,
)
_PLACEHOLDER_SHAPES = re.compile(
    r"(?:<[^<>]*>?$|\{.*\}$|\[.*\]$|\(.*\)$|#\{.*\}$|%[(\w].*\)?[sd%]$|%[sd]$|\$\{|\$\(|\$[A-Z_][A-Z0-9_]*$|\$[A-Za-z_]+\d{0,2}$|\{\{|\[(?:secret|personal):?$|"
    r"(.)\1*$|x{3,}|\.{3}|\*{3}|--?[a-zA-Z][a-z-]*$|__\w+__$|_[a-z_]+$|@[A-Za-z_.]+[:.]?$|"
    r"vault:|ssm:|arn:|ref\+|op://|secret/|kv/|vault/|projects/|https?://[^@]*$|~?\.{0,2}/[\w.-]*(?:/[\w.@*+-]*)*$|[A-Za-z]:\\|"
    r"v\d+$|\d{4}-\d\d-\d\d)",
    re.IGNORECASE,
)
_CODE = re.compile(r"[A-Za-z_][\w-]*(?:(?:\.|::|->|/)[A-Za-z_][\w-]*)*(?:\(.*)?[.:!?]?$")
_WORDS = re.compile(
    r"(?:[A-Z]?[a-z]{1,20}|[A-Z]{2,20})\d{0,3}(?:[-_./: ]{1,2}(?:[A-Z]?[a-z]{1,20}|[A-Z]{2,20})\d{0,3})+$|[A-Z]?[a-z]{1,15}\d{0,2}$|[A-Z]{1,15}\d{0,2}$"
)
_IDENTIFIER = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$")
_SEPARATORS = re.compile(r"[-_./+~:=]+")
_WORDY = re.compile(r"[a-z]{7,}|[A-Z][a-z]{4,}[A-Z_./-][a-z]|\d{8,}")
_CAMEL = re.compile(r"[A-Z][a-z]{3,}(?:[A-Z][a-z]+)*[A-Z][a-z]{3,}")
MIN_ENTROPY = 4.0
"""Bits per character of a long token (random base64 has about 5, identifiers and words have less than 3.8)."""


def is_placeholder(value: str) -> bool:
    """Whether a value stands for a secret that is elsewhere: `<your-token>`, `changeme`, `$PASSWORD`, `***`."""
    if _PLACEHOLDER_SHAPES.match(value):
        return True
    return _PLACEHOLDER_WORDS.match(value) is not None and not (len(value) >= 20 and is_random(value, short=True))


def is_words(value: str) -> bool:
    """Whether a value is a word, or words with separators."""
    return _WORDS.match(value) is not None


def is_code(value: str) -> bool:
    """Whether a value is a name or a call of a program."""
    return _CODE.match(value) is not None


def is_identifier(value: str) -> bool:
    """Whether a value is a UUID."""
    return _IDENTIFIER.match(value) is not None


def is_dense(value: str) -> bool:
    """Whether a value is one long run of letters of both cases and digits, and not a name of classes."""
    mixed = any(c.islower() for c in value) and any(c.isupper() for c in value) and any(c.isdigit() for c in value)
    return len(value) >= 20 and value.isalnum() and mixed and _CAMEL.search(value) is None


def is_strong(value: str) -> bool:
    """Whether a value can hardly be anything but a secret or a digest: long, with digits among its letters."""
    digits = sum(c.isdigit() for c in value)
    letters = sum(c.isalpha() for c in value)
    if len(value) < 16 or digits < 2 or letters < 2 or is_words(value):
        return False
    parts = _SEPARATORS.split(value)
    longest = max(parts, key=len)
    if _CAMEL.search(value) or len(longest) < 10 or not any(c.isdigit() for c in longest):
        return False
    return _WORDY.search(value) is None or (len(longest) >= 20 and digits >= 4)


def is_random(token: str, *, short: bool) -> bool:
    """Whether a token looks random: digits among letters of both cases, high entropy, without words or paths."""
    digits = sum(c.isdigit() for c in token)
    letters = sum(c.isalpha() for c in token)
    if digits < 3 or letters < 6 or len(token) < (16 if short else 24):
        return False
    if not (any(c.islower() for c in token) and any(c.isupper() for c in token)) and not short:
        return False
    if token.count("/") > 1 + len(token) // 24:
        return False
    if (token_words := _WORDY.findall(token)) and len(token_words) > len(token) / 60 - 1 / 3:
        return False
    if max(map(len, _SEPARATORS.split(token))) < 10:
        return False
    if re.fullmatch(r"[0-9a-f]+", token):
        return short and len(token) not in (40, 64)  # a digest after a name
    return entropy(token) >= (3.3 if short else MIN_ENTROPY)


def entropy(token: str) -> float:
    """Bits per character."""
    counts = Counter(token)
    return -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values())
