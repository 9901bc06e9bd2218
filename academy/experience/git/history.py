"""Walks the commits of a repository and compares them with their parents, in a few processes for all commits.

Trees are compared by their ids, one level of folders after another: git would list all files of a tree before it writes
the first, and ten small trees can name 10,000,000,000 files.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count
from typing import NamedTuple

from academy.experience.git.commit import MALFORMED, MISSING, CommitHeader, parse_commit
from academy.experience.git.objects import DAMAGED, LARGEST_COMMIT, SLOW, Reader, StoredObject, View
from academy.experience.git.process import Child, SilentError, listing
from academy.experience.git.repository import EMPTY_TREES, FORMATS

GITLINK = "160000"
TOO_LARGE = "patch too large"
TOO_LONG = "a message that is too long"
NOT_A_COMMIT = "not a commit"
MOST_FILES = 5000
"""A patch of more files has over 200,000 bytes: 40 for each file at least."""
DEEPEST = 100
"""Folders within folders; a path that is deeper counts as too large."""
TOGETHER = 1000
"""Commits that are compared together: a few small trees can name any number of files."""
FOLDER = "040000"
LONGEST_PATH = 1 << 20
PATCH_BYTES = 32_000
"""A longer patch is cut to this length."""
_COMPARE = ("diff-tree", "--stdin", "--no-abbrev", "--no-renames")
_DAMAGE = ("corrupt", "inflate", "mismatch", "bad ", "malformed", "too-short")


class ChangedPath(NamedTuple):
    """A changed path: modes and blobs before and after."""

    old_mode: str
    new_mode: str
    old: str
    new: str
    path: str


class Pair(NamedTuple):
    """Two trees that are compared."""

    old: str
    new: str


class Difference(NamedTuple):
    """How two trees differ, or why that is not known."""

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


def trees_of(view: View, headers: Sequence[CommitHeader], commits: Sequence[CommitHeader]) -> Iterator[Pair | str]:
    """For each of the commits the trees of its first parent and itself, or why they cannot be compared.

    `headers`: all commits that were read; others are read where they are parents.
    """
    header_of = {header.sha: header for header in headers}
    others = {header.parents[0] for header in commits if header.parents} - set(header_of)
    header_of |= {header.sha: header for header in commits_of(view, sorted(others))}
    nothing = EMPTY_TREES[view.repository.format]
    pairs = [Pair(header_of[c.parents[0]].tree if c.parents else nothing, c.tree) for c in commits]
    size_of = view.sizes({tree for pair in pairs for tree in pair} - {nothing, ""}) | {nothing: 0}
    for commit, pair in zip(commits, pairs, strict=True):
        if not pair.old:
            reason = header_of[commit.parents[0]].unreadable
            yield reason if reason in (MISSING, DAMAGED, SLOW) else MALFORMED
        else:
            yield MISSING if min(size_of[tree] for tree in pair) < 0 else pair


def changes(view: View, pairs: Mapping[str, Pair]) -> dict[str, Difference]:
    """The changed paths by commit, given its trees. A commit of more than MOST_FILES paths is too large."""
    shas = list(pairs)
    differences: dict[str, Difference] = {}
    for start in range(0, len(shas), TOGETHER):
        differences |= _changes(view, {sha: pairs[sha] for sha in shas[start : start + TOGETHER]})
    return differences


def _changes(view: View, pairs: Mapping[str, Pair]) -> dict[str, Difference]:
    paths: dict[str, list[ChangedPath]] = {sha: [] for sha in pairs}
    problems: dict[str, str] = {}
    level: dict[Pair, list[tuple[str, str]]] = defaultdict(list)  # commits and folders where two trees are compared
    for sha, pair in pairs.items():
        level[pair].append((sha, ""))
    for _ in range(DEEPEST):
        places, level = level, defaultdict(list)
        folders: Counter[str] = Counter()
        for pair, difference in zip(places, _compared(view, ("--raw", "-z"), list(places), _raw), strict=True):
            for sha, folder in places[pair]:
                if difference.problem:
                    problems.setdefault(sha, difference.problem)
                for change in difference.changes if sha not in problems else ():
                    inner, outer = _parted(change, EMPTY_TREES[view.repository.format])
                    if inner:
                        level[inner].append((sha, f"{folder}{change.path}/"))
                        folders[sha] += 1
                    if outer:
                        paths[sha].append(outer._replace(path=folder + outer.path))
                    if len(paths[sha]) + folders[sha] > MOST_FILES:
                        problems[sha] = TOO_LARGE
                        break
        for pair, users in list(level.items()):
            level[pair] = [(sha, folder) for sha, folder in users if sha not in problems]
            if not level[pair]:
                del level[pair]
        if not level:
            break
    problems |= {sha: TOO_LARGE for users in level.values() for sha, _ in users}
    return {sha: Difference(problem=problems[sha]) if sha in problems else Difference(paths[sha]) for sha in pairs}


def _parted(change: ChangedPath, nothing: str) -> tuple[Pair | None, ChangedPath | None]:
    """The folders of a change, which are compared next, and the change of files."""
    if FOLDER not in (change.old_mode, change.new_mode):
        return None, change
    old = change.old if change.old_mode == FOLDER else nothing
    return Pair(old, change.new if change.new_mode == FOLDER else nothing), None


def patches(view: View, pairs: Sequence[Pair], largest: int) -> Iterator[Difference]:
    """The patches between trees, in this order; one of more than `largest` bytes is too large.

    A long patch is cut; the names of all its files stay. The trees were compared before, so they are not too large.
    """
    arguments = ("-r", "-p", "--unified=1", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")
    yield from _compared(view, arguments, pairs, lambda child, batch: _patch(child, batch, largest))


def _compared(
    view: View,
    arguments: Sequence[str],
    pairs: Sequence[Pair],
    parse: Callable[[Child, Sequence[Pair]], Iterator[Difference]],
) -> Iterator[Difference]:
    """Compare all pairs in one git. Where it ends early, the next pair is tried alone, and the rest after it."""
    start, alone = 0, False
    while start < len(pairs):
        batch = pairs[start : start + 1] if alone else pairs[start:]
        end, stopped, problem = start + len(batch), False, ""
        with listing(map(" ".join, batch)) as stream, view.start(*_COMPARE, *arguments, stdin=stream) as child:
            try:
                for difference in parse(child, batch):
                    yield difference
                    start += 1
                    stopped = difference.problem == TOO_LARGE
            except SilentError:
                view.count_silence()
                problem = SLOW
            messages = child.messages.decode(errors="replace")
        ended_early = start < end and not stopped
        if alone and ended_early:
            damaged = any(word in messages for word in _DAMAGE)
            yield Difference(problem=problem or (DAMAGED if damaged else MISSING))
            start += 1
        alone = ended_early and not alone


class _Places:
    """Follows the pairs through git's output. git names each pair before its difference, and omits those it misses."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._lines = [" ".join(pair).encode() for pair in pairs]
        self._names = frozenset(self._lines)
        self._at = -1

    def names(self, line: bytes) -> bool:
        """Whether a line names a pair."""
        return line in self._names

    def advance(self, line: bytes, difference: Difference) -> Iterator[Difference]:
        """Go to the pair of a line. Yields the difference of the current pair, and of those that git omitted."""
        try:
            place = self._lines.index(line, self._at + 1)
        except ValueError:
            return
        if self._at >= 0:
            yield difference
        for _ in range(self._at + 1, place):
            yield Difference(problem=MISSING)
        self._at = place

    def finish(self, difference: Difference) -> Iterator[Difference]:
        """Yield the difference of the last pair, and of those that git omitted after it."""
        if self._at >= 0:
            yield difference
        for _ in range(self._at + 1, len(self._lines)):
            yield Difference(problem=MISSING)


