"""`academy models ...`: options and help texts of the group; what they do is imported when it is asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from academy.cli.options import Base, Before, Json, Limit

models_app = typer.Typer(help="List the versions of this base model, and keep them.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A version (7 or v7), its name, or its order.")]
Because = Annotated[str, typer.Option(help="Why; kept in the ledger.")]


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context, limit: Limit = 50, before: Before = None, base_model: Base = None, json: Json = False
) -> None:
    """List the versions of this base model, and keep them."""
    if context.invoked_subcommand is None:
        from academy.cli import models as commands

        commands.show(limit, before, base_model, as_json=json)


@models_app.command()
def archive(version: Name, because: Because = "", base_model: Base = None, json: Json = False) -> None:
    """Pack a version's adapter into one file; the champion and whatever is in use stay."""
    from academy.cli import shelf

    shelf.archive(version, because, base_model, as_json=json)


@models_app.command()
def restore(version: Name, base_model: Base = None, json: Json = False) -> None:
    """Bring an archived adapter back; a rollback to it does so by itself."""
    from academy.cli import shelf

    shelf.restore(version, base_model, as_json=json)


@models_app.command()
def prune(
    keep: Annotated[int, typer.Option(min=0, help="So many of the newest stay on the disk.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be archived.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Archive all versions but the newest, the champion, and what is in use."""
    from academy.cli import shelf

    shelf.prune(keep, base_model, dry_run=dry_run, as_json=json)


@models_app.command()
def register(
    name: Annotated[str, typer.Argument(help="What to call it: letters, digits and . _ - : @ +")],
    adapter: Annotated[str | None, typer.Option(help="An adapter's folder; without it the base model.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="name=number; repeatable.")] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Give an adapter, or the base model, a name and figures."""
    from academy.cli import shelf

    shelf.register(name, adapter, metric or [], base_model, as_json=json)


@models_app.command()
def activate(
    version: Name,
    adapter: Annotated[str | None, typer.Option(help="Its folder, where it is not registered yet.")] = None,
    because: Because = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Make a version champion by hand, without a verdict; its adapter is checked all the same."""
    from academy.cli import shelf

    shelf.activate(version, adapter, because, base_model, as_json=json)


@models_app.command()
def deactivate(because: Because = "", base_model: Base = None, json: Json = False) -> None:
    """Go back to the base model."""
    from academy.cli import shelf

    shelf.deactivate(because, base_model, as_json=json)


@models_app.command()
def compare(
    first: Name,
    second: Annotated[str, typer.Argument(help="Another one.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Show the figures of two versions beside each other."""
    from academy.cli import shelf

    shelf.compare(first, second, base_model, as_json=json)


@models_app.command()
def refuse(
    version: Name,
    because: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    older: Annotated[bool, typer.Option("--older", help="Refuse all versions before this one instead.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Never serve or promote a version from now on."""
    from academy.cli import admission

    admission.refuse(version, because, base_model, older=older, as_json=json)


@models_app.command()
def readmit(
    version: Annotated[str, typer.Argument(help="A version that was refused.")],
    because: Annotated[str, typer.Option(help="Why; kept in the ledger.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Take back that a version was refused."""
    from academy.cli import admission

    admission.readmit(version, because, base_model, as_json=json)
