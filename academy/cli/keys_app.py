"""`academy keys ...`: options and help texts of the group; what they do is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from academy.cli.options import Base, Json

keys_app = typer.Typer(
    help="The keys that sign adapters, and those that are trusted.", invoke_without_command=True, rich_markup_mode=None
)


@keys_app.callback()
def keys(context: typer.Context, json: Json = False) -> None:
    """List the keys that sign adapters, and those that are trusted."""
    if context.invoked_subcommand is None:
        from academy.cli import keys as commands

        commands.show(as_json=json)


@keys_app.command("rotate")
def keys_rotate(json: Json = False) -> None:
    """Sign with a new key from now on; what the old one signed stays valid."""
    from academy.cli import keys as commands

    commands.rotate(as_json=json)


@keys_app.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="A key's id, or its beginning.")],
    because: Annotated[str, typer.Option(help="Why; kept with the key.")] = "",
    json: Json = False,
) -> None:
    """Refuse what a key signed, until it is signed again."""
    from academy.cli import keys as commands

    commands.revoke(key, because, as_json=json)


@keys_app.command("resign")
def keys_resign(
    versions: Annotated[
        list[str] | None, typer.Argument(help="Versions that you vouch for, unsigned ones too.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All that a key of this home signed.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Sign adapters with the present key: unsigned ones, and those of a revoked key."""
    from academy.cli import keys as commands

    commands.resign(versions or [], base_model, all_of_them=every, as_json=json)


@keys_app.command("export")
def keys_export(file: Annotated[Path, typer.Argument(help="The file to write.")], json: Json = False) -> None:
    """Write the present public key to a file that other homes can trust."""
    from academy.cli import keys as commands

    commands.export(file, as_json=json)


@keys_app.command("trust")
def keys_trust(
    file: Annotated[Path, typer.Argument(help="A file of `academy keys export`.")], json: Json = False
) -> None:
    """Trust what another home's key signed."""
    from academy.cli import keys as commands

    commands.trust(file, as_json=json)
