"""Publishes a verdict in MLflow's registry, and writes the short report for Prefect's artifacts."""

from __future__ import annotations

from academy.arena.examination import read_examination
from academy.arena.report import Context, render
from academy.arena.verdict import HORIZON
from academy.genealogy.description import describe
from academy.genealogy.versions import Version
from academy.loop.home import Home
from academy.store.ledger import BASE, Row


def publish_verdict(home: Home, challenger: Version, row: Row) -> None:
    """Write a verdict into MLflow's registry, where people browse. Repeating it is harmless."""
    target = row.body["target"] or {}
    scores = {
        "score_champion": f"{target.get('champion', 0):.4f}",
        "score_challenger": f"{target.get('challenger', 0):.4f}",
        "score_difference": f"{target.get('difference', 0):+.4f}",
        "score_interval": f"{target.get('low', 0):+.4f} to {target.get('high', 0):+.4f}",
        "examined_against": row.body["champion_version"],
    }
    home.versions.note_verdict(challenger.version, row.body["outcome"], row.body["because"], scores)
    describe(home.versions, home.ledger, challenger.version)


def brief_report(home: Home, row: Row) -> str:
    """The report of an official examination in markdown, without the text of any lesson.

    Prefect keeps it, and what Prefect keeps cannot be forgotten.
    """
    record = home.settings.folder("examinations") / str(row.body["record"])
    champion = row.body["champion_version"]
    names = (champion if champion == BASE else f"v{champion}", f"v{row.body['version']}")
    context = Context(
        names=names, base=home.base.name, left_out=row.body.get("left_out", {}),
        budget_left=home.ledger.budget_left(HORIZON),
    )  # fmt: skip
    return render(read_examination(record), {}, context, form="md", texts=False)
