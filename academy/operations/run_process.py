"""What every process of a run does first: it keeps its files private and its log plain, and ends with its worker.

A worker starts a run with its own umask and in its own session, which would survive a killed worker.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from academy.border.plain_text import plain_logs
from academy.home.private import be_private
from academy.system.processes import die_with_parent


def begin() -> None:
    """Prepare this process; in a process that a worker started for a run, also end with the worker."""
    be_private()
    plain_logs()
    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        _end_with_the_worker()


def _end_with_the_worker() -> None:
    worker = os.getppid()
    with suppress(OSError):
        if b"prefect" in Path(f"/proc/{worker}/cmdline").read_bytes():
            die_with_parent(worker)
            return
    if worker == 1:  # the worker was killed before this line ran
        os._exit(1)
