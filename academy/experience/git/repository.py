"""Finds a repository with git's own rules, and lets git check who owns it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from academy.errors import InputError
from academy.experience.git.process import ask, reason_of

FORMATS = {"sha1": 40, "sha256": 64}
"""Object formats that are read, with the digits of an id."""
EMPTY_TREES = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
"""The id of a tree without files, which git knows in every repository."""
_OWNED_BY_ANOTHER = re.compile(r"dubious ownership|unsafe repository|owned by someone else")
_LARGEST_SHALLOW = 64 << 20


class Repository(NamedTuple):
    """A repository that git agrees to read."""

    path: Path
    common_dir: Path  # the folder that all worktrees share
    objects: Path
    format: str  # a key of FORMATS
    head: str  # the id of the current commit; empty where there is none
    empty: str  # why there is no current commit
    boundary: frozenset[str]  # the oldest commits of a shallow clone


def open_repository(path: Path) -> Repository:
    """The repository at (or above) a path. Raises InputError if there is none, or git refuses to read it."""
    folder = path.expanduser()
    folder = folder.parent if folder.is_file() else folder
    if not folder.is_dir():
        raise _not_a_repository(path)
    succeeded, output, messages = ask(
        str(folder), "rev-parse", "--show-object-format", "--is-shallow-repository", "--git-common-dir"
    )
    if not succeeded:
        raise _refusal(path, folder, messages)
    object_format, shallow, name = os.fsdecode(output).removesuffix("\n").split("\n", 2)
    if object_format not in FORMATS:
        raise InputError(
            f"{path} has objects of the format {object_format}, which is not read.",
            "Convert the repository to SHA-1 or SHA-256, or omit --repo.",
        )
    common_dir = Path(os.path.normpath(folder.resolve() / name))
    head, empty = _head(path, folder, FORMATS[object_format])
    boundary = _boundary(common_dir / "shallow", FORMATS[object_format]) if shallow == "true" else frozenset()
    return Repository(path, common_dir, common_dir / "objects", object_format, head, empty, boundary)


def refusal_of(path: Path) -> InputError | None:
    """Why a path gives no commits: it is not in a repository, or git refuses to read it. None if it can be read."""
    try:
        open_repository(path)
    except InputError as problem:
        return problem
    return None


def _head(path: Path, folder: Path, digits: int) -> tuple[str, str]:
    """The id of the current commit, or why there is none."""
    succeeded, output, _ = ask(str(folder), "rev-parse", "--verify", "--quiet", "HEAD")
    head = output.decode(errors="replace").strip()
    if succeeded and re.fullmatch(rf"[0-9a-f]{{{digits}}}", head):
        return head, ""
    succeeded, output, messages = ask(str(folder), "for-each-ref", "--count=1", "--format=%(refname)")
    if not succeeded or messages:
        raise InputError(
            f"The branches of {path} cannot be read: {reason_of(messages).removeprefix('warning: ')}.",
            "Run `git fsck` in the repository, or omit --repo.",
        )
    return "", "the current branch has no commits" if output else "the history is empty"


def _boundary(file: Path, digits: int) -> frozenset[str]:
    if not file.is_file() or file.stat().st_size > _LARGEST_SHALLOW:
        return frozenset()
    return frozenset(re.findall(rf"^[0-9a-f]{{{digits}}}$", file.read_text(errors="replace"), re.MULTILINE))


def _not_a_repository(path: Path) -> InputError:
    return InputError(f"{path} is not a git repository.", "Give the folder of a repository, or omit --repo.")


def _refusal(path: Path, folder: Path, messages: str) -> InputError:
    if _OWNED_BY_ANOTHER.search(messages):
        quoted = re.search(r"safe\.directory (\S.*)", messages)
        return InputError(
            f"{path} belongs to another user, so git refuses to read it.",
            "If you trust it, `git config --global --add safe.directory "
            f"{quoted[1].strip() if quoted else folder.resolve()}` lets git read it.",
        )
    if "not a git repository" in messages:
        return _not_a_repository(path)
    return InputError(
        f"The repository {path} cannot be read: {reason_of(messages)}.",
        "Fix the repository, use a newer git, or omit --repo.",
    )
