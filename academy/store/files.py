"""Write-once files and folders, and digests of files.

A name that exists has complete content: a file is written under a staging name in the same folder, flushed to the
disk and renamed. A killed process leaves a staging file behind, never an incomplete file under the final name.
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
from academy.home.files import DRAFT

STAGING = DRAFT
CHUNK_BYTES = 1 << 20


def digest_of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest_of(path: Path) -> str:
    """BLAKE3 of a file's bytes, 64 hexadecimal digits: for large files that are read often.

    On a CPU without SHA instructions it takes a tenth of sha256's time.
    """
    from blake3 import blake3

    return blake3().update_mmap(path).hexdigest()


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    """A descriptor of a folder that is not a link. Reads through it stay in this folder, even if it is renamed.

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


def read_regular_file(folder: int, name: str, max_bytes: int) -> tuple[memoryview, str]:
    """The bytes of a regular file in an open folder and their BLAKE3, read and hashed in one pass.

    The bytes are a copy: later changes of the file do not affect them. Raises OSError: ELOOP for a link, EFBIG for more
    than `max_bytes` bytes, EINVAL for anything that is not a regular file.
    """
    import numpy as np
    from blake3 import blake3

    # non-blocking: opening a pipe would wait for a writer
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(handle, "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file", name)
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"It has more than {max_bytes:,} bytes", name)
        content = np.empty(status.st_size, dtype=np.uint8).data  # not zeroed first, unlike a bytearray
        digest, place = blake3(), 0
        while read := stream.readinto(content[place : place + CHUNK_BYTES]):
            digest.update(content[place : place + read])  # while the chunk is in the CPU's cache
            place += read
    return content[:place], digest.hexdigest()


@contextmanager
def explain_disk_errors(where: Path) -> Iterator[None]:
    """Raise HomeError with one clear sentence for a full or read-only disk; other errors pass."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HomeError(f"The disk that holds {where} is full.", "Free some space and retry.") from problem
        if problem.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise HomeError(
                f"{where} cannot be written ({problem.strerror}).", "Set ACADEMY_HOME to a folder that you can write."
            ) from problem
        raise


LEAST_FREE = 1_000_000
"""A disk with fewer free bytes counts as full: a database can grow by more than that in one step."""


def is_full(home: Path, problem: BaseException) -> bool:
    """Whether the exception or one of its causes reports a full disk, or the home's disk is full now."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "disk is full" in str(cause) or "No space left" in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return home.is_dir() and shutil.disk_usage(home).free < LEAST_FREE


def write_file(path: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> Path:
    """Write a file atomically and replace an existing one. Its permissions never exceed `mode`."""
    with explain_disk_errors(path.parent):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, staging_file = tempfile.mkstemp(dir=path.parent, prefix=STAGING)
        try:
            with os.fdopen(handle, "wb") as stream:
                for chunk in [content] if isinstance(content, bytes) else content:
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            Path(staging_file).chmod(mode)
            Path(staging_file).replace(path)
            _sync_folder(path.parent)
        finally:
            Path(staging_file).unlink(missing_ok=True)
    return path


@contextmanager
def publish_folder(place: Path) -> Iterator[Path]:
    """Yield a folder to fill; at the end it is renamed to `place` in one step.

    If `place` exists, the new folder is discarded: folders are named by their content.
    """
    with explain_disk_errors(place.parent):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging_folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=STAGING))
        try:
            yield staging_folder
            for path in sorted(staging_folder.rglob("*")):
                if path.is_file():
                    path.chmod(0o600)
                    with path.open("rb") as stream:
                        os.fsync(stream.fileno())
            _sync_folder(staging_folder)
            try:
                staging_folder.rename(place)
            except OSError as problem:
                if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            _sync_folder(place.parent)
        finally:
            shutil.rmtree(staging_folder, ignore_errors=True)


def sweep(home: Path, older_than: float = 24 * 3600) -> int:
    """Remove staging files of killed processes from a home and two levels of folders. Returns their number.

    Files younger than `older_than` seconds stay: another process may be writing them.
    """
    until = time.time() - older_than
    leftovers = []
    for path in (path for depth in ("", "*/", "*/*/") for path in home.glob(f"{depth}{STAGING}*")):
        with suppress(FileNotFoundError):  # it was renamed just now
            if path.stat().st_mtime < until:
                leftovers.append(path)
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
