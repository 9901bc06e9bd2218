"""Lock files: the operating system releases them when the process that holds them ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from academy.errors import HomeError
from academy.store.files import explain_disk_errors

RETRY_SECONDS = 0.5
"""How long to retry a lock: `is_locked` shares it for a moment."""


@contextmanager
def exclusive_lock(lock: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file; the system releases it when the process dies. Raises HomeError if another one holds it."""
    with explain_disk_errors(lock.parent):
        lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not take_lock(handle):
            raise HomeError(refusal, "Wait until it ends, or use another ACADEMY_HOME.")
        yield
    finally:
        os.close(handle)


def take_lock(handle: int) -> bool:
    """Lock an open file exclusively until it is closed. False while another process holds it."""
    until = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(RETRY_SECONDS / 50)
        else:
            return True


def is_locked(lock: Path) -> bool:
    """Whether a process holds a lock file. The check shares the lock for a moment; checks do not block each other."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
