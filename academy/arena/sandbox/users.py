"""User numbers that belong to one run at a time, so that its bound on processes counts nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from academy.errors import ExaminationError

FIRST_UID, UIDS = 60_001, 999


@contextmanager
def own_uid() -> Iterator[int]:
    """A user number that no other run on this machine has; an abstract socket's name is the lock, no file is left."""
    for uid in range(FIRST_UID, FIRST_UID + UIDS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind(f"\0academy-sandbox-uid-{uid}")
            except OSError:
                continue
            yield uid
            return
    raise ExaminationError(f"{UIDS} programs run in sandboxes at once.", "Wait until some have ended.")
