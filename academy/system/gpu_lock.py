"""One training per GPU on the whole host: a lock on the GPU's UUID, for all users and homes.

The lock is a file that all users can read and no user needs to write, in a folder that all users share. It is never
removed: a file that is removed and created again would be two locks. The kernel releases the lock when the process that
holds it ends. If trainings are started inside a container, their locks are in the container's own folders and are not
visible outside.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from academy.errors import TrainingError
from academy.store.locks import is_locked, take_lock

FOLDERS = (Path("/run/lock"), Path("/tmp"))  # noqa: S108 - shared by all users, which a user's own temp folder is not
"""The first of these that all users can write is used."""
SHARED = stat.S_IWOTH | stat.S_ISVTX
REMEDY = "Wait until it ends, or set ACADEMY_ENABLE_GPU=false to train on the CPUs."
TRIES = 10


@contextmanager
def hold_gpu(uuid: str) -> Iterator[None]:
    """Lock a GPU for a training. Raises TrainingError (cause "gpu") if another training uses it."""
    handle = _lock(gpu_lock_file(uuid), uuid)
    try:
        yield
    finally:
        os.close(handle)


def gpu_in_use(uuid: str) -> bool:
    """Whether a training uses a GPU now."""
    return is_locked(gpu_lock_file(uuid))


def gpu_lock_file(uuid: str) -> Path:
    """The GPU's lock file. Its folder depends on the host only, not on the user."""
    name = re.sub(r"[^\w-]", "_", uuid, flags=re.ASCII)
    for folder in FOLDERS:
        with suppress(OSError):
            if stat.S_ISDIR(mode := folder.stat().st_mode) and mode & SHARED == SHARED:
                return folder / f"academy-{name}.lock"
    return Path(tempfile.gettempdir()) / f"academy-{name}.lock"


def _lock(file: Path, uuid: str) -> int:
    """Returns a file descriptor that holds the lock."""
    for _ in range(TRIES):
        handle = _open(file, uuid)
        if not take_lock(handle):
            os.close(handle)
            raise TrainingError(f"Another training is using the GPU {uuid}.", REMEDY, cause="gpu")
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), file.stat(follow_symlinks=False)):
                return handle
        os.close(handle)  # the system removed the file between two calls: a lock on it has no effect
    raise TrainingError(f"{file} cannot be locked: another program keeps replacing it.", f"Remove {file}.", cause="gpu")


def _open(file: Path, uuid: str) -> int:
    """Open the lock file, and create it if needed. Only for reading: another user's file allows nothing else."""
    for _ in range(TRIES):
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            _make(file, uuid)
            continue
        except OSError as problem:
            reason = "is a symbolic link" if problem.errno == errno.ELOOP else f"cannot be opened ({problem.strerror})"
            raise TrainingError(
                f"{file}, the lock of the GPU {uuid}, {reason}.", f"Remove {file}.", cause="gpu"
            ) from None
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        break
    raise TrainingError(f"{file}, the lock of the GPU {uuid}, is not a regular file.", f"Remove {file}.", cause="gpu")


def _make(file: Path, uuid: str) -> None:
    """Create the file. It is readable by all users before it gets its name, whatever this user's umask is."""
    try:
        handle, staged = tempfile.mkstemp(dir=file.parent, prefix=".academy-")
        try:
            os.fchmod(handle, 0o444)
            with suppress(FileExistsError):  # another process was faster
                os.link(staged, file)
        finally:
            os.close(handle)
            Path(staged).unlink()
    except OSError as problem:
        raise TrainingError(
            f"The lock of the GPU {uuid} cannot be created in {file.parent} ({problem.strerror}).",
            f"Make {file.parent} writable for all users.",
            cause="gpu",
        ) from problem
