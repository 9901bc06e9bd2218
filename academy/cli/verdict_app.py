"""Examinations, their verdicts and what follows: options and help texts; heavy imports inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from academy.cli.options import Base, Json

verdict_app = typer.Typer(rich_markup_mode=None)
holdout_app = typer.Typer(help="The questions that are held out.", no_args_is_help=True, rich_markup_mode=None)
verdict_app.add_typer(holdout_app, name="holdout")


@verdict_app.command()
def examine(
    challenger: Annotated[
        str, typer.Argument(help="A version (2 or v2), 'base', 'few-shot' or http://host:port/v1#model.")
    ],
    champion: Annotated[str | None, typer.Argument(help="The same; without it the champion.")] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", help="Only this suite, or a .jsonl file of your own; repeatable.")
    ] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Examine a version. Against the champion on all suites the verdict is recorded; anything else is only told."""
    from academy.cli import arena as commands

    commands.examine(challenger, champion, suite or [], base_model, as_json=json)


@verdict_app.command()
def suites(json: Json = False) -> None:
    """What can be asked in an examination, and what is."""
    from academy.cli import arena as commands

    commands.suites(as_json=json)


@verdict_app.command()
def budget(base_model: Base = None, json: Json = False) -> None:
    """How many examinations can still promote."""
    from academy.cli import arena as commands

    commands.budget(base_model, as_json=json)


@holdout_app.command("renew")
def holdout_renew(base_model: Base = None, json: Json = False) -> None:
    """Retire the held-out questions that were used, take fresh ones from lessons that no training has seen."""
    from academy.cli import arena as commands

    commands.renew(base_model, as_json=json)


@verdict_app.command()
def comparisons(
    export: Annotated[Path | None, typer.Option("--export", help="Write them to this file, one a line.")] = None,
    json: Json = False,
) -> None:
    """All examinations that were held here, with win rates and ratings."""
    from academy.cli import arena as commands

    commands.comparisons(export, as_json=json)


@verdict_app.command()
def promote(
    version: Annotated[str, typer.Argument(help="A version with the verdict PROMOTE.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Make a version champion on the strength of its verdict."""
    from academy.cli import models as commands

    commands.promote(version, base_model, as_json=json)


@verdict_app.command()
def rollback(
    to: Annotated[
        str | None, typer.Argument(help="A version or 'base'; without it the champion before this one.")
    ] = None,
    because: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Go back to an earlier champion."""
    from academy.cli.rollback import run

    run(to, because, base_model, as_json=json)


@verdict_app.command()
def verify(
    versions: Annotated[list[str] | None, typer.Argument(help="Versions; without any the champion.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All versions of this base model.")] = False,
    live: Annotated[bool, typer.Option("--live", help="Ask the running gateway who answers by these names.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Verify signature, files, numbers, base model, registry and dataset of a version, offline; or who answers."""
    from academy.cli import admission as commands
    from academy.errors import InputError

    if live and every:
        raise InputError("--live asks for the champion and the versions that are named.", "Leave --all away.")
    if live:
        commands.verify_live(versions or [], base_model, as_json=json)
        return
    commands.verify(versions or [], base_model, all_of_them=every, as_json=json)


@verdict_app.command()
def approve(
    version: Annotated[str, typer.Argument(help="A version whose verdict PROMOTE waits.")],
    note: Annotated[str, typer.Option(help="Why; kept in the ledger.")] = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Approve a winner, and make it champion (ACADEMY_PROMOTION=approval)."""
    from academy.cli import genealogy as commands

    commands.approve(version, note, base_model, as_json=json)


@verdict_app.command()
def decline(
    version: Annotated[str, typer.Argument(help="A version whose verdict PROMOTE waits.")],
    because: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Refuse a winner: its verdict never promotes."""
    from academy.cli import genealogy as commands

    commands.decline(version, because, base_model, as_json=json)
