"""`academy` commands that start quickly: forks of a process that has imported what most commands import.

Importing MLflow and torch is half of a command's time. A fork is a process of its own, with its own arguments,
environment, folder, outputs and exit code; only the imports are shared. Prefect is not imported beforehand, because it
reads its settings from the environment at that moment. The campaign starts each command as a new process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

import orjson

from academy.system.processes import die_with_parent

PRELOADED = (
    "typer", "academy.cli.evolve", "academy.cli.training", "academy.loop.ask", "academy.loop.examine_player",
    "academy.loop.genealogy", "academy.loop.keys", "academy.loop.promote", "academy.loop.refuse", "academy.loop.verify",
    "academy.serving.export.export", "academy.genealogy.tracking",
    "academy.genealogy.versions", "academy.serving.runtimes.peft", "academy.serving.runtimes.table",
    "academy.loop.evolve", "academy.loop.dry_run",
    "mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
    "peft", "torch", "transformers", "transformers.models.auto.modeling_auto",
)  # fmt: skip
LARGEST_MESSAGE = 200_000


class Forks:
    """A process that forks a command for each call; the first call starts it, and it ends with its caller."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._address, self._environment = folder / "forks.socket", environment
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = threading.Lock()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(self._address), str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=self._environment,
        )  # fmt: skip
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("The process that forks commands has ended.")

    def run(
        self, arguments: list[str], *, folder: Path, environment: dict[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Run `academy ARGUMENTS`. Returns exit code (negative: a signal), stdout and stderr. Raises TimeoutExpired."""
        with self._starting:
            if self._process is None:
                self._start()
        order = orjson.dumps({"arguments": arguments, "folder": str(folder), "environment": environment})
        with (
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line,
        ):
            line.connect(str(self._address))
            socket.send_fds(line, [order], [out.fileno(), err.fileno()])
            pid = int(line.recv(LARGEST_MESSAGE))
            line.settimeout(timeout)
            try:
                code = int(line.recv(LARGEST_MESSAGE))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(arguments, timeout) from None
            texts = []
            for stream in (out, err):
                stream.seek(0)
                texts.append(stream.read().decode())
        return code, texts[0], texts[1]

    def end(self) -> None:
        """Kill the process. Commands that still run end by themselves."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


def _serve(address: str, parent: int) -> dict[str, Any]:
    """Fork for each call. Returns only in the process of a command, with its arguments and environment."""
    die_with_parent(parent)
    for name in PRELOADED:
        importlib.import_module(name)
    if "prefect" in sys.modules or threading.active_count() > 1:
        raise RuntimeError("Prefect was imported before its settings are known, or a thread was started.")
    gc.collect()
    gc.freeze()  # otherwise each fork's first garbage collection would copy all memory pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the watchers
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(address)
        door.listen()
        print("ready", flush=True)
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                break
            line.close()
    return _watched(line)


def _watched(line: socket.socket) -> dict[str, Any]:
    """Fork the command, and send its process id and exit code to the caller. Returns in the command's process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, outputs, _, _ = socket.recv_fds(line, LARGEST_MESSAGE, 2)
    pid = os.fork()
    if pid:
        line.send(b"%d" % pid)
        line.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    line.close()
    for output, descriptor in zip((1, 2), outputs, strict=True):
        os.dup2(descriptor, output)
        os.close(descriptor)
    order: dict[str, Any] = orjson.loads(content)
    return order


if __name__ == "__main__":
    todo = _serve(sys.argv[1], int(sys.argv[2]))
    os.environ.clear()
    os.environ.update(todo["environment"])
    os.chdir(todo["folder"])
    sys.argv[1:] = todo["arguments"]
    code = 0
    sys.modules.pop("academy.cli.main", None)  # runpy warns about a module that is imported already
    try:
        runpy.run_module("academy.cli.main", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:  # noqa: BLE001  Python would print it and exit, too
        traceback.print_exc()
        code = 1
    # exit as Python does, but without freeing every object, which would copy all memory pages
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
