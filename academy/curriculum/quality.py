"""Quality of an example: a check for noise and a score, both independent of the language.

The score starts from user feedback (rating, star). It is lowered for an answer that repeats itself, echoes the request
or stops in the middle. An example below MIN_QUALITY is dropped.
"""

from __future__ import annotations

import re
from collections import Counter

from academy.experience.experience import Experience

MIN_QUALITY = 0.3
"""Score below which an example is dropped."""
_RUN = re.compile(r"([^\s=*_#~.+/-])\1{15,}|([^\s])\2{200,}")  # lines of signs that separate sections are allowed
_RULE = re.compile(r"([=*_#~.+-])\1{3,}")
_MOJIBAKE = re.compile("(?:Ã[\u0080-\u00bf]|Â[\u0080-\u00bf]|â€|Å[\u0080-\u00bf]|ï¿½|\ufffd)")
_BLOB = re.compile(r"^[A-Za-z0-9+/=\s]{200,}$|^[0-9a-fA-F\s]{120,}$")
_CUT = re.compile(
    r"(?:[,(\[{]|\b(?:and|or|but|the|a|to|of|with|und|oder|der|die|das|i|oraz|lub|et|ou|y|o))$", re.IGNORECASE
)


def noise(text: str) -> str:
    """Why a text is noise in any language; empty if it is not."""
    if _RUN.search(text):
        return "one sign repeated"
    if len(_MOJIBAKE.findall(text)) > max(1, len(text) // 200):
        return "broken encoding"
    if _BLOB.match(text) and " " not in text.strip()[:100]:
        return "encoded data"
    signs = [sign for sign in _RULE.sub("", text) if not sign.isspace()]
    if len(signs) >= 20 and sum(sign.isalnum() for sign in signs) < 0.35 * len(signs):
        return "mostly signs"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) >= 8 and Counter(lines).most_common(1)[0][1] > len(lines) / 2:
        return "one line repeated"
    return ""


def truncated(answer: str) -> bool:
    """Whether an answer stops in the middle: an open code fence, or a last word that another must follow."""
    return answer.count("```") % 2 == 1 or (len(answer) > 40 and _CUT.search(answer.rstrip()) is not None)


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
    words = answer.lower().split()
    if len(words) >= 30:
        trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
        repetition = sum(n - 1 for n in trigrams.values()) / max(1, len(words) - 2)
        score -= max(0.0, repetition - 0.2)
    return max(0.0, min(1.0, score))
