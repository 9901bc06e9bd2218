"""Walks the commits of a repository and compares them with their parents, in a few processes for all commits."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import count
from typing import NamedTuple

from academy.experience.git.commit import MISSING, CommitHeader, parse_commit
from academy.experience.git.objects import DAMAGED, LARGEST_COMMIT, SLOW, Reader, StoredObject, View
from academy.experience.git.process import Child, SilentError, listing
from academy.experience.git.repository import FORMATS

GITLINK = "160000"
TOO_LARGE = "patch too large"
TOO_LONG = "a message that is too long"
NOT_A_COMMIT = "not a commit"
MOST_FILES = 5000
"""A patch of more files has over 200,000 bytes: 40 for each file at least."""
LONGEST_PATH = 1 << 20
PATCH_BYTES = 32_000
"""A longer patch is cut to this length."""
_COMPARE = ("diff-tree", "--stdin", "-r", "--root", "--always", "--no-abbrev", "--no-renames")
_DAMAGE = ("corrupt", "inflate", "mismatch", "bad ", "malformed", "too-short")


class ChangedPath(NamedTuple):
    """A changed path: modes and blobs before and after."""

    old_mode: str
    new_mode: str
    old: str
    new: str
    path: str


class Difference(NamedTuple):
    """How a commit differs from its parent, or why that is not known."""

    sha: str
    changes: Sequence[ChangedPath] = ()
    patch: str = ""
    problem: str = ""


def newest_commits(view: View, limit: int) -> Iterator[CommitHeader]:
    """The newest commits in git's own order, by the time when they were committed. One that is missing counts too."""
    boundary, start = view.repository.boundary, view.repository.head
    order = count()
    queue: list[tuple[int, int, CommitHeader]] = []
    seen = {start}
    with closing(Reader(view)) as reader:
        header = _header(start, reader.read(start))
        heapq.heappush(queue, (-header.committed, next(order), header))
        for _ in range(limit):
            if not queue:
                return
            header = heapq.heappop(queue)[2]
            for parent in () if header.sha in boundary else header.parents:
                if parent not in seen:
                    seen.add(parent)
                    earlier = _header(parent, reader.read(parent))
                    committed = header.committed if earlier.unreadable else earlier.committed
                    heapq.heappush(queue, (-committed, next(order), earlier))
            yield header


def commits_of(view: View, shas: Sequence[str]) -> Iterator[CommitHeader]:
    """Exactly these commits."""
    digits = FORMATS[view.repository.format]
    with closing(Reader(view)) as reader:
        for sha in shas:
            is_id = len(sha) == digits and set(sha) <= set("0123456789abcdef")
            yield _header(sha, reader.read(sha) if is_id else StoredObject(problem=MISSING))


def _header(sha: str, stored: StoredObject) -> CommitHeader:
    if stored.problem or stored.type != "commit":
        return CommitHeader(sha, unreadable=stored.problem or NOT_A_COMMIT)
    header = parse_commit(sha, stored.content)
    return header._replace(unreadable=TOO_LONG) if stored.size > LARGEST_COMMIT else header


def changes(view: View, shas: Sequence[str]) -> Iterator[Difference]:
    """The changed paths of these commits, in this order. A commit of more than MOST_FILES paths is too large."""
    yield from _compared(view, ("--raw", "-z"), shas, _raw)


def patches(view: View, shas: Sequence[str], largest: int) -> Iterator[Difference]:
    """The patches of these commits, in this order; one of more than `largest` bytes is too large.

    A long patch is cut; the names of all its files stay.
    """
    arguments = ("-p", "--unified=1", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    yield from _compared(view, arguments, shas, lambda child, batch: _patch(child, batch, largest))


def _compared(
    view: View,
    arguments: Sequence[str],
    shas: Sequence[str],
    parse: Callable[[Child, Sequence[str]], Iterator[Difference]],
) -> Iterator[Difference]:
    """Compare all commits in one git. Where it ends early, the next commit is tried alone, and the rest after it."""
    start, alone = 0, False
    while start < len(shas):
        batch = shas[start : start + 1] if alone else shas[start:]
        end, stopped, problem = start + len(batch), False, ""
        with listing(batch) as stream, view.start(*_COMPARE, *arguments, stdin=stream) as child:
            try:
                for difference in parse(child, batch):
                    yield difference
                    start += 1
                    stopped = bool(difference.problem)
            except SilentError:
                view.count_silence()
                problem = SLOW
            messages = child.messages.decode(errors="replace")
        ended_early = start < end and not stopped
        if alone and ended_early:
            damaged = any(word in messages for word in _DAMAGE)
            yield Difference(shas[start], problem=problem or (DAMAGED if damaged else MISSING))
            start += 1
        alone = ended_early and not alone


def _raw(child: Child, shas: Sequence[str]) -> Iterator[Difference]:
    """Parse `--raw -z`. A path is the field after its modes, so no path can begin a record."""
    at = -1  # place of the current commit
    paths: list[ChangedPath] = []
    modes: list[str] = []
    rest = b""
    while chunk := child.read():
        *fields, rest = (rest + chunk).split(b"\0")
        if len(rest) > LONGEST_PATH:
            yield Difference(shas[at], problem=TOO_LARGE)
            return
        for field in fields:
            if modes:
                old_mode, new_mode, old, new, _status = modes
                paths.append(ChangedPath(old_mode, new_mode, old, new, field.decode("utf-8", errors="replace")))
                modes = []
                if len(paths) > MOST_FILES:
                    yield Difference(shas[at], problem=TOO_LARGE)
                    return
            elif field.startswith(b":"):
                modes = field[1:].decode().split(" ")
            else:
                if at >= 0:
                    yield Difference(shas[at], paths)
                at, paths = at + 1, []
    if at >= 0 and child.succeeded():
        yield Difference(shas[at], paths)


def _patch(child: Child, shas: Sequence[str], largest: int) -> Iterator[Difference]:
    """Parse `-p`. Every line of a file has a sign in front, so only git writes a line that is the next id alone."""
    at, size, rest = -1, 0, b""
    lines: list[bytes] = []
    following: bytes | None = shas[0].encode()
    while chunk := child.read():
        *whole, rest = (rest + chunk).split(b"\n")
        if size + len(rest) > largest:
            yield Difference(shas[at], problem=TOO_LARGE)
            return
        for line in whole:
            if line == following:
                if at >= 0:
                    yield Difference(shas[at], patch=_text(lines))
                at, size, lines = at + 1, 0, []
                following = shas[at + 1].encode() if at + 1 < len(shas) else None
                continue
            size += len(line) + 1
            if size > largest:
                yield Difference(shas[at], problem=TOO_LARGE)
                return
            if size < PATCH_BYTES or line.startswith(b"diff --git "):
                lines.append(line)
    if at >= 0 and child.succeeded():
        yield Difference(shas[at], patch=_text(lines))


def _text(lines: list[bytes]) -> str:
    return b"\n".join(lines).decode("utf-8", errors="replace")
