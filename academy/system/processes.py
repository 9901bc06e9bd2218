"""Child processes that end with their parent, this process's peak memory, and its user.

A killed process leaves its children running unless they asked the kernel for a signal. Linux only (prctl).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends; end immediately if the parent has ended already.

    A child calls this first, with the process id that its parent gave it. The parent must start the child from a thread
    that lives as long as the child should.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def end_with_stdin() -> None:
    """End this process when the other end of its stdin closes.

    For a process in a container, whose parent is the engine: the process that started it keeps that end open, and it
    closes if that process is killed.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def peak_memory() -> int:
    """Peak memory of this process in bytes: of the GPU if torch uses one, else of the machine.

    getrusage is not used, because for a forked child it includes the parent.
    """
    torch = sys.modules.get("torch")  # only if it was imported anyway
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())  # reserved memory is unavailable to others, used or not
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def oom_kills() -> int | None:
    """Processes that the kernel killed to free memory since it started, also in control groups; None: unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def person() -> str:
    """The account of this process, for the ledger: its login name, or `uid N` if the system has none.

    Variables such as LOGNAME and USER do not count: anybody may set them.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user has no entry in /etc/passwd
        return f"uid {os.getuid()}"
