"""`academy doctor | init`: what works on this machine, and the databases of the home."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from academy.cli.home import open_home, settings
from academy.cli.options import Base, Json
from academy.cli.output import emit, say, table

app = typer.Typer(rich_markup_mode=None)


@app.command()
def doctor(base_model: Base = None, json: Json = False) -> None:
    """Check what works on this machine, and how to fix what does not. Exit code 2 where the loop cannot run."""
    from academy.operations.doctor import diagnose, is_sound

    findings = diagnose(settings(), base_model)
    sound = is_sound(findings)
    if json:
        emit({"sound": sound, "findings": [finding.model_dump(mode="json") for finding in findings]})
    else:
        table(
            "Checks",
            ("check", "works", "details", "fix"),
            [
                (
                    finding.name,
                    "yes" if finding.works else "NO" if finding.needed else "no",
                    finding.found,
                    finding.remedy,
                )
                for finding in findings
            ],
        )
        say("The loop can run here." if sound else "The loop cannot run here yet.")
    if not sound:
        sys.exit(2)


@app.command()
def init(
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Trust a home that this account did not make, such as a copied or moved one."),
    ] = False,
) -> None:
    """Create the databases of this home. Other commands do this by themselves when they need one."""
    from academy.operations.databases import create_databases

    home = open_home(adopt=adopt)
    create_databases(home)
    say(f"The databases in {home.settings.home} are ready.")
