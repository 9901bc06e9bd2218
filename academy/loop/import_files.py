"""Imports files of experience that a user names, all of one kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.importing import ImportResult
from academy.loop.home import Home
from academy.loop.ingest import ingest
from academy.records import Record

Imported = Sequence[ImportResult]
"""The results of an import, file by file."""


class ImportRequest(Record):
    """Files of one kind (lessons, where no kind is set), and which conversations to take."""

    files: tuple[Path, ...]
    tasks: bool = False
    conversations: bool = False
    examples: bool = False
    users: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    gold_only: bool = False
    untrusted: bool = False  # the lessons wait for a person's decision


def import_experience(request: ImportRequest) -> Imported:
    """Import the files into the home of the settings.

    Raises InputError for options that contradict each other, and UnreadFilesError where nothing of a file can be read.
    """
    if request.tasks + request.conversations + request.examples > 1:
        raise InputError("The files can be of one kind only.", "Choose one of --tasks, --conversations and --examples.")
    selection = ConversationFilter(
        users=request.users, domains=request.domains, types=request.types, gold_only=request.gold_only
    )  # fmt: skip
    if selection != ConversationFilter() and not request.conversations:
        raise InputError("--user, --domain, --type and --gold select conversations.", "Add --conversations.")
    kind = "files" if request.examples else "tasks" if request.tasks else "lessons"
    kind = "conversations" if request.conversations else kind
    return ingest(Home.open(), **{kind: request.files}, wanted=selection, trusted=not request.untrusted)
