"""Examines any player by hand, and publishes the verdict where it is official."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from academy.loop.examine import Held, hold_examination, in_words, publish_verdict
from academy.loop.home import Home
from academy.records import Record


class Examined(Record):
    """A verdict with its contradictions as texts; the examination itself where it was run just now."""

    verdict: dict[str, Any]
    official: bool
    examination: Held | None


def examine_player(home: Home, challenger: str, champion: str | None, suites: Sequence[str]) -> Examined:
    """Examine a player against the champion, or against another player.

    A version against the champion on all suites gets an official verdict: a ledger row, shown in the registry.
    Anything else is informational.
    """
    row, examination = hold_examination(home, challenger, champion, wanted=suites)
    if row is not None:
        publish_verdict(home, home.versions.get(challenger), row)
        return Examined(verdict=in_words(home, row.body.as_json()), official=True, examination=examination)
    verdict = examination.examination.verdict.model_dump(mode="json") if examination else {}
    return Examined(verdict=verdict, official=False, examination=examination)
