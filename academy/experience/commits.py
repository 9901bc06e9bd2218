"""Git history as experience: what changed -> the subject line that the author wrote.

A commit is judged by what its head tells (who, what about, which blobs and how large); only the patches of those that
may teach something are made. What was extracted is kept, so an unchanged repository costs next to nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from academy.errors import InputError
from academy.experience.git_log import (
    GITLINK,
    NOTHING,
    ChangedPath,
    CommitHeader,
    boundary,
    heads,
    open_repo,
    patches,
    sizes,
)
from academy.experience.source import Experience, Skipped
from academy.records import digest_of
from academy.store.files import write_file

if TYPE_CHECKING:
    from git import Repo

LONGEST_REQUEST = 700
"""Characters of a change that are shown to the model: the file names and the first changed lines."""
ASKED = "Write the subject line for this change: "
"""How every request of a commit begins."""
LARGEST_PATCH = 200_000
"""Bytes of a patch above which a commit is left out."""
RULES = 4
"""Changes with what is extracted and why: what was kept by other rules is read again."""
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


class _Kept(NamedTuple):
    """What is known of a commit: the experience's parts, or the reason against it."""

    sha: str
    because: str = ""
    request: str = ""
    answer: str = ""
    author: str = ""
    at: str = ""
    id: str = ""  # of the experience


class CommitsSource:
    """The newest commits of one repository, oldest first (an ExperienceSource without a cursor of its own)."""

    def __init__(
        self,
        repository: Path,
        limit: int,
        *,
        only: Sequence[str] = (),
        trusted: Sequence[str] = (),
        cache: Path | None = None,
    ) -> None:
        """`only` these commits, wherever the branch stands now; `trusted` names or addresses of authors (empty: all);
        `cache` is a folder in which what was extracted is kept."""
        self.repository = repository
        self.limit = limit
        self.only = only
        self.trusted = frozenset(trusted)
        self.cache = cache

    def read(self, since: int = 0) -> Iterator[Experience | Skipped]:  # noqa: ARG002  the limit bounds every reading
        """Commits worth learning from; each of the others is Skipped with its reason.

        Raises InputError where the path is no repository or its history cannot be read.
        """
        if self.limit == 0:
            return
        with open_repo(self.repository) as repo:
            if not self.only and not repo.head.is_valid():
                yield Skipped(what=str(self.repository), because="the history is empty")
                return
            place = self._place(str(repo.common_dir))
            key = digest_of([RULES, self.limit, sorted(self.trusted), repo.head.commit.hexsha, sorted(boundary(repo))])
            found = _known(place, key) if place and not self.only else None
            if found is None:
                found = list(self._extract(repo, _texts(place)))
                if place and not self.only:
                    write_file(
                        place, orjson.dumps({"key": key, "rules": RULES, "commits": [list(one) for one in found]})
                    )
        name = self.repository.resolve().name
        for one in reversed(found):
            if one.because:
                yield Skipped.model_construct(what=one.sha[:12], because=one.because)
            else:
                yield _experience(one, name)

    def _place(self, repository: str) -> Path | None:
        return self.cache / f"{digest_of(repository)[:16]}.json" if self.cache else None

    def _extract(self, repo: Repo, texts: dict[str, _Kept]) -> Iterator[_Kept]:
        """What is known of each commit, newest first; the patches of those that are known already are not made."""
        read = list(heads(repo, self.limit, self.only))
        reverted = _reverted(read)
        cut = boundary(repo)
        reasons = {
            head.sha: "the boundary of a shallow clone"
            if head.sha in cut
            else _reason_against(head, reverted, self.trusted)
            for head in read
        }
        left = [head for head in read if not reasons[head.sha] and head.sha not in texts]
        known = sizes(
            repo,
            (blob for head in left for one in head.entries for blob in (one.old, one.new) if _text_blob(one, blob)),
        )
        for head in left:
            reasons[head.sha] = _reason_by_size(head, known)
        wanted = [head.sha for head in left if not reasons[head.sha]]
        made = {sha: (patch, whole) for sha, patch, whole in patches(repo, wanted, LARGEST_PATCH)}
        for head in read:
            if reasons[head.sha]:
                yield _Kept(sha=head.sha, because=reasons[head.sha])
            elif head.sha in texts:
                yield texts[head.sha]
            else:
                yield _kept(head, *made.get(head.sha, ("", True)))


