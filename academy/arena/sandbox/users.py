"""User ids that belong to one run at a time, so that its process limit counts only its own processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from academy.errors import ExaminationError

FIRST_UID, UIDS = 60_001, 999


@contextmanager
def own_uid() -> Iterator[int]:
    """A user id that no other run on this machine has. The lock is the name of an abstract socket; no file remains."""
    for uid in range(FIRST_UID, FIRST_UID + UIDS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
            try:
                lock.bind(f"\0academy-sandbox-uid-{uid}")
            except OSError:
                continue
            yield uid
            return
    raise ExaminationError(
        f"All {UIDS} user ids of the sandbox are in use.", "Wait until other sandboxed programs have ended."
    )
