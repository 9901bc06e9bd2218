"""`academy examine | suites | budget | holdout renew | comparisons`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from academy.arena.examination import Examination, read_examination
from academy.arena.report import compare
from academy.arena.sandbox import Unavailable, find_sandbox
from academy.arena.suites.coding import FILE as CODING
from academy.arena.suites.table import describe_suites
from academy.arena.verdict import HORIZON
from academy.cli.output import emit, listen, say, table
from academy.errors import InputError
from academy.loop import examine as examination
from academy.loop.explain_contradictions import explain_verdict, verdict_as_json
from academy.loop.home import Home
from academy.loop.publish_verdict import publish_verdict
from academy.loop.renew_holdout import renew_holdout
from academy.settings import load_settings
from academy.store.files import write_file
from academy.store.ledger_rows import RenewalEntry

LOW_BUDGET = 5


def examine(challenger: str, champion: str | None, suites: list[str], base_model: str | None, *, as_json: bool) -> None:
    """Hold an examination."""
    listen()
    home = Home.open(base_model)
    row, held = examination.examine(home, challenger, champion, suites=suites)
    if row is not None:
        publish_verdict(home, home.versions.get(challenger), row)
    verdict = held.examination.verdict.model_dump(mode="json") if held else {}
    found = verdict_as_json(row.body, explain_verdict(home, row.body)) if row is not None else verdict
    if as_json:
        told = {
            "costs": [{**cost.model_dump(mode="json"), "rate": cost.rate} for cost in held.costs],
            "left_out": held.skipped,
            "report": str(held.report),
            "judge": held.opinion.model_dump(mode="json") if held.opinion else None,
        } if held else {}  # fmt: skip
        emit({"verdict": found, "of_record": row is not None, **told})
        return
    say(f"{found['outcome']}: {found['because']}")
    if held:
        _tell(held.examination)
        for name, why in held.skipped.items():
            say(f"{name} was left out: {why}")
        say(f"The report: {held.report}")
    if row is None:
        say("Told only: it was not held against the champion with all suites; it changes nothing and spends nothing.")
    elif found["outcome"] == "PROMOTE":
        say(f"Promote it: academy promote v{found['version']}")
    for one in found.get("contradicted", [])[:5]:
        say(f"  '{one['request']}': '{one['answer']}', but {one['batch']} teaches '{one['taught']}'")


def suites(*, as_json: bool) -> None:
    """What can be asked here, and what is asked in every examination."""
    settings = load_settings()
    sandbox = find_sandbox(settings.sandbox, image=settings.sandbox_image)
    unavailable = sandbox.because if isinstance(sandbox, Unavailable) else ""
    rows = [
        {
            "suite": suite.name,
            "asked": suite.selected,
            "what": suite.description,
            "left_out": unavailable if suite.needs_sandbox else "",
        }
        for suite in describe_suites(settings.suites)
    ]
    if as_json:
        emit(
            {
                "suites": rows,
                "sandbox": None if isinstance(sandbox, Unavailable) else sandbox.name,
                "coding_questions": len(CODING.read_bytes().splitlines()),
            }
        )
        return
    shown = [(one["suite"], "yes" if one["asked"] else "no", one["what"], one["left_out"]) for one in rows]
    table("Suites", ("suite", "asked", "what", "left out because"), shown)


def budget(base_model: str | None, *, as_json: bool) -> None:
    """How many examinations may still promote."""
    home = Home.open(base_model)
    left = home.ledger.budget_left(HORIZON)
    renewals = list(home.ledger.rows(RenewalEntry))
    if as_json:
        emit({"spent": HORIZON - left, "left": left, "horizon": HORIZON, "renewals": len(renewals)})
        return
    say(f"{left} of {HORIZON} examinations are left that can promote.")
    if renewals:
        say(f"The hold-out was renewed {len(renewals)} times, at last on {renewals[-1].at[:10]}.")
    if left <= LOW_BUDGET:
        say("After that nothing can be promoted: import new lessons, then `academy holdout renew`.")


def renew(base_model: str | None, *, as_json: bool) -> None:
    """Retire the questions that were used and take fresh ones."""
    home = Home.open(base_model)
    found = renew_holdout(home)
    if as_json:
        emit({**found.model_dump(mode="json"), "left": home.ledger.budget_left(HORIZON)})
        return
    say(
        f"{found.retired} questions are retired; {found.fresh} fresh ones on {found.groups} answers take their place. "
        f"{HORIZON} examinations can promote again."
    )


def comparisons(export: Path | None, *, as_json: bool) -> None:
    """All examinations of this home, with win rate, gold stars, ratings and consistency."""
    folder = load_settings().folder("examinations")
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json"), key=lambda one: (one.stat().st_mtime_ns, one.name)):
        held = read_examination(path)
        rows.append(
            {
                "record": path.name,
                "champion": held.champion,
                "challenger": held.challenger,
                "outcome": held.verdict.outcome,
                "because": held.verdict.because,
                "suites": [compare(one).model_dump(mode="json") for one in held.results if one.items],
            }
        )
    if export:
        if export.is_dir():
            raise InputError(f"{export} is a folder.", "Name a file.")
        write_file(export, (orjson.dumps(row) + b"\n" for row in rows))
    if as_json:
        emit({"comparisons": rows, "file": str(export) if export else None})
        return
    table(
        "Examinations",
        ("record", "champion", "challenger", "outcome", "win rate", "rating"),
        [
            (one["record"][:16], one["champion"][:12], one["challenger"][:12], one["outcome"], *_target(one["suites"]))
            for one in rows
        ],
    )
    if export:
        say(f"Written to {export}.")


def _target(found: list[dict[str, Any]]) -> tuple[str, str]:
    first = next(iter(found), None)
    if first is None:
        return "", ""
    before, after = first["avg_rating"]
    return f"{first['win_rate']:.0%}", f"{before:.2f} -> {after:.2f}"


def _tell(held: Examination) -> None:
    rows = [
        (
            one.suite, one.unused.partition(":")[0] or one.role, f"{one.whole.items:,}", f"{one.whole.champion:.1%}",
            f"{one.whole.challenger:.1%}", f"{one.whole.low:+.1%} to {one.whole.high:+.1%}",
            f"{one.whole.wins} / {one.whole.ties} / {one.whole.losses}",
        )
        for one in held.verdict.findings
        if one.whole
    ]  # fmt: skip
    if rows:
        heads = ("suite", "decides", "questions", "champion", "challenger", "difference, 95 %", "win / tie / loss")
        table("Suites", heads, rows)
