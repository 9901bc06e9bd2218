"""Git history as a source of experience: a change is the request, the subject line that its author wrote the answer.

Commits are filtered by their headers first (author, subject, changed blobs and their sizes). Patches are made only for
the commits that remain. The extracted texts are cached, so reading an unchanged repository again costs little.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import orjson

from academy.experience.experience import Experience
from academy.experience.git.commit import MISSING, CommitHeader
from academy.experience.git.history import (
    GITLINK,
    TOO_LARGE,
    ChangedPath,
    Difference,
    Pair,
    changes,
    commits_of,
    newest_commits,
    patches,
    trees_of,
)
from academy.experience.git.objects import NO_BLOB, View, open_view
from academy.experience.git.repository import Repository, open_repository
from academy.experience.sources.base import Reference, Skipped, SourceContext
from academy.records import digest_of
from academy.store.files import write_file

LONGEST_REQUEST = 700
"""Characters of a change that the model sees: the file names and the first changed lines."""
REQUEST_PREFIX = "Write the subject line for this change: "
"""Every request of a commit begins with it."""
LARGEST_PATCH = 200_000
"""Bytes of a patch above which a commit is skipped."""
RULES = 5
"""Version of the extraction rules. A cache written by another version is ignored."""
BOT = re.compile(r"\[bot\]|dependabot|renovate|github-actions|greenkeeper|snyk-bot|-bot@|^bot\b", re.IGNORECASE)
EMPTY = re.compile(
    r"(?:wip|fix(?:es|ed)?|update[sd]?|changes?|misc|minor|tmp|temp|test|tests|cleanup|clean up|refactor|stuff|more|"
    r"oops|typo|initial commit|first commit|init|\W+|.{0,3})[.!]?",
    re.IGNORECASE,
)
BINARY = re.compile(
    r"\.(?:png|jpe?g|gif|webp|ico|bmp|tiff?|pdf|zip|gz|tgz|bz2|xz|zst|7z|jar|war|whl|exe|dll|so|dylib|a|o|class|pyc|bin|dat|db|"
    r"sqlite\d?|mp[34]|wav|ogg|mov|avi|webm|ttf|otf|woff2?|eot|safetensors|onnx|pt|pth|gguf|parquet|npy|npz|pkl)$",
    re.IGNORECASE,
)
_REVERTS = re.compile(r"This reverts commit ([0-9a-f]{7,40})")


class _Extract(NamedTuple):
    """What was extracted from a commit: the fields of its experience, or the reason to skip it."""

    sha: str
    because: str = ""
    request: str = ""
    answer: str = ""
    author: str = ""
    at: str = ""
    id: str = ""  # of the experience


class CommitsSource:
    """The newest commits of one repository, oldest first."""

    name = "commit"
    limited = False

    def __init__(
        self,
        repository: Path,
        limit: int,
        *,
        only: Sequence[str] = (),
        trusted: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """`only`: exactly these commits, newest first, wherever the branch is now. `trusted`: names or addresses of
        authors (empty: all). `cache`: a folder for extracted texts."""
        self.repository = repository
        self.limit = limit
        self.only = only
        self.trusted = frozenset(trusted)
        self.cache = cache

    @property
    def location(self) -> str:
        """The absolute path of the repository."""
        return str(self.repository.resolve())

    def read_again(self, references: Sequence[Reference]) -> Iterator[Experience | Skipped]:
        """The commits of the references, which are given oldest first. All authors are trusted: the first reading was
        restricted already."""
        newest_first = [reference.commit for reference in references][::-1]
        if newest_first:
            yield from CommitsSource(self.repository, len(newest_first), only=newest_first).read()

    def read(self) -> Iterator[Experience | Skipped]:
        """Commits that can be learned from; each of the others is Skipped with its reason.

        Raises InputError if the path is not in a repository or its history cannot be read.
        """
        if self.limit == 0:
            return
        repository = open_repository(self.repository)
        if not self.only and not repository.head:
            yield Skipped(what=str(self.repository), because=repository.empty)
            return
        path = self._cache_file(str(repository.common_dir))
        key = digest_of([RULES, self.limit, sorted(self.trusted), repository.head, sorted(repository.boundary)])
        extracts = _cached(path, key) if path and not self.only else None
        if extracts is None:
            extracts = self._extract(repository, _cached_texts(path))
            if path and not self.only:
                rows = [list(extract) for extract in extracts]
                write_file(path, orjson.dumps({"key": key, "rules": RULES, "commits": rows}))
        name = self.repository.resolve().name
        for extract in reversed(extracts):
            if extract.because:
                yield Skipped.model_construct(what=extract.sha[:12], because=extract.because)
            else:
                yield _experience(extract, name)

    def _cache_file(self, repository: str) -> Path | None:
        return self.cache / f"{digest_of(repository)[:16]}.json" if self.cache else None

    def _extract(self, repository: Repository, cached: dict[str, _Extract]) -> list[_Extract]:
        """The extract of each commit, newest first. Commits that are not cached are compared with their parents, and
        patches are made only for those that remain."""
        with open_view(repository) as view:
            headers = list(commits_of(view, self.only) if self.only else newest_commits(view, self.limit))
            reverted_commits = _reverted(headers)
            reasons = {
                header.sha: _reason_against(header, reverted_commits, self.trusted, repository.boundary)
                for header in headers
            }
            candidates = [header for header in headers if not reasons[header.sha] and header.sha not in cached]
            pairs: dict[str, Pair] = {}
            for header, pair in zip(candidates, trees_of(view, headers, candidates), strict=True):
                if isinstance(pair, Pair):
                    pairs[header.sha] = pair
                else:
                    reasons[header.sha] = pair
            subjects = {header.sha: header.subject for header in candidates}
            reasons |= _reasons_by_changes(view, pairs, subjects)
            remaining = [sha for sha in pairs if not reasons[sha]]
            in_order = patches(view, [pairs[sha] for sha in remaining], LARGEST_PATCH)
            patch_of = dict(zip(remaining, in_order, strict=True))
        return [
            _Extract(sha=header.sha, because=reasons[header.sha])
            if reasons[header.sha]
            else cached.get(header.sha) or _extract_commit(header, patch_of[header.sha])
            for header in headers
        ]


def open_commits(context: SourceContext) -> list[CommitsSource]:
    """One source for each repository."""
    return [
        CommitsSource(path, context.commits_limit, trusted=context.trusted_authors, cache=context.cache)
        for path in context.repositories
    ]


def _experience(extract: _Extract, repository: str) -> Experience:
    # model_construct: the values were validated when they were extracted, and validating again takes longer than
    # reading the cache
    return Experience.model_construct(
        id=extract.id,
        kind="commit",
        request=extract.request,
        answer=extract.answer,
        outcome="success",
        author=extract.author,
        batch="git",
        at=extract.at,
        provenance={"commit": extract.sha, "repository": repository},
    )


def _extract_commit(header: CommitHeader, difference: Difference) -> _Extract:
    request = _request(difference.patch)
    because = difference.problem or ("" if request.count("\n") else "no text changed")
    if because:
        return _Extract(sha=header.sha, because=because)
    name = digest_of(["commit", header.sha])
    return _Extract(header.sha, "", request, header.subject, header.author, header.at, name)


def _cached(path: Path, key: str) -> list[_Extract] | None:
    """What was cached under exactly this key; None if there is no such cache or it is damaged."""
    try:
        content = orjson.loads(path.read_bytes())
        return [_Extract(*row) for row in content["commits"]] if content["key"] == key else None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None


def _cached_texts(path: Path | None) -> dict[str, _Extract]:
    """Cached texts of the same rules by commit, under any key. Reasons are not reused: a later revert changes them."""
    try:
        content = orjson.loads(path.read_bytes()) if path else {}
        rows = [_Extract(*row) for row in content["commits"]] if content["rules"] == RULES else []
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    return {row.sha: row for row in rows if row.request}


def _reverted(newest_first: Sequence[CommitHeader]) -> set[str]:
    """Commits that a later commit reverts. A revert that was itself reverted reverts nothing."""
    names = sorted(header.sha for header in newest_first)
    shas: set[str] = set()
    for header in newest_first:
        if header.sha not in shas:
            for prefix in _REVERTS.findall(header.body):
                shas.update(names[bisect_left(names, prefix) : bisect_left(names, f"{prefix}g")])
    return shas


def _reason_against(header: CommitHeader, reverted: set[str], trusted: frozenset[str], boundary: frozenset[str]) -> str:
    """Why a commit is skipped, judged by its header alone; empty if it may be learned from."""
    if header.sha in boundary:
        return "the boundary of a shallow clone"
    if header.unreadable:
        return header.unreadable
    if BOT.search(header.author) or BOT.search(header.email):
        return "written by a bot"
    if trusted and not trusted & {header.author, header.email}:
        return "an author who is not trusted"
    if len(header.parents) > 1 or header.subject.startswith(("Revert ", "Merge ", 'Reapply "')):
        return "a merge or revert"
    if header.sha in reverted:
        return "reverted later"
    return header.unusable


def _reasons_by_changes(view: View, pairs: Mapping[str, Pair], subjects: Mapping[str, str]) -> dict[str, str]:
    """Why each of these commits is skipped, judged by its changed paths and the sizes of their blobs; empty if not."""
    differences = changes(view, pairs)
    reasons = {
        sha: difference.problem or _reason_by_paths(difference.changes, subjects[sha])
        for sha, difference in differences.items()
    }
    whole = {sha: differences[sha].changes for sha in reasons if not reasons[sha]}
    blob_sizes = view.sizes({blob for paths in whole.values() for change in paths for blob in _blobs(change)})
    return reasons | {sha: _reason_by_size(paths, blob_sizes) for sha, paths in whole.items()}


def _reason_by_paths(paths: Sequence[ChangedPath], subject: str) -> str:
    if not paths:
        return "no text changed"
    if all(GITLINK in (change.old_mode, change.new_mode) for change in paths):
        return "only submodules changed"
    if all(change.old == change.new for change in paths):
        return "only modes changed"
    if all(BINARY.search(change.path) for change in paths):
        return "only binary files changed"
    return "a subject that says nothing" if EMPTY.fullmatch(subject) else ""


def _blobs(change: ChangedPath) -> list[str]:
    """The blobs of a path that git reads for a patch: neither a submodule nor the side without a file."""
    sides = ((change.old_mode, change.old), (change.new_mode, change.new))
    return [blob for mode, blob in sides if mode != GITLINK and blob.strip(NO_BLOB)]


def _reason_by_size(paths: Sequence[ChangedPath], blob_sizes: dict[str, int]) -> str:
    """A patch is at least as large as the change in its files' sizes, so a patch that is too large is never made."""
    smallest_patch = 0
    for change in paths:
        size_of = {blob: blob_sizes[blob] for blob in _blobs(change)}
        if min(size_of.values(), default=0) < 0:
            return MISSING
        is_text = GITLINK not in (change.old_mode, change.new_mode) and not BINARY.search(change.path)
        if is_text:
            smallest_patch += abs(size_of.get(change.new, 0) - size_of.get(change.old, 0))
    return TOO_LARGE if smallest_patch > LARGEST_PATCH else ""


def _request(patch: str) -> str:
    """What the model sees of a patch: the names of its files, then the first changed lines."""
    lines = patch.splitlines()
    files = [_changed_file(line) for line in lines if line.startswith("diff --git ")]
    changes = [line for line in _hunks(lines) if line[:1] in ("+", "-") and line[1:].strip()]
    text = REQUEST_PREFIX + ", ".join(files[:6]) + (" ..." if len(files) > 6 else "")
    for line in changes:
        if len(text) + len(line) + 1 > LONGEST_REQUEST:
            break
        text += "\n" + line
    return text


def _hunks(lines: list[str]) -> Iterator[str]:
    """The lines inside hunks: `---` is a file name in a header, and a removed line in a hunk."""
    inside = False
    for line in lines:
        if line.startswith(("diff --git ", "@@ ")):
            inside = line.startswith("@@ ")
        elif inside:
            yield line


def _changed_file(line: str) -> str:
    """The new name of the file in a line `diff --git a/NAME b/NAME`; git quotes unusual names."""
    if line.endswith('"'):
        return line.rpartition('"b/')[2].removesuffix('"')
    return line.rpartition(" b/")[2]
