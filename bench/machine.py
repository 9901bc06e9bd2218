"""Whether this machine is idle enough to measure on."""

from __future__ import annotations

import os
import sys

BUSY = 0.5
"""The load average of the last minute above which figures are not reliable."""


def too_busy() -> bool:
    """Whether the machine is too busy, which is printed. `--anyway` on the command line overrides it."""
    load = os.getloadavg()[0]
    if load <= BUSY or "--anyway" in sys.argv:
        return False
    print(f"The machine is busy (load {load:.1f}). Measure when it is idle, or use --anyway.")
    return True
