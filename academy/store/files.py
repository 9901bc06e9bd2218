"""Write-once files and folders, and digests of files.

What this module promises: a name that exists holds complete content. Files are staged beside their place, flushed
to the disk and renamed; a process that is killed leaves a staging name behind, never half a file under a real one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from academy.errors import HomeError

STAGING = ".staging-"
READ_AT_ONCE = 1 << 20


def digest_of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest_of(path: Path) -> str:
    """BLAKE3 of a file's bytes, 64 hexadecimal digits: for what is read again and again, and may be large.

    On a processor without instructions for SHA it takes a tenth of sha256's time.
    """
    from blake3 import blake3

    return blake3().update_mmap(path).hexdigest()


@contextmanager
def plain_folder(folder: Path) -> Iterator[int]:
    """A descriptor of a folder that is no link: what is read through it is this folder's, whatever its name becomes.

    Raises OSError.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def entries_of(folder: int) -> list[str]:
    """The names in an open folder. Raises OSError."""
    return os.listdir(folder)


def read_plain(folder: int, name: str, longest: int) -> tuple[memoryview, str]:
    """The bytes of a plain file in an open folder, read and hashed in one pass, and their BLAKE3.

    What is returned is a copy: what happens to the file afterwards changes nothing. Raises OSError; ELOOP for a link,
    EFBIG for a file of more than `longest` bytes, EINVAL for what is no plain file.
    """
    import numpy as np
    from blake3 import blake3

    # not blocking: a pipe in the place of a file would be waited for
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(handle, "rb", buffering=0) as stream:
        known = os.fstat(stream.fileno())
        if not stat.S_ISREG(known.st_mode):
            raise OSError(errno.EINVAL, "It is no plain file", name)
        if known.st_size > longest:
            raise OSError(errno.EFBIG, f"It has more than {longest:,} bytes", name)
        content = np.empty(known.st_size, dtype=np.uint8).data  # not zeroed first, unlike a bytearray
        running, place = blake3(), 0
        while read := stream.readinto(content[place : place + READ_AT_ONCE]):
            running.update(content[place : place + read])  # while it is in the processor's cache
            place += read
    return content[:place], running.hexdigest()


@contextmanager
def explain_disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence (HomeError); every other error passes."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HomeError(
                f"The disk that holds {where} is full.", "Free some space and run the same command again."
            ) from problem
        if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise HomeError(
                f"{where} cannot be written ({problem.strerror}).", "Point ACADEMY_HOME at a folder that you can write."
            ) from problem
        raise


LEAST_FREE = 1_000_000
"""Bytes below which a disk counts as full: a database grows by more than that at once."""


def is_full(home: Path, problem: BaseException) -> bool:
    """Whether an exception, or one that it came from, tells of a full disk, or the home's disk is full now."""
    told: BaseException | None = problem
    while told is not None:
        if isinstance(told, OSError) and told.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(told) or "No space left" in str(told):
            return True
        told = told.__cause__ or told.__context__
    return home.is_dir() and shutil.disk_usage(home).free < LEAST_FREE


def write_file(path: Path, content: bytes | Iterable[bytes], mode: int = 0o644) -> Path:
    """Write a file completely or not at all, replacing what was there. At no moment is it more open than `mode`."""
    with explain_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, staged = tempfile.mkstemp(dir=path.parent, prefix=STAGING)
        try:
            with os.fdopen(handle, "wb") as stream:
                for chunk in [content] if isinstance(content, bytes) else content:
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            Path(staged).chmod(mode)
            Path(staged).replace(path)
            _sync_folder(path.parent)
        finally:
            Path(staged).unlink(missing_ok=True)
    return path


@contextmanager
def publish_folder(place: Path) -> Iterator[Path]:
    """Fill the yielded folder; at the end it is renamed to `place`, all or nothing.

    Where `place` is there already, what was written is thrown away: the name says the content.
    """
    with explain_disk_errors(place.parent):
        place.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=place.parent, prefix=STAGING))
        try:
            yield staged
            for path in sorted(staged.rglob("*")):
                if path.is_file():
                    path.chmod(0o644)
                    with path.open("rb") as stream:
                        os.fsync(stream.fileno())
            staged.chmod(0o755)
            _sync_folder(staged)
            try:
                staged.rename(place)
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _sync_folder(place.parent)
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def sweep(home: Path, older_than: float = 24 * 3600) -> int:
    """Remove what killed processes left half-written in a home and in the folders of two levels. Returns how many.

    What is younger than so many seconds is left alone: another process may be writing it just now.
    """
    until = time.time() - older_than
    left = []
    for path in (path for depth in ("", "*/", "*/*/") for path in home.glob(f"{depth}{STAGING}*")):
        with suppress(FileNotFoundError):  # it got its name this very moment
            if path.stat().st_mtime < until:
                left.append(path)
    for path in left:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(left)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
