"""The `academy` command: it collects the commands of the other files, and prints errors."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import typer

from academy.border.current_folder import close_environment
from academy.border.plain_text import plain_streams
from academy.cli import (
    dataset,
    doctor,
    evolve,
    examinations,
    genealogy,
    habitat,
    keys,
    lessons,
    models,
    pages,
    promotion,
    review,
    sandbox,
    serve,
    status,
    trainer,
    training,
)
from academy.cli.output import emit, say_error
from academy.errors import AcademyError, HomeError
from academy.home.private import be_private

app = typer.Typer(
    help="Train LoRA adapters from an assistant's experience, examine them, and serve the best one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# a group without a name adds its commands to `academy` itself
for group in (
    evolve.app, training.app, status.app, serve.app, examinations.app, promotion.app, genealogy.app,
    models.export_app, doctor.app, pages.app, sandbox.app, trainer.app,
):  # fmt: skip
    app.add_typer(group)
for name, group in (
    ("lessons", lessons.app), ("dataset", dataset.app), ("models", models.app), ("habitat", habitat.app),
    ("keys", keys.app), ("review", review.app),
):  # fmt: skip
    app.add_typer(group, name=name)


def main() -> None:
    """Run a command. An error is one sentence on stderr (with --json also an error object) and exit code 2."""
    be_private()
    close_environment()
    # threads that spin while they wait make two busy programs many times slower; must be set before torch is loaded
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a sign that the locale lacks must not end a command
            stream.reconfigure(errors="backslashreplace")
    plain_streams()
    _mention_unread_settings()
    try:
        app()
    except HomeError as problem:
        _fail(_system_error(problem) or problem)
    except AcademyError as problem:
        _fail(problem)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as problem:
        # Prefect and MLflow report a full disk in many ways; users need one
        if (sentence := _system_error(problem)) is None:
            raise
        _fail(sentence)


def _mention_unread_settings() -> None:
    """Say once on stderr that a .env of the current folder is not read."""
    if Path(".env").exists() and "--help" not in sys.argv:  # most folders have none, and the import takes time
        from academy.settings_report import sentence_once

        if sentence := sentence_once():
            say_error(sentence)


def _system_error(problem: BaseException) -> AcademyError | None:
    """The error for what the machine does not allow: a full disk, an unusable file. None where it is another fault."""
    from academy.settings import load_settings
    from academy.store.files import is_full

    try:
        home = load_settings().home
    except AcademyError as unusable:
        return unusable
    if is_full(home, problem):
        return HomeError(f"The disk that holds {home} is full.", "Free some space and run the same command again.")
    if isinstance(problem, OSError) and problem.errno is not None:
        return HomeError(f"{problem.filename or 'The system'}: {problem.strerror}.", "Fix this and retry.")
    return None


def _fail(problem: AcademyError) -> None:
    if "--json" in sys.argv:
        emit({"error": {"kind": type(problem).__name__, "message": problem.message, "remedy": problem.remedy}})
    say_error(str(problem))
    sys.exit(2)


if __name__ == "__main__":
    main()
