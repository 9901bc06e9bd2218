"""One training a GPU, on the whole host: a lock on the GPU's uuid, whoever trains, in whichever home.

The lock is a file that everybody may read and nobody has to write, in a folder that all users share; it is never
removed, because a name that comes and goes would be two locks. The kernel drops it with the process that holds it.
A container that follows trainings itself has folders of its own, and is not seen from outside.
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
"""The first of them that all users can write."""
SHARED = stat.S_IWOTH | stat.S_ISVTX
REMEDY = "Wait until it has ended, or set ACADEMY_ENABLE_GPU=false to train on the CPUs."
TRIES = 10


@contextmanager
def hold_gpu(uuid: str) -> Iterator[None]:
    """Hold a GPU for a training. Raises TrainingError (cause "gpu") where another training holds it."""
    handle = _taken(gpu_lock_file(uuid), uuid)
    try:
        yield
    finally:
        os.close(handle)


def gpu_in_use(uuid: str) -> bool:
    """Whether a training holds a GPU now."""
    return is_locked(gpu_lock_file(uuid))


def gpu_lock_file(uuid: str) -> Path:
    """The file whose lock is the GPU's. What folder that is depends on the host alone, not on who asks."""
    name = re.sub(r"[^\w-]", "_", uuid, flags=re.ASCII)
    for folder in FOLDERS:
        with suppress(OSError):
            if stat.S_ISDIR(mode := folder.stat().st_mode) and mode & SHARED == SHARED:
                return folder / f"academy-{name}.lock"
    return Path(tempfile.gettempdir()) / f"academy-{name}.lock"


def _taken(file: Path, uuid: str) -> int:
    """A descriptor that holds the lock."""
    for _ in range(TRIES):
        handle = _opened(file, uuid)
        if not take_lock(handle):
            os.close(handle)
            raise TrainingError(f"Another training is using the GPU {uuid}.", REMEDY, cause="gpu")
        with suppress(OSError):
            if os.path.samestat(os.fstat(handle), file.stat(follow_symlinks=False)):
                return handle
        os.close(handle)  # the system tidied it away between two calls: it is nobody's lock any more
    raise TrainingError(f"{file} cannot be locked: it is replaced again and again.", f"Remove {file}.", cause="gpu")


def _opened(file: Path, uuid: str) -> int:
    """The lock's file, made where it is not there. For reading: another user's may not be opened for more."""
    for _ in range(TRIES):
        try:
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            _make(file, uuid)
            continue
        except OSError as problem:
            what = "is a link" if problem.errno == errno.ELOOP else f"cannot be opened ({problem.strerror})"
            raise TrainingError(
                f"{file}, the lock of the GPU {uuid}, {what}.", f"Remove {file}.", cause="gpu"
            ) from None
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        break
    raise TrainingError(f"{file}, the lock of the GPU {uuid}, is no plain file.", f"Remove {file}.", cause="gpu")


def _make(file: Path, uuid: str) -> None:
    """Make the file readable by all before it has its name, whatever this user's mask is."""
    try:
        handle, staged = tempfile.mkstemp(dir=file.parent, prefix=".academy-")
        try:
            os.fchmod(handle, 0o444)
            with suppress(FileExistsError):  # another was quicker
                os.link(staged, file)
        finally:
            os.close(handle)
            Path(staged).unlink()
    except OSError as problem:
        raise TrainingError(
            f"The lock of the GPU {uuid} cannot be made in {file.parent} ({problem.strerror}).",
            f"Make {file.parent} a folder that all users can write.",
            cause="gpu",
        ) from problem
