"""Says which lessons are not trained on, each number with its reason and with what a user can do."""

from __future__ import annotations

from collections.abc import Mapping

from academy.curriculum.statistics import DROPPED

SHOWN = 3
WORDS = {
    "outcome unknown": "{:,} without a known outcome (give each an outcome or a rating)",
    "outcome failure": "{:,} failed",
    "set aside": "{:,} set aside after a REJECT (`academy lessons release`)",
    "superseded": "{:,} superseded by another answer",
    "waiting": "{:,} from untrusted sources wait for a decision (`academy review list`)",
    "refused": "{:,} refused (`academy review`)",
    "undone": "{:,} undone (`academy lessons undo --restore`)",
}
"""The reasons of `LessonsStore.not_counted` in words."""


def in_words(counts: Mapping[str, int]) -> str:
    """The reasons with their numbers, as a list in words; empty if every lesson counts."""
    return ", ".join(WORDS.get(reason, f"{{:,}} {reason}").format(number) for reason, number in counts.items())


def main_reasons(funnel: Mapping[str, int]) -> str:
    """The most frequent reasons why curation dropped examples, with their numbers."""
    reasons = {name.removeprefix(DROPPED): n for name, n in funnel.items() if name.startswith(DROPPED)}
    most_frequent = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:SHOWN]
    return ", ".join(f"{number:,} {reason}" for reason, number in most_frequent)
