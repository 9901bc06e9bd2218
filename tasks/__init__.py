"""Prefect tasks: retries, timeouts and names around the functions of `academy.loop`.

Prefect loads a flow's file by its path, without the package that it lies in. So what every process of a run must do
stands here, where each flow imports its tasks. A worker starts a run in its own session, which would survive a killed
worker; so a run ends with its worker.
"""

import os
from contextlib import suppress
from pathlib import Path

from academy.plain_text import plain_logs
from academy.private import be_private
from academy.system.processes import die_with_parent

be_private()  # a worker starts the process of a run with its own umask


def _end_with_the_worker() -> None:
    worker = os.getppid()
    with suppress(OSError):
        if b"prefect" in Path(f"/proc/{worker}/cmdline").read_bytes():
            die_with_parent(worker)
            return
    if worker == 1:  # the worker was killed before this line ran
        os._exit(1)


plain_logs()
if os.environ.get("PREFECT__FLOW_RUN_ID"):
    _end_with_the_worker()
