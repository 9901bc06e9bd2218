"""`academy examine | suites | budget | comparisons | holdout renew | verify`: examinations and verification."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home, settings
from academy.cli.options import Base, Json
from academy.cli.output import emit, listen, say, table
from academy.errors import InputError

if TYPE_CHECKING:
    from academy.loop.examine import ExaminationReport

app = typer.Typer(rich_markup_mode=None)
holdout = typer.Typer(help="Manage the held-out questions.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(holdout, name="holdout")


@app.command()
def examine(
    challenger: Annotated[
        str, typer.Argument(help="A version (2 or v2), 'base', 'few-shot' or http://host:port/v1#model.")
    ],
    champion: Annotated[
        str | None, typer.Argument(help="Its opponent, named in the same way; without it the champion.")
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Only this suite, or your own .jsonl file; repeatable.")
    ] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Examine a version. The verdict is official for a version against the champion on all suites; any other
    examination is informational.
    """
    from academy.loop.examine_player import examine_player

    listen()
    result = examine_player(open_home(base_model), challenger, champion, suite or [])
    verdict, report = result.explained_verdict, result.report
    if json:
        details = {
            "costs": [{**cost.model_dump(mode="json"), "rate": cost.rate} for cost in report.costs],
            "left_out": report.skipped,
            "report": str(report.report),
            "judge": report.opinion.model_dump(mode="json") if report.opinion else None,
        } if report else {}  # fmt: skip
        emit({"verdict": verdict, "of_record": result.official, **details})
        return
    say(f"{verdict['outcome']}: {verdict['because']}")
    if report:
        _print_suites(report)
        for name, reason in report.skipped.items():
            say(f"Skipped {name}: {reason}")
        say(f"Report: {report.report}")
    if not result.official:
        say(
            "This result is informational: the opponent is not the champion, or not all suites were asked. It changes "
            "nothing and spends no budget."
        )
    elif verdict["outcome"] == "PROMOTE":
        say(f"To promote it, run: academy promote v{verdict['version']}")
    for contradiction in result.contradictions[:5]:
        say(f"  {contradiction.sentence}")


def _print_suites(report: ExaminationReport) -> None:
    rows = [
        (
            suite.suite, suite.unused.partition(":")[0] or suite.role, f"{suite.whole.items:,}",
            f"{suite.whole.champion:.1%}", f"{suite.whole.challenger:.1%}",
            f"{suite.whole.low:+.1%} to {suite.whole.high:+.1%}",
            f"{suite.whole.wins} / {suite.whole.ties} / {suite.whole.losses}",
        )
        for suite in report.examination.verdict.findings
        if suite.whole
    ]  # fmt: skip
    if rows:
        heads = ("suite", "role", "questions", "champion", "challenger", "difference, 95 %", "win / tie / loss")
        table("Suites", heads, rows)


@app.command()
def suites(
    trust_suite: Annotated[
        str | None,
        typer.Option(help="Trust the code of lm-eval:/path/task.yaml until a file beside it changes."),
    ] = None,
    json: Json = False,
) -> None:
    """List the suites, and those that every examination asks."""
    from academy.loop.suites import list_suites
    from academy.loop.trust_suite import trust_suite as trust

    if trust_suite is not None:
        trust(settings(), trust_suite)
    available = list_suites(settings())
    if json:
        emit(available.model_dump(mode="json"))
        return
    table(
        "Suites",
        ("suite", "asked", "questions", "skipped because"),
        [(suite.suite, "yes" if suite.asked else "no", suite.what, suite.left_out) for suite in available.suites],
    )


@app.command()
def budget(base_model: Base = None, json: Json = False) -> None:
    """Show how many examinations can still promote a version."""
    from academy.loop.budget import budget_history

    history = budget_history(open_home(base_model))
    remaining = history.budget
    if json:
        emit({**remaining.model_dump(mode="json"), "renewals": history.renewals})
        return
    say(f"{remaining.left} of {remaining.horizon} examinations that can promote are left.")
    if history.renewals:
        say(f"The hold-out was renewed {history.renewals} times, most recently on {history.renewed_at[:10]}.")
    if remaining.low:
        say("After them no version can be promoted: import new lessons, then run `academy holdout renew`.")


