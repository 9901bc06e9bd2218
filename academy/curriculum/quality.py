"""Quality of an example: a check for noise and a score, both independent of the language.

The score starts from user feedback (rating, star). It is lowered for an answer that repeats itself, echoes the request
or stops in the middle. An example below MIN_QUALITY is dropped. Code, tables, JSON, numbers, emoji and all scripts are
good answers: what only looks unlike prose is not noise.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import orjson

from academy.experience.experience import Experience

MIN_QUALITY = 0.3
"""Score below which an example is dropped."""
LONGEST_NUMBER = 64
"""Digits that may be the same: the zeros of a large number or of an empty commit id."""
DIGESTS = (32, 40, 56, 64, 96, 128)
"""Lengths of hexadecimal digests, which are good answers."""
_RUN = re.compile(r"(\S)\1{15,}")
_RULE = re.compile(r"([=*_#~.+-])\1{2,}|[|\u2500-\u259f]")
_MOJIBAKE = re.compile("(?:Ã[\u0080-\u00bf]|Â[\u0080-\u00bf]|â€|Å[\u0080-\u00bf]|ï¿½|\ufffd)")
_BLOB = re.compile(r"[A-Za-z0-9+/=\s]{120,}")
_FENCE = re.compile(r"(?m:^[ \t]{0,12}(?P<fence>`{3,}+|~{3,}+)(?P<rest>[^\n]*+)$)")
_SYMBOLS = ("Mn", "Mc", "So", "Sm", "Cf")
"""Categories of marks and symbols."""
_TABLE = re.compile(r"(?m:^[ \t]*\|.*\|[ \t]*$)")
_CUT = re.compile(r"(?:(?<![:;=-])[,(\[{]|\b(?:and|the|und|oder|oraz|lub|et))$")
"""An open bracket outside an emoticon, or a word that another must follow. Sentences may end in a single letter
("option A"), in a preposition ("what it is made of") and in a word of another language ("die")."""


def noise(text: str) -> str:
    """Why a text is noise in any language; empty if it is not."""
    visible = "".join(text.split())
    has_words = any(sign.isalnum() for sign in visible)
    if sum(_length(run, has_words=has_words) for run in _RUN.finditer(text)) > len(visible) / 2:
        return "one sign repeated"
    if len(_MOJIBAKE.findall(text)) > max(1, len(text) // 200):
        return "broken encoding"
    if _is_encoded(text):
        return "encoded data"
    if _is_mostly_signs(text):
        return "mostly signs"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= 8:
        line, count = Counter(lines).most_common(1)[0]
        if count > len(lines) / 2 and sum(sign.isalpha() for sign in line) >= 8:  # not "}", "0" or "| - |"
            return "one line repeated"
    return ""


def _length(run: re.Match[str], *, has_words: bool) -> int:
    """The length of a run of one sign that is neither a number nor a line between words."""
    is_number = run[1].isdigit() and len(run[0]) <= LONGEST_NUMBER
    return 0 if is_number or (has_words and _RULE.match(run[0])) else len(run[0])


def _is_encoded(text: str) -> bool:
    """A file in base64 or hexadecimal: long lines of letters and digits; not a list of words, a number or a digest."""
    words = text.split()
    longest = max(words, key=len, default="")
    if len(longest) < 60 or not _BLOB.fullmatch(text) or longest.isdigit():
        return False
    is_hex = all(sign in "0123456789abcdefABCDEF" for sign in longest)
    if is_hex and len(words) == 1 and len(longest) in DIGESTS:
        return False
    return is_hex or (any(sign.isdigit() for sign in longest) and any(sign.isalpha() for sign in longest))


def _is_mostly_signs(text: str) -> bool:
    signs = [sign for sign in _RULE.sub("", text) if not sign.isspace()]
    if len(signs) < 20:
        return False
    # the vowel signs of many scripts are marks, and emoji are symbols
    share = sum(sign.isalnum() or (not sign.isascii() and unicodedata.category(sign) in _SYMBOLS) for sign in signs)
    if share >= 0.35 * len(signs):
        return False
    is_balanced = all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}"))
    return not (is_balanced and any(sign in text for sign in "()[]{}") and share >= 0.05 * len(signs)) and not _json(
        text
    )


def _json(text: str) -> bool:
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def truncated(answer: str) -> bool:
    """Whether an answer stops in the middle: an open code fence, or an end that something must follow."""
    return bool(_open_fence(answer)) or (len(answer) > 40 and _CUT.search(answer.rstrip()) is not None)


def _open_fence(text: str) -> str:
    """The fence of a block of code that is not closed; empty if there is none. Only a line of its own is a fence."""
    fence = ""
    for line in _FENCE.finditer(text):
        if not fence:
            fence = "" if line["fence"][0] in line["rest"] else line["fence"]
        elif line["fence"].startswith(fence) and not line["rest"].strip():
            fence = ""
    return fence


def quality(experience: Experience) -> float:
    """A score from 0 to 1, from user feedback and from the text."""
    score = 0.7
    if experience.gold:
        score = 1.0
    elif experience.rating:
        score = 0.2 + 0.16 * experience.rating
    answer, request = experience.answer.strip(), experience.request.strip()
    if truncated(answer):
        score -= 0.45
    if len(answer) > 60 and answer.lower() == request.lower():
        score -= 0.5
    score -= max(0.0, _repetition(answer) - 0.2)
    return max(0.0, min(1.0, score))


def _repetition(answer: str) -> float:
    """The share of repeated groups of three words in prose; tables, code and JSON repeat themselves rightly."""
    if "```" in answer or _json(answer):
        return 0.0
    words = [word for word in _TABLE.sub("", answer).lower().split() if any(sign.isalpha() for sign in word)]
    if len(words) < 30:
        return 0.0
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    return sum(n - 1 for n in trigrams.values()) / max(1, len(words) - 2)
