"""Reads a git repository through GitPython in a few streams, without one process for each commit.

`commit_headers` gives author, time, message and changed blobs of commits; `sizes` the sizes of blobs; `patches` the
patches of some commits. No code of the repository runs: no hooks, no external diffs, no text converters.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from academy.errors import InputError

if TYPE_CHECKING:
    from git import Repo

GITLINK = "160000"
NO_BLOB = "0" * 40
"""Stands for the blob of a file that was added or deleted."""
_COMMIT, _END = "\x1ecommit\x1f", "\x1d"
_MARK = _COMMIT.encode()
PATCH_BYTES = 32_000
"""A longer patch is cut to this length."""
_QUIET = (
    "--no-color", "--no-renames", "--no-ext-diff", "--no-textconv", "--diff-merges=off", "--no-show-signature",
    "--no-notes", "--src-prefix=a/", "--dst-prefix=b/",
)  # fmt: skip


class ChangedPath(NamedTuple):
    """A changed path: modes and blobs before and after."""

    old_mode: str
    new_mode: str
    old: str
    new: str
    path: str


class CommitHeader(NamedTuple):
    """A commit without its patch."""

    sha: str
    parents: int
    author: str
    email: str
    at: str
    subject: str
    body: str
    changes: list[ChangedPath]


@contextmanager
def open_repo(path: Path) -> Iterator[Repo]:
    """Yield the git repository at (or above) a path. Raises InputError if there is none or it cannot be read."""
    from git import GitCommandError, InvalidGitRepositoryError, NoSuchPathError, Repo

    try:
        repo = Repo(path, search_parent_directories=True)
    except (InvalidGitRepositoryError, NoSuchPathError) as problem:
        raise InputError(
            f"{path} is not a git repository.", "Give the folder of a repository, or omit --repo."
        ) from problem
    # GIT_DIR and similar variables of the caller must not select another repository
    objects = str(Path(repo.common_dir) / "objects")
    repo.git.update_environment(
        GIT_DIR=repo.git_dir, GIT_OBJECT_DIRECTORY=objects, GIT_OPTIONAL_LOCKS="0", LC_ALL="C.UTF-8"
    )
    try:
        yield repo
    except GitCommandError as problem:
        raise InputError(
            f"The history of {path} cannot be read: {_why(problem)}.",
            "Run `git fsck` in the repository, or omit --repo to use the other sources.",
        ) from problem
    finally:
        repo.close()


def _why(problem: Any) -> str:
    lines = str(problem.stderr).strip().strip("'").splitlines()
    messages = [
        line.removeprefix("fatal: ").removeprefix("stderr: 'fatal: ").rstrip("'.") for line in lines if line.strip()
    ]
    return next((line for line in messages if "dubious" in line), messages[-1] if messages else "git log failed")


def commit_headers(repo: Repo, limit: int, only: Sequence[str] = ()) -> Iterator[CommitHeader]:
    """The newest commits, or exactly those in `only`; newest first."""
    marker = f"--format={_COMMIT}%H%x1f%P%x1f%an%x1f%ae%x1f%aI%x1f%s%x1f%b{_END}"
    arguments = ["--raw", "--no-abbrev", *_QUIET, marker]
    arguments += [f"--max-count={limit}"] if not only else ["--no-walk=unsorted"]
    fields: list[str] = []
    text: list[str] = []
    changes: list[ChangedPath] = []
    for raw in _log(repo, arguments, only):
        line = raw.decode("utf-8", errors="replace").rstrip("\n")
        if line.startswith(_COMMIT):
            if fields:
                yield _header(fields, changes)
            fields, changes = [], []
            text = [line.removeprefix(_COMMIT)]
        elif text:
            text.append(line)
        elif line.startswith(":"):
            modes, _, path = line.partition("\t")
            old_mode, new_mode, old, new, _status = modes[1:].split(" ")
            changes.append(ChangedPath(old_mode, new_mode, old, new, path))
        if text and text[-1].endswith(_END):
            fields, text = "\n".join(text).removesuffix(_END).split("\x1f", 6), []
    if fields:
        yield _header(fields, changes)


def _header(fields: list[str], changes: list[ChangedPath]) -> CommitHeader:
    sha, parents, author, email, at, subject, body = fields
    return CommitHeader(sha, len(parents.split()), author, email, at, subject.strip(), body, changes)


def sizes(repo: Repo, blobs: Iterable[str]) -> dict[str, int]:
    """Bytes of each blob; -1 for a blob that is missing."""
    names = sorted(set(blobs) - {NO_BLOB})
    if not names:
        return {}
    size_of = {}
    with _list_file(names) as stream:
        process = repo.git.cat_file("--batch-check=%(objectname) %(objectsize)", istream=stream, as_process=True)
        for raw in process.stdout:
            name, _, size = raw.decode().strip().partition(" ")
            size_of[name] = int(size) if size.isdigit() else -1
        _end(process)
    return size_of


def patches(repo: Repo, shas: Sequence[str], largest: int) -> Iterator[tuple[str, str, bool]]:
    """Yield (sha, patch, whole) of these commits, in this order; `whole` is False for a patch over `largest` bytes.

    A long patch is cut; the names of all its files stay.
    """
    if not shas:
        return
    sha, size = b"", 0
    patch: list[bytes] = []
    arguments = ["-p", "--unified=1", *_QUIET, f"--format={_COMMIT}%H", "--no-walk=unsorted"]
    for line in _log(repo, arguments, shas):
        if line.startswith(_MARK):
            if sha:
                yield sha.decode(), _decoded(patch), size <= largest
            sha, size, patch = line.removeprefix(_MARK).rstrip(b"\n"), 0, []
        else:
            size += len(line)
            if size < PATCH_BYTES or line.startswith(b"diff --git "):
                patch.append(line)
    if sha:
        yield sha.decode(), _decoded(patch), size <= largest


def _decoded(lines: list[bytes]) -> str:
    return b"".join(lines).decode("utf-8", errors="replace")


def _log(repo: Repo, arguments: list[str], only: Sequence[str]) -> Iterator[bytes]:
    """The lines of a `git log`."""
    quiet = repo.git(c=["core.quotePath=false", "i18n.logOutputEncoding=UTF-8", "log.showRoot=true"])
    if only:
        with _list_file(only) as stream:
            process = quiet.log(*arguments, "--stdin", istream=stream, as_process=True)
            yield from _lines(process)
    else:
        yield from _lines(quiet.log(*arguments, "--", as_process=True))


def _lines(process: Any) -> Iterator[bytes]:
    try:
        yield from process.stdout
        process.wait()
    finally:
        for stream in (process.stdout, process.stderr):
            stream.close()


def _end(process: Any) -> None:
    try:
        process.wait()
    finally:
        for stream in (process.stdout, process.stderr):
            stream.close()


@contextmanager
def _list_file(names: Iterable[str]) -> Iterator[Any]:
    """A file with one name a line, to be read as standard input: a pipe would block on a long list."""
    with tempfile.TemporaryFile() as stream:
        stream.write("".join(f"{name}\n" for name in names).encode())
        stream.flush()
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        yield stream


def shallow_boundary(repo: Repo) -> set[str]:
    """The oldest commits of a shallow clone: their patches seem to add every file that existed before."""
    path = Path(repo.common_dir) / "shallow"
    return set(path.read_text(encoding="ascii").split()) if path.is_file() else set()
