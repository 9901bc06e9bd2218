"""Reading a git repository through GitPython: two streams, no process for each commit.

`heads` tells of each commit who, when, what about, and which blobs changed; `sizes` how large blobs are; `patches`
gives the patches of chosen commits. Nothing of the repository is run: no hooks, no external diffs, no text converters.
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
NOTHING = "0" * 40
_COMMIT, _END = "\x1ecommit\x1f", "\x1d"
_MARK = _COMMIT.encode()
BEGINNING = 32_000
"""Bytes of a patch that are given."""
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
    entries: list[ChangedPath]


@contextmanager
def open_repo(path: Path) -> Iterator[Repo]:
    """The git repository at (or above) a path. Raises InputError where there is none, or it cannot be read."""
    from git import GitCommandError, InvalidGitRepositoryError, NoSuchPathError, Repo

    try:
        repo = Repo(path, search_parent_directories=True)
    except (InvalidGitRepositoryError, NoSuchPathError) as problem:
        raise InputError(f"{path} is no git repository.", "Give the folder of one, or leave --repo out.") from problem
    # a caller's own GIT_DIR and its kin must not send us to another repository
    objects = str(Path(repo.common_dir) / "objects")
    repo.git.update_environment(
        GIT_DIR=repo.git_dir, GIT_OBJECT_DIRECTORY=objects, GIT_OPTIONAL_LOCKS="0", LC_ALL="C.UTF-8"
    )
    try:
        yield repo
    except GitCommandError as problem:
        raise InputError(
            f"The history of {path} cannot be read: {_why(problem)}.",
            "Run `git fsck` there; the other sources can be used without --repo.",
        ) from problem
    finally:
        repo.close()


def _why(problem: Any) -> str:
    lines = str(problem.stderr).strip().strip("'").splitlines()
    told = [
        line.removeprefix("fatal: ").removeprefix("stderr: 'fatal: ").rstrip("'.") for line in lines if line.strip()
    ]
    return next((line for line in told if "dubious" in line), told[-1] if told else "git log failed")


def heads(repo: Repo, limit: int, only: Sequence[str] = ()) -> Iterator[CommitHeader]:
    """The newest commits (or exactly these), newest first."""
    marker = f"--format={_COMMIT}%H%x1f%P%x1f%an%x1f%ae%x1f%aI%x1f%s%x1f%b{_END}"
    arguments = ["--raw", "--no-abbrev", *_QUIET, marker]
    arguments += [f"--max-count={limit}"] if not only else ["--no-walk=unsorted"]
    head: list[str] = []
    text: list[str] = []
    entries: list[ChangedPath] = []
    for raw in _log(repo, arguments, only):
        line = raw.decode("utf-8", errors="replace").rstrip("\n")
        if line.startswith(_COMMIT):
            if head:
                yield _head(head, entries)
            head, entries = [], []
            text = [line.removeprefix(_COMMIT)]
        elif text:
            text.append(line)
        elif line.startswith(":"):
            modes, _, path = line.partition("\t")
            old_mode, new_mode, old, new, _status = modes[1:].split(" ")
            entries.append(ChangedPath(old_mode, new_mode, old, new, path))
        if text and text[-1].endswith(_END):
            head, text = "\n".join(text).removesuffix(_END).split("\x1f", 6), []
    if head:
        yield _head(head, entries)


def _head(found: list[str], entries: list[ChangedPath]) -> CommitHeader:
    sha, parents, author, email, at, subject, body = found
    return CommitHeader(sha, len(parents.split()), author, email, at, subject.strip(), body, entries)


def sizes(repo: Repo, blobs: Iterable[str]) -> dict[str, int]:
    """Bytes of each blob; one that is missing has -1."""
    wanted = sorted(set(blobs) - {NOTHING})
    if not wanted:
        return {}
    found = {}
    with _listed(wanted) as stream:
        process = repo.git.cat_file("--batch-check=%(objectname) %(objectsize)", istream=stream, as_process=True)
        for raw in process.stdout:
            name, _, size = raw.decode().strip().partition(" ")
            found[name] = int(size) if size.isdigit() else -1
        _end(process)
    return found


def patches(repo: Repo, shas: Sequence[str], most: int) -> Iterator[tuple[str, str, bool]]:
    """(sha, patch, whole) of chosen commits, in their order; `whole` is False for a patch over `most` bytes.

    Of a long patch the beginning is given, and the names of all its files.
    """
    if not shas:
        return
    sha, size = b"", 0
    patch: list[bytes] = []
    arguments = ["-p", "--unified=1", *_QUIET, f"--format={_COMMIT}%H", "--no-walk=unsorted"]
    for line in _log(repo, arguments, shas):
        if line.startswith(_MARK):
            if sha:
                yield sha.decode(), _decoded(patch), size <= most
            sha, size, patch = line.removeprefix(_MARK).rstrip(b"\n"), 0, []
        else:
            size += len(line)
            if size < BEGINNING or line.startswith(b"diff --git "):
                patch.append(line)
    if sha:
        yield sha.decode(), _decoded(patch), size <= most


def _decoded(lines: list[bytes]) -> str:
    return b"".join(lines).decode("utf-8", errors="replace")


def _log(repo: Repo, arguments: list[str], only: Sequence[str]) -> Iterator[bytes]:
    """The lines of a `git log`."""
    quiet = repo.git(c=["core.quotePath=false", "i18n.logOutputEncoding=UTF-8", "log.showRoot=true"])
    if only:
        with _listed(only) as stream:
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
def _listed(names: Iterable[str]) -> Iterator[Any]:
    """Names, one a line, as a file to read from: a pipe would block on a long list."""
    with tempfile.TemporaryFile() as stream:
        stream.write("".join(f"{name}\n" for name in names).encode())
        stream.flush()
        os.lseek(stream.fileno(), 0, os.SEEK_SET)
        yield stream


def boundary(repo: Repo) -> set[str]:
    """Where a shallow clone was cut: these commits seem to add everything that was there before."""
    cut = Path(repo.common_dir) / "shallow"
    return set(cut.read_text(encoding="ascii").split()) if cut.is_file() else set()
