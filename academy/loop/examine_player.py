"""Examines any player by hand, and publishes the verdict where it is official."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from academy.loop.examine import ExaminationReport, examine
from academy.loop.explain_contradictions import ContradictionText, explain_verdict, verdict_as_json
from academy.loop.home import Home
from academy.loop.publish_verdict import publish_verdict
from academy.records import Record
from academy.store.ledger_rows import Row, VerdictEntry


class PlayerExamination(Record):
    """The row of an official examination, and the report unless the examination had run before."""

    row: Row[VerdictEntry] | None
    report: ExaminationReport | None
    contradictions: tuple[ContradictionText, ...] = ()

    @property
    def official(self) -> bool:
        """Whether the verdict counts."""
        return self.row is not None

    @property
    def verdict(self) -> dict[str, Any]:
        """The verdict as a JSON object, without texts of lessons."""
        if self.row is not None:
            return self.row.body.as_json()
        return self.report.examination.verdict.model_dump(mode="json") if self.report else {}

    @property
    def explained_verdict(self) -> dict[str, Any]:
        """The verdict as a JSON object, with the texts of contradicting lessons."""
        return verdict_as_json(self.row.body, self.contradictions) if self.row is not None else self.verdict


def examine_player(
    home: Home, challenger: str, champion: str | None, suites: Sequence[str] = ()
) -> PlayerExamination:  # fmt: skip
    """Examine a player against the champion, or against another player.

    A version against the champion on all suites gets an official verdict: a ledger row, shown in the registry.
    Anything else is informational.
    """
    row, report = examine(home, challenger, champion, suites=suites)
    if row is None:
        return PlayerExamination(row=None, report=report)
    publish_verdict(home, home.versions.get(challenger), row)
    return PlayerExamination(row=row, report=report, contradictions=explain_verdict(home, row.body))
