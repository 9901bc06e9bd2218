"""Imports experience: files of lessons, tasks, conversations and examples into the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from academy.errors import InputError
from academy.experience.conversations import ConversationFilter
from academy.experience.experience import Kind
from academy.experience.git.repository import open_repository, refusal_of
from academy.experience.importing import ImportResult
from academy.loop.home import Home

log = logging.getLogger(__name__)
LOGGED_LINES = 5
"""Unreadable lines that the log names for each file."""


class UnreadFilesError(InputError):
    """Nothing could be read of one or more files; `results` are those of all files, which were imported nonetheless."""

    def __init__(self, results: Sequence[ImportResult]) -> None:
        refused = [result for result in results if result.is_refused]
        super().__init__(" ".join(_refusal(result) for result in refused), _remedy(refused[0]))
        self.results = tuple(results)


def ingest(
    home: Home,
    lessons: Sequence[Path] = (),
    tasks: Sequence[Path] = (),
    *,
    conversations: Sequence[Path] = (),
    files: Sequence[Path] = (),
    wanted: ConversationFilter | None = None,
    trusted: bool = True,
) -> list[ImportResult]:
    """Import files of lessons, tasks, conversations and examples. Importing the same lines again changes nothing.

    `wanted` selects conversations. Lessons of files that are not `trusted` wait for a person's decision. Raises
    InputError for a file that does not exist, before anything is imported, and UnreadFilesError where nothing could be
    read of a file, after the others were imported.
    """
    kinds: dict[Kind, Sequence[Path]] = {
        "lesson": lessons, "task": tasks, "conversation": conversations, "file": files,
    }  # fmt: skip
    for path in (path for paths in kinds.values() for path in paths):
        if not path.is_file():
            problem = f"{path} is not a file." if path.exists() else f"The file {path} does not exist."
            raise InputError(problem, "Check the path. A JSONL file has one lesson on each line.")
    results = [
        home.store.import_file(path, home.quarantine, kind, wanted, trusted=trusted)
        for kind, paths in kinds.items()
        for path in paths
    ]
    for result in results:
        if not result.admitted and (result.known or not result.unreadable):
            continue
        log.info(
            "%s: %d admitted, %d known, %d unreadable",
            result.batch, result.admitted, result.known, len(result.unreadable),
        )  # fmt: skip
        for line in result.unreadable[:LOGGED_LINES]:
            log.info("unreadable line %s (saved in %s)", line, result.quarantine)
    if any(result.is_refused for result in results):
        raise UnreadFilesError(results)
    return results


def _refusal(result: ImportResult) -> str:
    path = result.unreadable[0].partition(":")[0] if result.unreadable else result.batch
    guess = f" It looks like {result.looks_like}." if result.looks_like else ""
    reasons = "; ".join(f"{reason} ({count:,})" for reason, count in list(result.reasons.items())[:5])
    lines = "its line was" if result.lines == 1 else f"all {result.lines:,} lines were"
    return f"Nothing in {path} could be read: {lines} set aside in {result.quarantine}.{guess} Reasons: {reasons}."


def _remedy(result: ImportResult) -> str:
    first = next(iter(result.reasons), "")
    if "import it with" in first:
        return "Import it as this says."
    if result.looks_like:
        return "Write it as JSONL (one JSON object per line), then import it."
    if first.startswith("not UTF-8"):
        return "Convert it: iconv -f CP1252 -t UTF-8."
    return "docs/reference/formats.md lists what is read."


def check_repositories(paths: Sequence[Path]) -> None:
    """Raise InputError for a path that is not a git repository, or that git refuses to read."""
    for path in paths:
        open_repository(path)


def choose_repositories(paths: Sequence[Path], workspace: Path) -> list[Path]:
    """The git repositories to read: the given ones, or else the workspace if git can read it.

    Raises InputError for a given path that is not a git repository, or that git refuses to read.
    """
    if paths:
        check_repositories(paths)
        return list(paths)
    refusal = refusal_of(workspace)
    if refusal is None:
        return [workspace]
    log.info("No commits are read. %s", refusal.message)
    return []
