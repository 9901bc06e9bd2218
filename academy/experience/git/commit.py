"""Parses a commit. Every field comes from its own place in the object, so a message cannot imitate another field."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple

MALFORMED = "a malformed commit"
MISSING = "an object is missing"
NOT_TEXT = "a message that is not text in its encoding"
CONTROL = "control characters in the subject"
LONG_SUBJECT = "a subject that is too long"
LONGEST_SUBJECT = 1000
BLANK = " \t\r"
"""White space as git sees it; Python's includes control characters."""
_PERSON = re.compile(rb"author ([^<]*)<([^>]*)>(?:.*>)?\s*(\d+)(?:\s+([+-])(\d+))?\s*", re.DOTALL)
_COMMITTED = re.compile(rb"committer .*>\s*+(\d+)")
_OF_PYTHON = frozenset(
    ("idna", "mbcs", "oem", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "unicode_internal")
)
"""Codecs that are not encodings of texts: git knows none of them."""


class CommitHeader(NamedTuple):
    """A commit without its changes."""

    sha: str
    parents: tuple[str, ...] = ()
    tree: str = ""
    author: str = ""
    email: str = ""
    at: str = ""
    subject: str = ""
    body: str = ""
    committed: int = 0  # seconds since 1970; orders the history
    unreadable: str = ""  # why nothing but the parents can be used
    unusable: str = ""  # why the subject cannot be learned


def parse_commit(sha: str, content: bytes) -> CommitHeader:
    """The commit in an object's bytes. A field that git would guess makes it a malformed commit."""
    head, _, message = content.partition(b"\n\n")
    lines = head.removesuffix(b"\n").split(b"\n")
    digits = len(sha)
    tree = _id(lines[0], b"tree ", digits)
    parents = []
    for line in lines[1:]:
        if not (parent := _id(line, b"parent ", digits)):
            break
        parents.append(parent)
    rest = lines[1 + len(parents) :]
    authors = [line for line in rest if line.startswith(b"author ")]
    person = _PERSON.fullmatch(authors[0]) if len(authors) == 1 else None
    committed = max((int(match[1][:18]) for line in rest if (match := _COMMITTED.match(line))), default=0)
    at = _time(person[3], person[4], person[5]) if person else ""
    if not tree or person is None or not at:
        return CommitHeader(sha, tuple(parents), tree, committed=committed, unreadable=MALFORMED)
    encoding = next((line[9:] for line in rest if line.startswith(b"encoding ")), b"utf-8")
    author, email, text, readable = _decoded(person[1].rstrip(), person[2], message, encoding)
    subject, body = _parts(text)
    return CommitHeader(
        sha, tuple(parents), tree, author, email, at, subject, body, committed,
        unusable="" if readable and not _problem(subject) else _problem(subject) or NOT_TEXT,
    )  # fmt: skip


def _id(line: bytes, name: bytes, digits: int) -> str:
    text = line.removeprefix(name)
    return text.decode() if line.startswith(name) and re.fullmatch(rb"[0-9a-f]{%d}" % digits, text) else ""


def _time(seconds: bytes, sign: bytes | None, zone: bytes | None) -> str:
    """The time as git writes it; a zone that does not exist counts as UTC. Empty for a time outside the calendar."""
    if len(seconds) > 12:
        return ""
    number = int(zone) if zone and len(zone) <= 4 else 0
    offset = timedelta(hours=number // 100, minutes=number % 100)
    if offset >= timedelta(hours=24):
        offset = timedelta(0)
    try:
        return datetime.fromtimestamp(
            int(seconds), timezone(-offset if sign == b"-" else offset) if zone else UTC
        ).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def _decoded(author: bytes, email: bytes, message: bytes, encoding: bytes) -> tuple[str, str, str, bool]:
    """The texts in the commit's own encoding, and whether they are text in it. As in git, a NUL ends a message."""
    texts = (author, email, message.partition(b"\0")[0])
    name = encoding.decode("ascii", errors="replace").strip()
    of_python = name.lower().replace("-", "_") in _OF_PYTHON
    try:
        first, second, third = (text.decode("utf-8" if of_python else name) for text in texts)
    except (LookupError, ValueError):  # an unknown encoding, or bytes that it does not have
        first, second, third = (text.decode("utf-8", errors="replace") for text in texts)
        return first, second, third, False
    return first, second, third, not of_python


def _parts(text: str) -> tuple[str, str]:
    """The subject, which is the first paragraph on one line, and the rest."""
    lines = text.split("\n")
    start = next((n for n, line in enumerate(lines) if line.strip(BLANK)), len(lines))
    end = next((n for n in range(start, len(lines)) if not lines[n].strip(BLANK)), len(lines))
    return " ".join(line.rstrip(BLANK) for line in lines[start:end]).strip(BLANK), "\n".join(lines[end:])


def _problem(subject: str) -> str:
    if any(unicodedata.category(sign) == "Cc" and sign != "\t" for sign in subject):
        return CONTROL
    return LONG_SUBJECT if len(subject) > LONGEST_SUBJECT else ""
