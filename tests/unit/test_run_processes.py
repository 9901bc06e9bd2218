"""The process of a run is private and ends with its worker, although Prefect loads a flow by its path."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOWS = sorted(path for path in (ROOT / "flows").glob("*.py") if path.name != "__init__.py")
RUN = """
import os, sys, time
from prefect.flows import load_flow_from_entrypoint
load_flow_from_entrypoint(sys.argv[1])
print(oct(os.umask(0o022)), os.getpid(), flush=True)
time.sleep(60)
"""
WORKER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", *sys.argv[2:]], start_new_session=True).wait()
"""


def test_every_flow_imports_the_tasks() -> None:
    assert FLOWS
    assert [path.name for path in FLOWS if "from tasks import" not in path.read_text()] == []


@pytest.mark.slow
def test_process_of_a_run_is_private_and_ends_with_its_worker(tmp_path: Path) -> None:
    variables = {"PREFECT__FLOW_RUN_ID": "a-run", "PREFECT_HOME": str(tmp_path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", WORKER, "prefect worker", RUN, "flows/evolve.py:evolve"]
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout is not None
        umask, run = worker.stdout.readline().split()
        worker.send_signal(signal.SIGKILL)
        until = time.monotonic() + 10
        while is_alive := Path(f"/proc/{run}").exists():
            if time.monotonic() > until:
                os.kill(int(run), signal.SIGKILL)
                break
            time.sleep(0.05)
    assert umask == "0o77"
    assert not is_alive
