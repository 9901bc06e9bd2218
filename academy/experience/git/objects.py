"""Reads objects by their ids through a git folder of our own, so that nothing of a repository counts but its objects.

The folder is temporary. It has a configuration of ours, no remote, no hooks, no attributes and no replaced objects;
only the objects are those of the repository. So a missing object is missing: there is no place to fetch it from.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from academy.border.current_folder import public_environment
from academy.errors import InputError
from academy.experience.git.commit import MISSING
from academy.experience.git.process import NEUTRAL, Child, SilentError, git_program, listing
from academy.experience.git.repository import Repository

DAMAGED = "an object is damaged"
SLOW = "git took too long"
LARGEST_COMMIT = 1 << 20
"""Bytes of a commit that are read."""
MOST_SILENCES = 3
NO_BLOB = "0"
"""An id of zeros only stands for the blob of a file that was added or deleted."""
CONFIG = {
    "bare": "true", "quotePath": "false", "commitGraph": "false", "multiPackIndex": "false",
    "attributesFile": os.devnull, "bigFileThreshold": "64m",
}  # fmt: skip
"""The section [core] of our git folder."""


class StoredObject(NamedTuple):
    """An object: its type and its bytes, cut at LARGEST_COMMIT; or why it cannot be read."""

    type: str = ""
    content: bytes = b""
    size: int = 0
    problem: str = ""


class View:
    """The objects of a repository."""

    def __init__(self, repository: Repository, folder: Path) -> None:
        self.repository = repository
        self._silences = 0
        self._git = [git_program(), "--no-pager", f"--git-dir={folder}"]
        inherited = {name: text for name, text in public_environment().items() if not name.startswith("GIT_")}
        self._environment = inherited | NEUTRAL | {
            "GIT_OBJECT_DIRECTORY": str(repository.objects), "GIT_ATTR_NOSYSTEM": "1", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
            "HOME": str(folder), "XDG_CONFIG_HOME": str(folder),
        }  # fmt: skip

    def start(self, *arguments: str, stdin: IO[bytes] | int = subprocess.DEVNULL) -> Child:
        """Start git on these objects."""
        return Child([*self._git, *arguments], self._environment, stdin)

    def sizes(self, ids: Iterable[str]) -> dict[str, int]:
        """Bytes of each object; -1 for one that is missing or damaged. Ids of zeros are ignored."""
        names = sorted({name for name in ids if name.strip(NO_BLOB)})
        size_of: dict[str, int] = {}
        while remaining := names[len(size_of) :]:
            size_of.update(zip(remaining, self._sizes(remaining), strict=False))
            if len(size_of) < len(names):  # git ended at the next one
                size_of[names[len(size_of)]] = -1
        return size_of

    def _sizes(self, names: list[str]) -> Iterator[int]:
        rest = b""
        with listing(names) as stream, self.start(
            "cat-file", "--batch-check=%(objectsize)", "--buffer", stdin=stream
        ) as child:  # fmt: skip
            try:
                while chunk := child.read():
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from (int(line) if line.isdigit() else -1 for line in lines)
            except SilentError:
                self.count_silence()

    def count_silence(self) -> None:
        """Note that git gave no answer in time. Raises InputError where that happens too often."""
        self._silences += 1
        if self._silences == MOST_SILENCES:
            raise InputError(
                f"git gave no answer {MOST_SILENCES} times while it read {self.repository.path}.",
                "Run `git fsck` in the repository, or omit --repo.",
            )


class Reader:
    """Reads single objects through one git, which is started again after an object that ends it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._child: Child | None = None
        self._buffer = b""

    def close(self) -> None:
        """End git."""
        if self._child is not None:
            self._child.__exit__()
        self._child, self._buffer = None, b""

    def read(self, name: str) -> StoredObject:
        """The object of an id."""
        if self._child is None:
            self._child = self._view.start("cat-file", "--batch", stdin=subprocess.PIPE)
        try:
            self._child.write(f"{name}\n".encode())
            line = self._line(self._child)
            words = line.decode(errors="replace").split(" ")
            if not line:
                self.close()
                return StoredObject(problem=DAMAGED)
            if len(words) != 3 or not words[2].isdigit():
                is_damaged = name.encode() in self._child.recent_messages()
                return StoredObject(problem=DAMAGED if is_damaged else MISSING)
            size = int(words[2])
            content = self._exactly(self._child, size + 1)
        except SilentError:
            self.close()
            self._view.count_silence()
            return StoredObject(problem=SLOW)
        if content is None:
            self.close()
            return StoredObject(problem=DAMAGED)
        return StoredObject(words[1], content[:-1] if size < LARGEST_COMMIT else content, size)

    def _line(self, child: Child) -> bytes:
        while b"\n" not in self._buffer:
            if not (chunk := child.read()):
                return b""
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _exactly(self, child: Child, size: int) -> bytes | None:
        """So many bytes, cut at LARGEST_COMMIT; None where git ends before them."""
        pieces = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        count = len(pieces[0])
        while count < size:
            if not (chunk := child.read()):
                return None
            self._buffer = chunk[size - count :]
            if count < LARGEST_COMMIT:
                pieces.append(chunk[: size - count])
            count += len(chunk) - len(self._buffer)
        return b"".join(pieces)[:LARGEST_COMMIT]


@contextmanager
def open_view(repository: Repository) -> Iterator[View]:
    """Yield the objects of a repository. The temporary folder has no content of the repository."""
    with tempfile.TemporaryDirectory(prefix="academy-git-") as name:
        folder = Path(name)
        (folder / "refs").mkdir()
        (folder / "objects").mkdir()
        (folder / "HEAD").write_text("ref: refs/heads/none\n")
        _configure(folder / "config", repository.format)
        yield View(repository, folder)


def _configure(file: Path, object_format: str) -> None:
    """Write the configuration of our git folder with GitPython, which quotes values as git does."""
    os.environ.setdefault("GIT_PYTHON_GIT_EXECUTABLE", git_program())  # it runs `git version` when it is imported
    from git.config import GitConfigParser

    extends = object_format != "sha1"
    with GitConfigParser(file, read_only=False, merge_includes=False) as config:
        config.set_value("core", "repositoryformatversion", int(extends))
        for name, text in CONFIG.items():
            config.set_value("core", name, text)
        if extends:
            config.set_value("extensions", "objectFormat", object_format)