def _experience(one: _Kept, repository: str) -> Experience:
    # our own values, checked when they were read: validating each again costs more than reading it did
    return Experience.model_construct(
        id=one.id,
        kind="commit",
        request=one.request,
        answer=one.answer,
        outcome="success",
        author=one.author,
        batch="git",
        at=one.at,
        provenance={"commit": one.sha, "repository": repository},
    )


def _kept(head: CommitHeader, patch: str, whole: bool) -> _Kept:
    request = _request(patch)
    because = "patch too large" if not whole else "" if request.count("\n") else "no text changed"
    if because:
        return _Kept(sha=head.sha, because=because)
    name = digest_of(["commit", head.sha])
    return _Kept(head.sha, "", request, head.subject, head.author, head.at, name)


def _known(place: Path, key: str) -> list[_Kept] | None:
    """What was kept under exactly this key."""
    try:
        kept = orjson.loads(place.read_bytes())
        return [_Kept(*row) for row in kept["commits"]] if kept["key"] == key else None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None  # not there, or damaged: it is read again


def _texts(place: Path | None) -> dict[str, _Kept]:
    """What was extracted before by these rules, by commit; it is judged anew, for a later revert changes that."""
    try:
        kept = orjson.loads(place.read_bytes()) if place else {}
        rows = [_Kept(*row) for row in kept["commits"]] if kept["rules"] == RULES else []
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return {}
    return {row.sha: row for row in rows if row.request}


def open_repository(path: Path) -> None:
    """Prove that there is a git repository at (or above) a path; InputError where there is none."""
    with open_repo(path):
        pass


def is_repository(path: Path) -> bool:
    """Whether a path lies in a git repository."""
    try:
        open_repository(path)
    except InputError:
        return False
    return True


def _reverted(newest_first: Sequence[CommitHeader]) -> set[str]:
    """Commits that a later one took back; a revert that was itself reverted takes nothing back."""
    found: set[str] = set()
    for head in newest_first:
        if head.sha not in found:
            named = _REVERTS.findall(head.body)
            found |= (
                {one.sha for one in newest_first if any(one.sha.startswith(name) for name in named)} if named else set()
            )
    return found


def _reason_against(head: CommitHeader, reverted: set[str], trusted: frozenset[str]) -> str:
    """Why a commit teaches nothing, by its head alone; empty where it may."""
    if BOT.search(head.author) or BOT.search(head.email):
        return "written by a bot"
    if trusted and not trusted & {head.author, head.email}:
        return "an author who is not trusted"
    if head.parents > 1 or head.subject.startswith(("Revert ", "Merge ", 'Reapply "')):
        return "a merge or revert"
    if head.sha in reverted:
        return "reverted later"
    if not head.entries:
        return "no text changed"
    if all(GITLINK in (one.old_mode, one.new_mode) for one in head.entries):
        return "only submodules changed"
    if all(one.old == one.new for one in head.entries):
        return "only modes changed"
    if all(BINARY.search(one.path) for one in head.entries):
        return "only binary files changed"
    if EMPTY.fullmatch(head.subject):
        return "a subject that says nothing"
    return ""


def _text_blob(entry: ChangedPath, blob: str) -> bool:
    return blob != NOTHING and GITLINK not in (entry.old_mode, entry.new_mode) and not BINARY.search(entry.path)


def _reason_by_size(head: CommitHeader, known: dict[str, int]) -> str:
    """A patch is at least as large as its files have grown or shrunk: what is too large is never made."""
    least = 0
    for one in head.entries:
        old, new = (known.get(blob, 0) if _text_blob(one, blob) else 0 for blob in (one.old, one.new))
        if old < 0 or new < 0:
            return "an object is missing"
        least += abs(new - old)
    return "patch too large" if least > LARGEST_PATCH else ""


def _request(patch: str) -> str:
    """What the model is shown of a patch: its files, then the first changed lines."""
    lines = patch.splitlines()
    files = [_changed_file(line) for line in lines if line.startswith("diff --git ")]
    changed = [line for line in _hunks(lines) if line[:1] in ("+", "-") and line[1:].strip()]
    text = ASKED + ", ".join(files[:6]) + (" ..." if len(files) > 6 else "")
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
