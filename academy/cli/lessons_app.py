"""`academy lessons ...`: options and help texts of the group; what they do is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from academy.cli.options import Base, Json

lessons_app = typer.Typer(help="Add, import and look at lessons.", no_args_is_help=True, rich_markup_mode=None)


@lessons_app.command("add")
def lessons_add(
    situation: Annotated[str, typer.Argument(help="What was asked.")],
    action: Annotated[str, typer.Argument(help="What was answered.")],
    result: Annotated[str, typer.Option(help="What became of it: success or failure.")] = "success",
    feedback: Annotated[str, typer.Option(help="What somebody said of it.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag; repeatable.")] = None,
    author: Annotated[str, typer.Option(help="Who.")] = "",
    json: Json = False,
) -> None:
    """Add one lesson."""
    from academy.cli import lessons as commands

    commands.add(situation, action, result, feedback, tag or [], author, as_json=json)


@lessons_app.command("import")
def lessons_import(
    files: Annotated[list[Path], typer.Argument(help="JSONL files, one lesson a line.")],
    tasks: Annotated[bool, typer.Option("--tasks", help="The files are task histories.")] = False,
    conversations: Annotated[
        bool, typer.Option("--conversations", help="Conversations with feedback: OpenAI, ShareGPT or ChatML.")
    ] = False,
    examples: Annotated[
        bool, typer.Option("--examples", help="Examples to learn as they are: Alpaca, ShareGPT, ChatML or OpenAI.")
    ] = False,
    user: Annotated[list[str] | None, typer.Option(help="Only this user's conversations; repeatable.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only of this domain; repeatable.")] = None,
    kind: Annotated[list[str] | None, typer.Option("--type", help="Only of this type; repeatable.")] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Only answers with a gold star.")] = False,
    json: Json = False,
) -> None:
    """Import files; lines known already change nothing, unreadable ones are set aside."""
    from academy.cli import lessons as commands
    from academy.errors import InputError
    from academy.experience.conversations import ConversationFilter
    from academy.experience.experience import Kind

    if tasks + conversations + examples > 1:
        raise InputError("The files can be of one kind only.", "Give one of --tasks, --conversations, --examples.")
    wanted = ConversationFilter(
        users=tuple(user or ()), domains=tuple(domain or ()), types=tuple(kind or ()), gold_only=gold
    )
    if wanted != ConversationFilter() and not conversations:
        raise InputError("Users, domains, types and stars belong to conversations.", "Add --conversations.")
    chosen: Kind = "task" if tasks else "conversation" if conversations else "file" if examples else "lesson"
    commands.import_files(files, chosen, wanted, as_json=json)


@lessons_app.command("list")
def lessons_list(
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Show lessons, newest first."""
    from academy.cli import lessons as commands

    commands.show(limit, tag or [], as_json=json)


@lessons_app.command("stats")
def lessons_stats(json: Json = False) -> None:
    """Count lessons by outcome, standing, batch and tag."""
    from academy.cli import lessons as commands

    commands.stats(as_json=json)


@lessons_app.command("export")
def lessons_export(
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    json: Json = False,
) -> None:
    """Write lessons to a file that `lessons import` reads back."""
    from academy.cli import lessons as commands

    commands.export(file, batch, as_json=json)


@lessons_app.command("forget")
def lessons_forget(
    lesson: Annotated[str, typer.Argument(help="A lesson's id, or its beginning.")],
    because: Annotated[str, typer.Option(help="Why; kept with its tombstone.")] = "",
    json: Json = False,
) -> None:
    """Erase a lesson everywhere; datasets and versions made of it are marked and listed."""
    from academy.cli import lessons as commands

    commands.forget(lesson, because, as_json=json)


@lessons_app.command("undo")
def lessons_undo(
    batch: Annotated[str, typer.Argument(help="A batch, as `lessons stats` shows it.")],
    restore: Annotated[bool, typer.Option("--restore", help="Put it back.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Take a batch out of training and examination as a whole."""
    from academy.cli import lessons as commands

    commands.undo(batch, base_model, restore=restore, as_json=json)


@lessons_app.command("release")
def lessons_release(
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Let lessons that a REJECT set aside count again."""
    from academy.cli import lessons as commands

    commands.release(batch, base_model, as_json=json)


@lessons_app.command("supersede")
def lessons_supersede(
    situation: Annotated[str, typer.Argument(help="The request.")],
    action: Annotated[str, typer.Argument(help="The answer that is right now.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Say which answer to a request is right: lessons that teach another one retire."""
    from academy.cli import lessons as commands

    commands.supersede(situation, action, base_model, as_json=json)
