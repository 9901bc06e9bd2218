"""The words of the chat tasks: invented words, words of the documents, identifiers and numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

ONSETS = (
    *"bcdfghjklmnprstvwz",
    *("bl", "br", "cl", "cr", "dr", "fl", "fr", "gl", "gr", "kl", "pl"),
    *("pr", "sk", "sl", "sn", "st", "tr"),
)
VOWELS = (*"aeiou", *"aeiou", "ai", "ee", "oo")
CODAS = ("", "", "", "n", "r", "l", "s", "m", "k", "t", "x")


def nonword(rng: random.Random) -> str:
    """A pronounceable word of two or three syllables that (nearly always) means nothing."""
    word = ""
    for _ in range(rng.choice((2, 2, 2, 3))):
        word += rng.choice(ONSETS) + rng.choice(VOWELS)
        word += rng.choice(CODAS)
    return word


def letters(rng: random.Random) -> str:
    """Random letters, harder than a non-word: no training task uses them."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(4, 8)))


class Words:
    """Draws the words of the chat tasks: non-words, words of the documents, identifiers, numbers."""

    def __init__(self, rng: random.Random, real: list[str], reserved: set[str]) -> None:
        self.rng, self.real, self.reserved = rng, real, reserved

    def invented(self) -> str:
        """A non-word that neither is nor contains a word reserved for the evaluation."""
        while True:
            word = nonword(self.rng)
            if not any(word[i:j] in self.reserved for i in range(len(word)) for j in range(i + 4, len(word) + 1)):
                return word

    def identifier(self) -> str:
        """A name as in programs and configurations."""
        parts = [self.plain() for _ in range(self.rng.choice((1, 2, 2, 3)))]
        style = self.rng.randrange(5)
        if style == 0:
            return "_".join(parts)
        if style == 1:
            return "-".join(parts)
        if style == 2:
            return "".join(part.capitalize() for part in parts)
        if style == 3:
            return ".".join(parts)
        return f"{parts[0]}{self.rng.randint(0, 99)}"

    def number(self) -> str:
        """A number of one to five digits, sometimes with a point."""
        value = str(self.rng.randint(0, 10 ** self.rng.randint(1, 5)))
        return value + f".{self.rng.randint(0, 99)}" if self.rng.random() < 0.15 else value

    def plain(self) -> str:
        """A lower-case word, invented or real."""
        return self.invented() if self.rng.random() < 0.6 else self.rng.choice(self.real)

    def name(self) -> str:
        """A capitalised invented name."""
        return self.invented().capitalize()

    def any(self) -> str:
        """A word of any kind."""
        draw = self.rng.random()
        if draw < 0.5:
            return self.invented()
        if draw < 0.65:
            return self.rng.choice(self.real)
        if draw < 0.85:
            return self.identifier()
        return self.number() if draw < 0.93 else self.name()

    def some(self, low: int, high: int, kind: Callable[[], str] | None = None) -> list[str]:
        """Between low and high different words."""
        count = self.rng.randint(low, high)
        words: list[str] = []
        while len(words) < count:
            word = (kind or self.any)()
            if word not in words:
                words.append(word)
        return words
