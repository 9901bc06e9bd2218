"""The words of a text, as requests and answers are compared: what a reader would say aloud, in order.

Case, white space, quotation marks, sentence punctuation and invisible characters make no difference. Numbers, options
of commands and operators do: `8443`, `--off` and `>=` are words. `E1042` and `5GB` are two words each, so that `5 GB`
is the same. `don't` is `not`.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(
    r"(?<![\w-])--?[^\W\d_][\w-]*"  # an option: -v, --dry-run
    r"|(?<![\w.)\]-])-\d+(?:[.,:]\d+)*"  # a negative number
    r"|\d+(?:[.,:]\d+)*"  # a number, a version, a time
    r"|[^\W\d_]+(?:['\u2019][^\W\d_]+)*(?:\+\+|#)?"  # letters: gate, don't, C++
    r"|[<>=|&%$@~^+\u00b1\u2260\u2264\u2265]+"  # an operator or a unit sign
)
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+")
_ENDINGS = frozenset({"s", "t", "d", "m", "ll", "re", "ve"})
_NEGATED = re.compile(r"n['\u2019]t$")


def wording(text: str) -> tuple[str, ...]:
    """The words of a text in lower case. Options keep their case, because -v and -V are two."""
    plain = text if text.isascii() else _plain(text)
    words: list[str] = []
    for word in _WORD.findall(plain):
        first = word[0]
        if word == "=":  # --gate=north is --gate north
            continue
        if first == "-":
            words.append(word)
        elif first.isdigit():
            words.append(word.replace(",", "") if _GROUPED.fullmatch(word) else word)
        elif "'" in word or "\u2019" in word:
            words += _parts(word.lower())
        else:
            words.append(word.lower())
    return tuple(words)


def _plain(text: str) -> str:
    """The text in Unicode's compatible form (NFKC), without invisible characters."""
    return "".join(char for char in unicodedata.normalize("NFKC", text) if unicodedata.category(char) != "Cf")


def _parts(word: str) -> list[str]:
    """The parts of a word with apostrophes: what a negation leaves, and no ending of a contraction."""
    if _NEGATED.search(word):
        return ["not"]
    first, *others = re.split(r"['\u2019]", word)
    return [first, *(part for part in others if part not in _ENDINGS)]