@holdout.command()
def renew(base_model: Base = None, json: Json = False) -> None:
    """Replace the held-out questions that were used with questions from lessons that no training has seen."""
    from academy.loop.renew_holdout import renew_holdout
    from academy.loop.status import budget_of

    home = open_home(base_model)
    renewal = renew_holdout(home)
    remaining = budget_of(home)
    if json:
        emit({**renewal.model_dump(mode="json"), "left": remaining.left})
        return
    say(
        f"{renewal.retired} questions are retired and replaced by {renewal.fresh} new questions on {renewal.groups} "
        f"answers. {remaining.left} examinations can promote again."
    )


@app.command()
def comparisons(
    export: Annotated[Path | None, typer.Option("--export", help="Also write them to this JSONL file.")] = None,
    json: Json = False,
) -> None:
    """List all examinations of this home with win rates and ratings."""
    from academy.loop.comparisons import list_comparisons, write_comparisons

    summaries = list_comparisons(settings())
    if export:
        write_comparisons(export, summaries)
    if json:
        rows = [summary.model_dump(mode="json") for summary in summaries]
        emit({"comparisons": rows, "file": str(export) if export else None})
        return
    table(
        "Examinations",
        ("record", "champion", "challenger", "outcome", "win rate", "rating"),
        [
            (
                summary.record[:16],
                summary.champion[:12],
                summary.challenger[:12],
                summary.outcome,
                f"{summary.suites[0].win_rate:.0%}" if summary.suites else "",
                "{:.2f} -> {:.2f}".format(*summary.suites[0].avg_rating) if summary.suites else "",
            )
            for summary in summaries
        ],
    )
    if export:
        say(f"Written to {export}.")


@app.command()
def verify(
    versions: Annotated[list[str] | None, typer.Argument(help="Versions; without any the champion.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All versions of this base model.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Check instead which adapters the running gateway answers with.")
    ] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Verify the signature, files, numbers, base model, registry and dataset of versions, offline. Exit code 2 where a
    check fails.
    """
    if live and every:
        raise InputError("--live checks the champion and named versions only.", "Omit --all.")
    if live:
        _verify_answers(versions or [], base_model, as_json=json)
    else:
        _verify_files(versions or [], base_model, every=every, as_json=json)


def _verify_files(names: Sequence[str], base_model: str | None, *, every: bool, as_json: bool) -> None:
    from academy.loop.verify import verify_files

    verifications = verify_files(open_home(base_model), names, all_of_them=every)
    sound = all(version.ok for version in verifications)
    if as_json:
        emit({
            "ok": sound,
            "versions": [{"ok": version.ok, **version.model_dump(mode="json")} for version in verifications],
        })  # fmt: skip
    for version in [] if as_json else verifications:
        say(f"v{version.version}  adapter {version.adapter[:12]}: {'verified' if version.ok else 'NOT VERIFIED'}")
        for check in version.checks:
            say(f"  {'✓' if check.ok else '✗'} {check.name}" + (f": {check.sentence}" if check.sentence else ""))
    if not sound:
        sys.exit(2)


def _verify_answers(names: Sequence[str], base_model: str | None, *, as_json: bool) -> None:
    from academy.loop.verify import verify_answers

    proofs = verify_answers(open_home(base_model), names)
    sound = all(proof.holds for proof in proofs)
    if as_json:
        emit({"ok": sound, "answers": [proof.model_dump(mode="json") for proof in proofs]})
    for proof in [] if as_json else proofs:
        say(f"{'✓' if proof.holds else '✗'} {proof.name} ({proof.version}): {proof.reason}. {proof.sentence}")
    if not sound:
        sys.exit(2)
