"""Publishes a verdict in MLflow's registry, and writes the short report for Prefect's artifacts."""

from __future__ import annotations

from datetime import datetime

from academy.arena.examination import read_examination
from academy.arena.report import ReportContext, render
from academy.arena.verdict import HORIZON
from academy.genealogy.description import describe
from academy.genealogy.versions import Version
from academy.loop.home import Home
from academy.store.ledger import BASE
from academy.store.ledger_rows import Row, VerdictEntry


def publish_verdict(home: Home, challenger: Version, row: Row[VerdictEntry]) -> None:
    """Write a verdict into MLflow's registry, where people browse. Repeating it is harmless."""
    target = row.body.target
    scores = {
        "score_champion": f"{target.champion if target else 0:.4f}",
        "score_challenger": f"{target.challenger if target else 0:.4f}",
        "score_difference": f"{target.difference if target else 0:+.4f}",
        "score_interval": f"{target.low if target else 0:+.4f} to {target.high if target else 0:+.4f}",
        "examined_against": row.body.champion_version,
    }
    home.versions.set_verdict(challenger.version, row.body.outcome, row.body.because, scores)
    if target:
        figures = {
            "score_champion": target.champion, "score_challenger": target.challenger,
            "score_difference": target.difference,
        }  # fmt: skip
        at = int(datetime.fromisoformat(row.at).timestamp() * 1000)
        home.versions.log_scores(challenger.version, figures, at)
    describe(home.versions, home.ledger, challenger.version)


def brief_report(home: Home, row: Row[VerdictEntry]) -> str:
    """The report of an official examination in markdown, without the text of any lesson.

    Prefect keeps it, and what Prefect keeps cannot be forgotten.
    """
    record = home.settings.folder("examinations") / row.body.record
    champion = row.body.champion_version
    names = (champion if champion == BASE else f"v{champion}", f"v{row.body.version}")
    context = ReportContext(
        names=names, base=home.base.name, skipped=row.body.skipped,
        budget_left=home.ledger.budget_left(HORIZON),
    )  # fmt: skip
    return render(read_examination(record), {}, context, form="md", texts=False)
