"""Child processes that cannot outlive their parent.

A killed process leaves its children behind unless they asked the kernel to be told. Linux only (prctl).
"""

from __future__ import annotations

import ctypes
import os
import signal

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
