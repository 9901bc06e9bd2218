"""`python -m academy.operations.child PARENT COMMAND...` runs a command and ends it when the parent ends.

Servers and workers start their own processes, which a signal to one process does not reach. So the command gets a
process group, and this supervisor ends the whole group on SIGTERM or when its parent ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

from academy.home.private import be_private

POLL_SECONDS = 0.3
GRACE_SECONDS = 8.0


def main() -> int:
    """Run the command until it or the parent ends, or a signal comes."""
    be_private()
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signals: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    process = subprocess.Popen(command, start_new_session=True, close_fds=False)  # it gets the sockets
    while process.poll() is None and not signals and os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    _end_group(process)
    return process.returncode or 0


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, GRACE_SECONDS)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        if number == signal.SIGTERM and process.poll() is not None:
            time.sleep(0.2)  # processes that the leader left running get the second signal
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
