"""`academy models` and `academy export`: versions of the base model, their adapters, names and figures."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home, user
from academy.cli.options import Base, Because, Before, Json, Limit
from academy.cli.output import emit, listen, say, table, version_name
from academy.errors import InputError

if TYPE_CHECKING:
    from academy.loop.refuse import Refusal

app = typer.Typer(help="List and manage the versions of this base model.", rich_markup_mode=None)
export_app = typer.Typer(rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="A version (7 or v7), its name, or its order.")]
Reason = Annotated[str, typer.Option("--because", help="The reason; kept in the ledger.")]


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context, limit: Limit = 50, before: Before = None, base_model: Base = None, json: Json = False
) -> None:
    """List and manage the versions of this base model."""
    if context.invoked_subcommand is not None:
        return
    from academy.loop.genealogy import family

    home = open_home(base_model)
    tree = family(home, limit, before)
    if json:
        emit([node.version.model_dump(mode="json") for node in tree.nodes])
        return
    if not tree.nodes:
        say("No versions yet: the base model answers.")
    else:
        table(
            f"Versions of {tree.family}",
            ("version", "name", "status", "generation", "parent", "verdict", "dataset", "adapter", "created"),
            [
                (
                    node.version.name, node.version.label, node.status, node.version.generation,
                    version_name(node.version.parent), node.version.verdict, node.version.dataset[:12],
                    node.version.adapter[:12],
                    datetime.fromtimestamp(node.version.created / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
                )
                for node in tree.nodes
            ],
        )  # fmt: skip
    if tree.before is not None:
        say(f"Older versions: academy models --before {tree.before}")
    if tree.missing:
        say(tree.missing)


@app.command()
def archive(version: Name, because: Because = "", base_model: Base = None, json: Json = False) -> None:
    """Pack a version's adapter into one file. The champion and adapters in use cannot be archived."""
    from academy.loop.archive import archive as pack

    target, file = pack(open_home(base_model), version, because, by=user())
    if json:
        emit({"version": target.version, **file.model_dump(mode="json")})
    else:
        say(f"{target.name} is archived: {file.bytes / 1e6:.1f} MB became {file.packed_bytes / 1e6:.1f} MB.")


@app.command()
def restore(version: Name, base_model: Base = None, json: Json = False) -> None:
    """Restore an archived adapter. A rollback to it does this by itself."""
    from academy.loop.archive import restore as unpack

    listen()
    target, file = unpack(open_home(base_model), version, by=user())
    if json:
        emit({"version": target.version, "adapter": target.adapter, "restored": file is not None})
    else:
        say(f"{target.name} is {'restored' if file is not None else 'already on the disk'}.")


