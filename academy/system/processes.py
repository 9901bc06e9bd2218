"""Processes that cannot outlive who started them, what this process used, and who started it.

A killed process leaves its children behind unless they asked the kernel to be told. Linux only (prctl).
"""

from __future__ import annotations

import ctypes
import getpass
import os
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to end this process when its parent ends; end at once where that has happened already.

    Called first thing in a child, with the process id that its parent gave it. The parent must start the child from
    a thread that lives as long as the child should.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def end_with_stdin() -> None:
    """End this process when nobody holds the other end of its stdin any more.

    For a process in a container, whose parent is an engine: who started it holds that end, and a killed one lets go.
    """

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


def peak_memory() -> int:
    """Bytes that this process held at most: of the GPU where torch works on one, else of the machine.

    Not by getrusage, which counts a forked child's parent as well.
    """
    torch = sys.modules.get("torch")  # asked only where it was imported anyway
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())  # what others cannot have, used or not
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def oom_kills() -> int | None:
    """Processes that the kernel killed for want of memory since it started, in control groups too; None: unknown."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def person() -> str:
    """Who runs this process, for the ledger: the login name, or `uid N` where the system knows no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in /etc/passwd
        return f"uid {os.getuid()}"
