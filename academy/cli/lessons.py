"""`academy lessons`: add, import, list, count, export, forget, undo, release, supersede."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from academy.cli.home import open_home
from academy.cli.options import Base, Json
from academy.cli.output import emit, say, shortened, table

if TYPE_CHECKING:
    from academy.loop.import_files import Imported

app = typer.Typer(help="Add, import and manage lessons.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def add(
    situation: Annotated[str, typer.Argument(help="The request.")],
    action: Annotated[str, typer.Argument(help="The answer.")],
    result: Annotated[
        str, typer.Option(help="What came of it, in words. It is a success unless this says it failed.")
    ] = "success",
    feedback: Annotated[str, typer.Option(help="What a user said about the answer.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="A tag; repeatable.")] = None,
    author: Annotated[str, typer.Option(help="The author's name or address.")] = "",
    json: Json = False,
) -> None:
    """Add one lesson."""
    from academy.loop.lessons import add_lesson

    home = open_home()
    lesson = add_lesson(home, situation, action, result, feedback, tag or [], author)
    if json:
        emit({"id": lesson, "lessons": home.store.newest()})
    else:
        say(f"Added as {lesson[:12]}.")


@app.command("import")
def import_files(
    files: Annotated[list[Path], typer.Argument(help="JSONL files with one lesson per line, or JSON arrays.")],
    tasks: Annotated[bool, typer.Option("--tasks", help="The files are task histories.")] = False,
    conversations: Annotated[
        bool,
        typer.Option(
            "--conversations",
            help="The files are conversations with feedback, in any format of docs/reference/formats.md.",
        ),
    ] = False,
    examples: Annotated[
        bool,
        typer.Option("--examples", help="The files are training examples, in any format of docs/reference/formats.md."),
    ] = False,
    user: Annotated[list[str] | None, typer.Option(help="Only conversations of this user; repeatable.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only conversations of this domain; repeatable.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help="Only conversations of this type; repeatable.")
    ] = None,
    gold: Annotated[bool, typer.Option("--gold", help="Only answers with a gold star.")] = False,
    untrusted: Annotated[
        bool, typer.Option("--untrusted", help="The lessons wait until you decide: academy review.")
    ] = False,
    json: Json = False,
) -> None:
    """Import files. Known lines change nothing; unreadable lines are kept in the quarantine.

    Exit code 2 where nothing could be read of a file.
    """
    from academy.loop.import_files import ImportRequest, import_experience
    from academy.loop.ingest import UnreadFilesError

    request = ImportRequest(
        files=tuple(files), tasks=tasks, conversations=conversations, examples=examples,
        users=tuple(user or ()), domains=tuple(domain or ()), types=tuple(kind or ()), gold_only=gold,
        untrusted=untrusted,
    )  # fmt: skip
    try:
        imports = import_experience(request)
    except UnreadFilesError as problem:
        if not json:
            _show_imports(problem.results)
        raise
    if json:
        emit({"imported": [batch.model_dump(mode="json") for batch in imports]})
    else:
        _show_imports(imports)


def _show_imports(imports: Imported) -> None:
    for batch in imports:
        say(
            f"{batch.batch}: {batch.admitted:,} imported, {batch.known:,} already known, "
            f"{len(batch.unreadable):,} unreadable."
        )
        if batch.skipped:
            say(f"  Lines that the options do not select: {batch.skipped:,}.")
        if batch.undecided:
            say(f"  Kept and not trained on, without an outcome or a rating: {batch.undecided:,}.")
        if batch.waiting:
            say("  They wait for your decision: academy review list")
        if batch.forgotten:
            say(f"  Forgotten earlier, and still forgotten: {batch.forgotten:,}.")
        for line in batch.unreadable[:5]:
            say(f"  {line}")
        if len(batch.unreadable) > 5:
            say(f"  and {len(batch.unreadable) - 5:,} more")
        if batch.unreadable:
            table(
                f"unreadable lines, kept in {batch.quarantine}",
                ("lines", "reason"),
                [(f"{count:,}", reason) for reason, count in batch.reasons.items()],
            )


@app.command("list")
def list_lessons(
    limit: Annotated[int, typer.Option(min=1, help="Number of lessons, newest first.")] = 20,
    tag: Annotated[list[str] | None, typer.Option(help="Only lessons with this tag; repeatable.")] = None,
    json: Json = False,
) -> None:
    """List lessons, newest first."""
    store = open_home().store
    lessons = store.get_lessons_by_tags(tag)[:limit] if tag else store.get_all_lessons(limit)
    if json:
        emit({"lessons": [lesson.model_dump(mode="json") for lesson in lessons]})
        return
    table(
        f"Lessons: {len(lessons):,}, newest first",
        ("id", "batch", "outcome", "request", "answer"),
        [
            (lesson.id[:8], lesson.batch, lesson.outcome, shortened(lesson.request), shortened(lesson.words))
            for lesson in lessons
        ],
    )


@app.command()
def stats(json: Json = False) -> None:
    """Count lessons by outcome, standing, batch and tag."""
    from academy.loop.not_counted import in_words

    statistics = open_home().store.get_statistics()
    if json:
        emit(statistics)
        return
    say(f"{statistics['total_lessons']:,} lessons and tasks.")
    if statistics["not_counted"]:
        say(f"Not trained on: {in_words(statistics['not_counted'])}.")
    for name in ("outcomes", "standings", "batches"):
        if statistics[name]:
            say(f"{name}: " + ", ".join(f"{key} {count:,}" for key, count in statistics[name].items()))
    tags = list(statistics["tag_distribution"].items())[:20]
    if tags:
        say("tags: " + ", ".join(f"{tag} {count}" for tag, count in tags))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The JSONL file to write.")],
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            help="openai, sharegpt, chatml, alpaca or atif: the lessons that can be learned from, as conversations. "
            "By default all lessons, with everything that is known of them.",
        ),
    ] = "",
    json: Json = False,
) -> None:
    """Write lessons to a file that `lessons import` can read."""
    count = open_home().store.export(file, batch, form)
    if json:
        emit({"lessons": count, "path": str(file)})
    else:
        say(f"{count:,} lessons written to {file}.")


@app.command()
def forget(
    lesson: Annotated[str, typer.Argument(help="A lesson's id, or its first digits.")],
    because: Annotated[str, typer.Option(help="The reason; kept with the tombstone.")] = "",
    json: Json = False,
) -> None:
    """Erase a lesson everywhere. Datasets and versions that contain it are marked and listed."""
    from academy.loop.lessons import forget_lesson

    result = forget_lesson(open_home(), lesson, because)
    if json:
        emit(result.model_dump(mode="json"))
        return
    say(f"Forgotten: {result.lesson[:12]}.")
    if result.with_it:
        names = [lesson[:12] for lesson in result.with_it]
        say(f"Forgotten with it, because they quote it among their earlier messages: {', '.join(names)}.")
    say("Datasets that contained it: " + (", ".join(digest[:12] for digest in result.datasets) or "none") + ".")
    names = [f"v{version.version} of {version.family}" for version in result.versions]
    say("Versions trained on it, now marked as tainted: " + (", ".join(names) or "none") + ".")
    if names:
        say("A model's weights keep what it learned: train again, and do not serve these versions.")


@app.command()
def undo(
    batch: Annotated[str, typer.Argument(help="A batch, as `lessons stats` lists it.")],
    restore: Annotated[bool, typer.Option("--restore", help="Restore the batch instead.")] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Remove a whole batch from training and examination."""
    from academy.loop.lessons import undo_batch

    count = undo_batch(open_home(base_model), batch, restore=restore)
    if json:
        emit({"batch": batch, "lessons": count, "restored": restore})
    else:
        say(f"{count:,} lessons of {batch} {'count again' if restore else 'are removed'}.")


