"""`academy status`: the champion, the lessons, the last verdict, the budget."""

from __future__ import annotations

import typer

from academy.cli.home import open_home
from academy.cli.options import Base, Json
from academy.cli.output import emit, listen, say, version_name

app = typer.Typer(rich_markup_mode=None)


@app.command()
def status(base_model: Base = None, json: Json = False) -> None:
    """Show the champion, waiting versions, lessons, the last verdict and the budget."""
    from academy.loop.explain_contradictions import count_in_words
    from academy.loop.not_counted import in_words
    from academy.loop.status import reconciled_status

    listen()
    summary = reconciled_status(open_home(base_model))
    if json:
        emit(summary.model_dump(mode="json"))
        return
    say(f"Champion: {version_name(summary.champion)} (generation {summary.generation}) of {summary.base_model.family}.")
    if summary.refused:
        say(f"{summary.refused} Roll back to another champion: academy rollback")
    if summary.tainted:
        say("It was trained on lessons that have since been forgotten. Train again: academy evolve --force")
    lessons = summary.lessons
    say(f"Lessons: {lessons['total_lessons']:,}, {lessons['new']:,} of them new since the champion's examination.")
    if others := {reason: number for reason, number in lessons["not_counted"].items() if reason != "set aside"}:
        say(f"Not counted: {in_words(others)}.")
    if aside := lessons["standings"].get("set aside", 0):
        say(f"Set aside after a REJECT: {aside:,}. To use them again after a review, run: academy lessons release")
    if summary.ratings_waiting:
        say(f"{summary.ratings_waiting:,} ratings wait for your decision: academy review list")
    if summary.contradictions:
        say(f"{count_in_words(summary.contradictions)} (`academy curate` lists them)")
    if verdict := summary.last_verdict:
        say(f"Last verdict ({verdict.at}): v{verdict.version} {verdict.outcome}: {verdict.because}")
    for version in summary.waiting:
        say(f"v{version} waits for approval: academy approve v{version}")
    budget = summary.budget
    say(f"Examinations spent: {budget.spent} of {budget.horizon}.")
    if budget.low:
        say("The budget is nearly spent: import new lessons, then run `academy holdout renew`.")
