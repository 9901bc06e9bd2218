"""The words of a text, as requests and answers are compared: what a reader would say aloud, in order.

Case, white space, quotation marks, sentence punctuation and invisible characters make no difference. Numbers, options
of commands and operators do: `8443`, `--off` and `>=` are words. `E1042` and `5GB` are two words each, so that `5 GB`
is the same. `don't` is `not`.

Commands and programs are more than their words: `rm -r /var/cache /crane` deletes more than `rm -r /var/cache/crane`,
and a line of Python does something else where it is indented otherwise. `signs` are what a text has of that kind.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from academy.experience.normal_form import without_invisible

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


_SIGNS = frozenset("/\\*[]{}_!")
_BEFORE, _AFTER = "`'\"\u201c\u201e\u2018(*_#", "`'\"\u201d\u2019)*_.,:;!?"
"""What prose and Markdown set around a word."""
_MARKS = {
    **dict.fromkeys("\u2713\u2714\u2705\u2611\U0001f44d", "yes"),
    **dict.fromkeys("\u2717\u2718\u274c\u2716\u2612\U0001f44e", "no"),
}


class Signs(NamedTuple):
    """The parts of a text that look like code, with the lines' indentation, and its marks of yes and no."""

    code: tuple[str, ...]
    marks: tuple[str, ...]

    def differ(self, other: Signs) -> bool:
        """Whether two texts of the same words say different things. Marks count where both have some."""
        return self.code != other.code or bool(self.marks and other.marks and self.marks != other.marks)


def signs(text: str) -> Signs:
    """What a text says beside its words."""
    lines = [line for line in text.expandtabs(4).splitlines() if line.strip()]
    depths = [len(line) - len(line.lstrip()) for line in lines]
    ranks = {depth: rank for rank, depth in enumerate(sorted(set(depths)))}  # 2 and 4 blanks mean the same
    code: list[str] = []
    for line, depth in zip(lines, depths, strict=True):
        if ranks[depth]:
            code.append(f"{ranks[depth]}>")
        for n, part in enumerate(line.split()):
            token = part.lstrip(_BEFORE).rstrip(_AFTER).lower()
            if token and not _SIGNS.isdisjoint(token):
                code.append(token.rstrip("/") or "/")
            elif part == "*" and n:  # at the beginning of a line it is a bullet
                code.append(part)
    return Signs(tuple(code), tuple(_MARKS[char] for char in text if char in _MARKS))


def wording(text: str) -> tuple[str, ...]:
    """The words of a text in lower case. Options keep their case, because -v and -V are two."""
    plain = text if text.isascii() else without_invisible(text)
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


def _parts(word: str) -> list[str]:
    """The parts of a word with apostrophes: what a negation leaves, and no ending of a contraction."""
    if _NEGATED.search(word):
        return ["not"]
    first, *others = re.split(r"['\u2019]", word)
    return [first, *(part for part in others if part not in _ENDINGS)]
