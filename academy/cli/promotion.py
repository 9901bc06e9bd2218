"""`academy promote | approve | decline | rollback`: changes of the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home, user
from academy.cli.options import Base, Because, Json
from academy.cli.output import emit, listen, say, version_name

if TYPE_CHECKING:
    from academy.loop.rollback import Change

app = typer.Typer(rich_markup_mode=None)

Winner = Annotated[str, typer.Argument(help="A version whose verdict PROMOTE waits for approval.")]


@app.command()
def promote(
    version: Annotated[str, typer.Argument(help="A version with the verdict PROMOTE.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Make a version champion, based on its verdict."""
    from academy.loop.promote import promote as promote_version

    listen()
    change = promote_version(open_home(base_model), version, by=user())
    if json:
        emit({"champion": change.champion.version, "before": change.before.version})
    else:
        say(f"{change.champion.name} is now champion (previously {change.before.name}).")


@app.command()
def rollback(
    to: Annotated[str | None, typer.Argument(help="A version or 'base'; without it the previous champion.")] = None,
    because: Because = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Roll back to an earlier champion."""
    from academy.loop.rollback import rollback as roll_back

    def report(change: Change) -> None:
        champion, before = change.champion, change.before
        if json:
            emit({"champion": champion.version, "adapter": champion.adapter, "before": before.version})
        else:
            say(f"{champion.name} is champion again (previously {before.name}).")

    listen()
    roll_back(open_home(base_model), to, because, by=user(), report=report)


@app.command()
def approve(
    version: Winner,
    note: Annotated[str, typer.Option(help="The reason; kept in the ledger.")] = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Approve a version that won its examination, and make it champion (ACADEMY_PROMOTION=approval)."""
    from academy.loop.carry_out import approve as approve_version

    listen()
    home = open_home(base_model)
    before = home.ledger.champion()
    champion = approve_version(home, version, by=user(), note=note)
    if json:
        emit({"champion": champion.version, "adapter": champion.adapter, "before": before.version})
    else:
        say(f"{champion.name} is now champion (previously {before.name}).")


@app.command()
def decline(
    version: Winner,
    because: Annotated[str, typer.Option(help="The reason; kept in the ledger.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Decline a version that won its examination. Its verdict can no longer promote it."""
    from academy.loop.promote import decline as decline_version

    home = open_home(base_model)
    row = decline_version(home, version, by=user(), because=because)
    if json:
        emit(row.model_dump(mode="json"))
    else:
        champion = home.ledger.champion().name
        say(f"{version_name(row.version)} is not promoted. {champion} stays the champion.")