@app.command()
def release(
    batch: Annotated[str | None, typer.Option(help="Only this batch.")] = None,
    vouch: Annotated[
        bool, typer.Option("--vouch", help="You vouch for them: examinations may ask their questions, as before.")
    ] = False,
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Use lessons again that a REJECT verdict set aside. They are suspects, whose questions are not asked."""
    from academy.loop.lessons import release_lessons

    count = release_lessons(open_home(base_model), batch, vouched=vouch)
    if json:
        emit({"released": count})
    else:
        say(f"{count:,} lessons count again{'' if vouch else ' as suspects: examinations do not ask their questions'}.")


@app.command()
def supersede(
    situation: Annotated[str, typer.Argument(help="The request.")],
    action: Annotated[str, typer.Argument(help="The answer that is right now.")],
    base_model: Base = None,
    json: Json = False,
) -> None:
    """Retire the lessons that give another answer to a request. The right answer needs a lesson of its own."""
    from academy.loop.lessons import supersede_answers

    result = supersede_answers(open_home(base_model), situation, action)
    if json:
        emit(result.model_dump(mode="json"))
        return
    say(f"{result.retired:,} lessons with another answer retired.")
    if not result.has_right_answer:
        say("No lesson with the right answer counts. If it was set aside, run: academy lessons release")
        say("Otherwise store it with: academy lessons add")