def _raw(child: Child, pairs: Sequence[Pair]) -> Iterator[Difference]:
    """Parse `--raw -z`. A path is the field after its modes, so no path can begin a record."""
    places = _Places(pairs)
    paths: list[ChangedPath] = []
    modes: list[str] = []
    rest = b""
    while chunk := child.read():
        *fields, rest = (rest + chunk).split(b"\0")
        for field in fields:
            if modes:
                old_mode, new_mode, old, new, _status = modes
                paths.append(ChangedPath(old_mode, new_mode, old, new, field.decode("utf-8", errors="replace")))
                modes = []
                if len(paths) > MOST_FILES:
                    yield Difference(problem=TOO_LARGE)
                    return
                continue
            *lines, record = field.split(b"\n")
            for line in lines:
                yield from places.advance(line, Difference(paths))
                paths = []
            modes = record[1:].decode().split(" ")
        if not modes and not rest.startswith(b":"):
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield from places.advance(line, Difference(paths))
                paths = []
        if len(rest) > LONGEST_PATH:
            yield Difference(problem=TOO_LARGE)
            return
    if child.succeeded():
        yield from places.finish(Difference(paths))


def _patch(child: Child, pairs: Sequence[Pair], largest: int) -> Iterator[Difference]:
    """Parse `-p`. Every line of a file has a sign in front, so only git writes a line that names a pair."""
    places = _Places(pairs)
    size, rest = 0, b""
    lines: list[bytes] = []
    while chunk := child.read():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if places.names(line):
                yield from places.advance(line, Difference(patch=_text(lines)))
                size, lines = 0, []
                continue
            size += len(line) + 1
            if size > largest:
                break
            if size < PATCH_BYTES or line.startswith(b"diff --git "):
                lines.append(line)
        if size + len(rest) > largest:
            yield Difference(problem=TOO_LARGE)
            return
    if child.succeeded():
        yield from places.finish(Difference(patch=_text(lines)))


def _text(lines: list[bytes]) -> str:
    return b"\n".join(lines).decode("utf-8", errors="replace")
