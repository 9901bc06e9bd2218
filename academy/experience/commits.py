"""Git history as experience: what changed -> the subject line that the author wrote.

The history is streamed through GitPython from one `git log`; no diff is made commit by commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from academy.artifacts import Record, digest_of
from academy.errors import InputError
from academy.experience.source import Experience, Skipped

if TYPE_CHECKING:
    from git import Repo

LONGEST_REQUEST = 700
"""Characters of a change that are shown to the model: the file names and the first changed lines."""
LARGEST_PATCH = 200_000
"""Characters of a patch above which a commit is left out."""
BOT = re.compile(r"\[bot\]|dependabot|renovate|github-actions", re.IGNORECASE)
_COMMIT = "\x1ecommit\x1f"


class _Commit(Record):
    sha: str
    author: str
    at: str
    subject: str
    patch: str


class CommitsSource:
    """The newest commits of one repository, oldest first (an ExperienceSource without a cursor of its own)."""

    def __init__(self, repository: Path, limit: int, *, only: Sequence[str] = ()) -> None:
        self.repository = repository
        self.limit = limit
        self.only = only  # these commits, wherever the branch stands now

    def read(self, since: int = 0) -> Iterator[Experience | Skipped]:  # noqa: ARG002  the limit bounds every reading
        """Commits worth learning from; each of the others is Skipped with its reason.

        Raises InputError where the path is no repository or its history cannot be read.
        """
        if self.limit == 0:
            return
        repo = open_repository(self.repository)
        try:
            found = list(self._stream(repo))
            boundary = _boundary(repo)
        finally:
            repo.close()
        for commit in reversed(found):
            reason = "the boundary of a shallow clone" if commit.sha in boundary else _reason_against(commit)
            if reason:
                yield Skipped(what=commit.sha[:12], because=reason)
                continue
            request = _request(commit.patch)
            yield Experience(
                id=digest_of(["commit", commit.sha]),
                kind="commit",
                request=request,
                answer=commit.subject,
                outcome="success",
                author=commit.author,
                batch="git",
                at=commit.at,
                provenance={"commit": commit.sha, "repository": self.repository.resolve().name},
            )

    def _stream(self, repo: Repo) -> Iterator[_Commit]:
        from git import GitCommandError

        if not repo.head.is_valid():
            return
        marker = f"--format={_COMMIT}%H%x1f%an%x1f%aI%x1f%s"
        try:
            process = repo.git(c="core.quotePath=false").log(
                "-p", "--no-color", "--no-renames", "--no-ext-diff", "--no-textconv", "--unified=1",
                "--diff-merges=off", "--src-prefix=a/", "--dst-prefix=b/",
                "--no-show-signature", f"--max-count={self.limit}", marker,
                *(("--no-walk=unsorted", *self.only) if self.only else ()), "--", as_process=True,
            )  # fmt: skip
            try:
                yield from _commits(process.stdout)
                process.wait()
            finally:
                for stream in (process.stdout, process.stderr):
                    stream.close()
        except GitCommandError as problem:
            reason = str(problem.stderr).strip().splitlines()
            raise InputError(
                f"The history of {self.repository} cannot be read: {reason[-1] if reason else 'git log failed'}.",
                "Run `git fsck` there; the other sources can be used without --repo.",
            ) from problem


def _boundary(repo: Repo) -> set[str]:
    """Where a shallow clone was cut: these commits seem to add everything that was there before."""
    cut = Path(repo.git_dir) / "shallow"
    return set(cut.read_text(encoding="ascii").split()) if cut.is_file() else set()


def _commits(lines: Iterable[bytes]) -> Iterator[_Commit]:
    """The commits of a `git log -p`; of a very large patch only the beginning is kept."""
    head, size = "", 0
    patch: list[str] = []
    for raw in lines:
        line = raw.decode("utf-8", errors="replace").rstrip("\n")
        if line.startswith(_COMMIT):
            if head:
                yield _commit(head, patch)
            head, patch, size = line, [], 0
        elif size <= LARGEST_PATCH:
            patch.append(line)
            size += len(line) + 1
    if head:
        yield _commit(head, patch)


def open_repository(path: Path) -> Repo:
    """The git repository at (or above) a path; InputError where there is none."""
    from git import InvalidGitRepositoryError, NoSuchPathError, Repo

    try:
        return Repo(path, search_parent_directories=True)
    except (InvalidGitRepositoryError, NoSuchPathError) as problem:
        raise InputError(f"{path} is no git repository.", "Give the folder of one, or leave --repo out.") from problem


def is_repository(path: Path) -> bool:
    """Whether a path lies in a git repository."""
    try:
        open_repository(path).close()
    except InputError:
        return False
    return True


def _commit(head: str, patch: list[str]) -> _Commit:
    sha, author, at, subject = head.removeprefix(_COMMIT).split("\x1f", 3)
    return _Commit(sha=sha, author=author, at=at, subject=subject.strip(), patch="\n".join(patch))


def _reason_against(commit: _Commit) -> str:
    """Why a commit teaches nothing; empty where it does."""
    if BOT.search(commit.author):
        return "written by a bot"
    if commit.subject.startswith(("Revert ", "Merge ")):
        return "a merge or revert"
    if not commit.patch.strip():
        return "no text changed"
    if len(commit.patch) > LARGEST_PATCH:
        return "patch too large"
    if not _request(commit.patch).count("\n"):
        return "no text changed"
    return ""


def _request(patch: str) -> str:
    """What the model is shown of a patch: its files, then the first changed lines."""
    lines = patch.splitlines()
    files = [_changed_file(line) for line in lines if line.startswith("diff --git ")]
    changed = [line for line in _hunks(lines) if line[:1] in ("+", "-") and line[1:].strip()]
    text = "Write the subject line for this change: " + ", ".join(files[:6]) + (" ..." if len(files) > 6 else "")
    for line in changed:
        if len(text) + len(line) + 1 > LONGEST_REQUEST:
            break
        text += "\n" + line
    return text


def _hunks(lines: list[str]) -> Iterator[str]:
    """The lines of the hunks alone: in a header `---` is a file name, in a hunk it is a line that was taken out."""
    inside = False
    for line in lines:
        if line.startswith(("diff --git ", "@@ ")):
            inside = line.startswith("@@ ")
        elif inside:
            yield line


def _changed_file(line: str) -> str:
    """The name after the change in a line `diff --git a/NAME b/NAME`; git quotes unusual names."""
    if line.endswith('"'):
        return line.rpartition('"b/')[2].removesuffix('"')
    return line.rpartition(" b/")[2]