@app.command()
def prune(
    keep: Annotated[int, typer.Option(min=0, help="Number of newest versions that stay on the disk.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be archived.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Archive all versions except the newest, the champion, and those in use."""
    from academy.loop.archive import prune as archive_older

    listen()
    versions = archive_older(open_home(base_model), keep, by=user(), dry_run=dry_run)
    if json:
        emit({"dry_run": dry_run, "versions": [version.model_dump(mode="json") for version in versions]})
        return
    table(
        "Dry run: nothing is changed" if dry_run else "Pruned",
        ("version", "action", "reason", "MB"),
        [
            (version_name(version.version), version.action, version.because, f"{version.bytes / 1e6:.1f}")
            for version in versions
        ],
    )
    size = sum(version.bytes for version in versions if version.action == "archive")
    say(f"{size / 1e6:.1f} MB of adapters {'would be' if dry_run else 'were'} archived.")


@app.command()
def register(
    name: Annotated[str, typer.Argument(help="The new name: letters, digits and . _ - : @ +")],
    adapter: Annotated[str | None, typer.Option(help="An adapter's folder; without it the base model.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A figure, as name=number; repeatable.")] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Give a name and figures to an adapter or to the base model."""
    from academy.loop.named_versions import register_version

    listen()
    metrics = _metrics(metric or [])
    version = register_version(open_home(base_model), name, base_model, adapter, metrics)
    if json:
        emit(version.model_dump(mode="json"))
    elif version.unverified:
        say(f"{version.label} is {version.name}, and is unverified: {version.unverified}")
    else:
        say(f"{version.label} is {version.name}.")


@app.command()
def activate(
    version: Name,
    adapter: Annotated[str | None, typer.Option(help="The adapter's folder, if it is not registered yet.")] = None,
    because: Because = "",
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Make a version champion by hand, without a verdict. Its adapter is still checked."""
    from academy.loop.named_versions import activate_adapter, activate_version, active_adapter

    listen()
    home = open_home(base_model)
    before = home.ledger.champion()
    if adapter is not None:
        champion = activate_adapter(home, version, adapter, base_model, because, by=user())
    else:
        champion = activate_version(home, version, because, by=user())
    if json:
        emit({"champion": champion.version, "before": before.version, "info": active_adapter(home)})
    elif champion.seq == before.seq:
        say(f"{champion.name} is already the champion.")
    else:
        say(f"{champion.name} is now champion, by hand (previously {before.name}).")


@app.command()
def deactivate(because: Because = "", base_model: Base = None, json: Json = False) -> None:
    """Roll back to the base model."""
    from academy.loop.named_versions import deactivate_adapter

    home = open_home(base_model)
    before = home.ledger.champion()
    is_changed = deactivate_adapter(home, because, by=user())
    if json:
        emit({"champion": home.ledger.champion().version, "before": before.version, "changed": is_changed})
    elif is_changed:
        say(f"The base model answers now (previously {before.name}).")
    else:
        say("The base model already answers.")


@app.command()
def compare(
    first: Name,
    second: Annotated[str, typer.Argument(help="Another version.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Compare the figures of two versions."""
    from academy.loop.named_versions import compare_versions

    comparison = compare_versions(open_home(base_model), first, second)
    if json:
        emit(comparison)
        return
    table(
        f"{first} and {second}",
        ("metric", first, second, "difference", "in %"),
        [
            (name, f"{row['a']:g}", f"{row['b']:g}", f"{row['diff']:+g}", f"{row['diff_pct']:+.1f}")
            for name, row in comparison["metrics_diff"].items()
        ],
    )
    for name, metrics in comparison["only_in"].items():
        if metrics:
            say(f"Only {name} has: {', '.join(metrics)}.")


@app.command()
def refuse(
    version: Name,
    because: Reason,
    older: Annotated[bool, typer.Option("--older", help="Block all versions before this one instead.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Block a version from being served or promoted."""
    from academy.loop.refuse import refuse as block

    _print_refusal(block(open_home(base_model), version, because, older=older), as_json=json)


@app.command()
def readmit(
    version: Annotated[str, typer.Argument(help="A version that was refused.")],
    because: Reason,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Unblock a version that was refused."""
    from academy.loop.refuse import readmit as unblock

    _print_refusal(unblock(open_home(base_model), version, because), as_json=json)


def _print_refusal(refusal: Refusal, *, as_json: bool) -> None:
    if as_json:
        emit({**refusal.row, "champion_refused": refusal.champion_refused})
        return
    say(f"{refusal.sentence}.")
    if refusal.champion_refused:
        say(f"The champion {refusal.champion.name} is refused. Roll back to another champion: academy rollback")


@export_app.command()
def export(
    version: Annotated[str, typer.Argument(help="A version (2 or v2).")],
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="adapter (PEFT), merged (transformers), gguf, merged-gguf or modelfile (Ollama).",
        ),
    ] = "adapter",
    to: Annotated[Path | None, typer.Option("--to", help="A new folder; without it a folder in the home.")] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Of the model's weights: f32, bf16 or f16. Default: f32 for GGUF, else the model's own."),
    ] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Export a version for other tools."""
    from academy.loop.export import export as export_version

    result = export_version(open_home(base_model), version, form, precision, to, by=user())
    if json:
        emit({"version": result.version, **result.export.model_dump(mode="json")})
        return
    say(f"v{result.version} is in {result.export.folder}: {', '.join(result.export.files)}.")
    for note in result.export.notes:
        say(note)


def _metrics(options: Sequence[str]) -> dict[str, float]:
    """`name=number` as figures. Raises InputError."""
    metrics = {}
    for option in options:
        name, sign, number = option.partition("=")
        try:
            metrics[name] = float(number)
        except ValueError:
            sign = ""
        if not sign:
            raise InputError(f"'{option}' is not a metric.", "Write it as name=number.")
    return metrics
