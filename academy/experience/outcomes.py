"""The outcome of a lesson that a user adds: a success, unless the result or the caller clearly says otherwise.

A result is free text in any language. It is read clause by clause: "failed at first, then worked" is a success, "it
ran, but the tests failed" a failure. Words of failure that are denied or repaired ("without errors", "fixed the bug")
do not count. English, Polish and German words are known; any other result counts as a success.

Imported lines follow another rule (reading.py): without an outcome or a rating they stay unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from academy.errors import InputError
from academy.experience.experience import Outcome

Reading = Literal["success", "failure", "neutral"]

BAD_RATING = 2
"""Ratings up to this one say that the answer was bad."""
REPAIRED = re.compile(
    r"(?:fixed|repaired|resolved|solved|corrected|handled|eliminated|removed|gone|disappeared|"
    r"naprawi\w*|rozwiąza\w*|usuni\w*|poprawion\w*|zniknął|zniknęł\w*|behoben|gelöst|repariert)"
)
WORKED = re.compile(
    r"(?:work(?:s|ed|ing)?|helps?|ok|okay|success(?:ful|fully|es)?|succe(?:ed|eds|eded)|pass(?:es|ed|ing)?|done|completed?|helped|"
    r"correct|correctly|right|green|sukces\w*|działa\w*|zadziała\w*|uda(?:ł|ła|ło|ły|je)|powiod\w*|pomog\w*|poprawn\w*|"
    r"funktioniert\w*|klappt\w*|geklappt|erfolgreich\w*|erfolg)"
)
FAILED = re.compile(
    r"(?:fail(?:s|ed|ing|ure|ures)?|errors?|bugs?|crash(?:es|ed|ing)?|exceptions?|traceback|broken?|breaks|wrong|wrongly|"
    r"incorrect|incorrectly|unsuccessful|unsuccessfully|unresolved|unsolved|unfixed|cancell?ed|aborted|rejected|"
    r"timeouts?|useless|worse|błąd|błędy|błęd\w*|porażk\w*|niepowodzeni\w*|nieudan\w*|zawiod\w*|odrzucon\w*|anulowan\w*|"
    r"fehler\w*|fehlgeschlagen|gescheitert|falsch\w*|abgebrochen)"
)
DENIED = frozenset({
    "not", "no", "never", "without", "cannot", "zero", "0", "none", "neither", "nor", "free", "hardly",
    "nie", "bez", "brak", "żadnych", "żaden", "nigdy", "nicht", "kein", "keine", "keinen", "ohne",
})  # fmt: skip
REACH = 4
"""How many words after a denial it still denies."""
MODIFIED = frozenset(
    {"free", "handling", "handler", "rate", "message", "messages", "report", "reports", "log", "budget"}
)
"""Words after which "error" names something else: "error handling added"."""
EARLIER = frozenset({"before", "previously", "earlier", "used", "wcześniej", "vorher", "früher"})
"""A clause with one of these names a failure that is over."""
REFUSALS = frozenset({"false", "no", "nope", "nie", "nein", "0", "bad", "n"})
"""A result of this word alone is a failure."""
BAD_MARKS, GOOD_MARKS = "❌✗✘👎", "✅✓✔👍"
PHRASES = (
    (re.compile(r"\btimed out\b|\btime out\b"), "timeout"),
    (re.compile(r"\bno longer\b|\bnot any ?more\b|\bjuż nie\b"), "not"),
    (re.compile(r"\b(?:no|without) (?:success|effect|luck|result)\b|\bbez (?:skutku|powodzenia|efektu)\b"), "failure"),
    (re.compile(r"(?<=\w)n['’]t\b"), " not"),
    (re.compile(r"\bnot only\b"), ""),
)
EXIT = re.compile(r"\b(?:exit(?:ed)?|return)(?: ?(?:with|code|status|value))* ?[:=]? ?(-?\d+)\b")
CLAUSES = re.compile(
    r"[,;.!?\n…]+|\b(?:then|but|however|afterwards|finally|now|potem|ale|lecz|teraz|dann|aber|jetzt)\b"
)


def outcome_of_lesson(result: str, metadata: Mapping[str, Any]) -> Outcome:
    """The outcome of an added lesson: `metadata["outcome"]`, or else what its rating and its result say.

    Raises InputError for an outcome that is not one of the three.
    """
    if (outcome := metadata.get("outcome")) is not None:
        return _explicit(outcome)
    rating = metadata.get("rating")
    if isinstance(rating, int) and 0 < rating <= BAD_RATING:
        return "failure"
    return "failure" if is_failure(result) else "success"


def refuse_invalid(texts: Mapping[str, object], tags: Sequence[object], metadata: object) -> None:
    """Raise InputError for a lesson that is not made of texts. A failed lesson may have no answer."""
    for name, text in texts.items():
        if not isinstance(text, str):
            raise InputError(f"The lesson's {name} must be text, not {type(text).__name__}.", "Pass it as a string.")
    if not str(texts["situation"]).strip():
        raise InputError("A lesson needs a situation: the request.", "Pass it as text.")
    if not all(isinstance(tag, str) for tag in tags):
        raise InputError("A lesson's tags must be texts.", "Pass a list of strings.")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InputError("A lesson's metadata must be a dictionary.", 'For example {"author": "Ann"}.')
    try:
        "".join((*map(str, texts.values()), *map(str, tags))).encode()
    except UnicodeEncodeError as problem:
        raise InputError("The lesson is not valid text.", "Encode it in UTF-8.") from problem


def is_failure(result: str) -> bool:
    """Whether a result clearly says that something did not work. The last clause that says anything decides."""
    if any(mark in result for mark in BAD_MARKS):
        return True
    if any(mark in result for mark in GOOD_MARKS):
        return False
    text = result.lower().replace("_", " ").strip()
    if text.strip(" .!") in REFUSALS or text.startswith("traceback (most recent call last)"):
        return True
    if codes := EXIT.findall(text):
        return any(int(code) != 0 for code in codes)
    for phrase, words in PHRASES:
        text = phrase.sub(words, text)
    readings = [_read_clause(re.findall(r"[^\W_]+", clause)) for clause in CLAUSES.split(text)]
    if "counted" in readings:
        return True
    return next((reading for reading in reversed(readings) if reading != "neutral"), "success") == "failure"


def _read_clause(words: list[str]) -> Reading | Literal["counted"]:
    """What one clause says. `counted`: a number of failures ("2 failed"), which no other clause repairs."""
    reading: Reading | Literal["counted"] = "neutral"
    repaired = False
    for n, word in enumerate(words):
        following = words[n + 1] if n + 1 < len(words) else ""
        denied = any(earlier in DENIED for earlier in words[max(0, n - REACH) : n]) or following == "nicht"
        if REPAIRED.fullmatch(word):
            repaired, reading = (False, "failure") if denied else (True, "success")
        elif WORKED.fullmatch(word):
            reading = "failure" if denied else "success"
        elif FAILED.fullmatch(word):
            if denied:
                reading = "success"
            elif following in MODIFIED or EARLIER.intersection(words):
                continue
            elif n and words[n - 1].isdecimal() and not repaired:
                reading = "counted"
            elif not repaired:
                reading = "failure"
        if reading == "counted" and not any(REPAIRED.fullmatch(later) for later in words[n + 1 :]):
            return "counted"
    return reading


def _explicit(outcome: object) -> Outcome:
    if isinstance(outcome, bool):
        return "success" if outcome else "failure"
    match str(outcome).strip().lower():
        case "success" | "successful" | "succeeded" | "sukces" | "ok" | "completed":
            return "success"
        case "failure" | "failed" | "fail" | "error" | "porażka" | "cancelled" | "canceled":
            return "failure"
        case "unknown":
            return "unknown"
    raise InputError(f"The lesson's outcome {str(outcome)[:50]!r} is not valid.", "Use success, failure or unknown.")
