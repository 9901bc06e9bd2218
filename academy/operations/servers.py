"""Starts and watches the servers of a home: Prefect, MLflow and the workers of its pools."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from academy.access.secret import write_private
from academy.border.current_folder import environment
from academy.errors import HomeError, InputError
from academy.habitat.routing import POOLS
from academy.loop.home import Home
from academy.operations.deploy import Deployed, deploy
from academy.operations.listeners import listen, numbers_of
from academy.operations.prefect_app import new_auth_string
from academy.operations.prefect_rules import POOL
from academy.operations.prefect_server import (
    AUTH_FILE,
    URL_FILE,
    Server,
    configure,
    mark_dead_runs_crashed,
    running,
    use_server,
)
from academy.operations.prefect_settings import import_prefect
from academy.records import Record
from academy.settings import Settings
from academy.store.files import write_file
from academy.system.hardware import take_inventory

POLL_SECONDS = 0.5


class ServerEvent(Record):
    """Something that happened while the servers start.

    `name` is the server that answers at `url`, or the pool that a worker serves; `count` are the crashed runs.
    """

    kind: Literal["runs crashed", "server", "deployed", "worker", "ready"]
    name: str = ""
    url: str = ""
    count: int = 0
    deployed: Deployed | None = None


def serve_pages(home: Home, port: int, mlflow_port: int, *, with_worker: bool) -> Generator[ServerEvent, None, None]:
    """Start the servers and watch them until the iterator is closed; every child process then ends with them.

    Raises InputError for a port in use and where a server of this home runs already, HomeError where a child process
    ends by itself.
    """
    settings = home.settings
    configure(settings)
    if running(settings):
        raise InputError("A Prefect server of this home is already running.", "Use it, or stop it first.")
    home.mlflow  # noqa: B018  creates its database before its server looks for it
    url = f"http://127.0.0.1:{port}/api"
    url_file = settings.folder("prefect") / URL_FILE
    # Prefect's pages call the API at the address that the server believes in, and its default is port 4200
    os.environ |= {"PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    home_folder = str(settings.home.resolve())
    with ExitStack() as stack:
        sockets = {name: listen(number) for name, number in (("server", port), ("mlflow", mlflow_port))}
        for listener in (each for pair in sockets.values() for each in pair):
            stack.enter_context(listener)
        credentials = new_auth_string()
        use_server(url, credentials)
        stack.callback(write_private(settings, AUTH_FILE, credentials).unlink, missing_ok=True)
        server = [sys.executable, "-m", "academy.operations.prefect_server", "0", home_folder]
        children = {"server": stack.enter_context(_child(settings, "server", server, sockets["server"]))}
        Server(url, settings.folder("prefect") / "server.log", children["server"]).wait()
        import_prefect(settings)
        if count := mark_dead_runs_crashed(settings, url):
            yield ServerEvent(kind="runs crashed", count=count)
        write_file(url_file, url.encode())
        stack.callback(url_file.unlink, missing_ok=True)
        mlflow = [sys.executable, "-m", "academy.operations.mlflow_server", home_folder]
        children["mlflow"] = stack.enter_context(_child(settings, "mlflow", mlflow, sockets["mlflow"]))
        yield ServerEvent(kind="server", name="Prefect", url=f"http://127.0.0.1:{port}")
        yield ServerEvent(kind="server", name="MLflow", url=f"http://127.0.0.1:{mlflow_port}")
        if with_worker:
            yield ServerEvent(kind="deployed", deployed=deploy(settings))
            gpus = settings.enable_gpu and take_inventory(engine=False).gpus
            for pool in (POOL, POOLS["cpu"], *([POOLS["cuda"]] if gpus else [])):
                name = pool.replace("academy-", "worker-")
                children[name] = stack.enter_context(_child(settings, name, _worker_command(settings, pool, name)))
                yield ServerEvent(kind="worker", name=pool)
        yield ServerEvent(kind="ready")
        _watch(settings, children)


def _worker_command(settings: Settings, pool: str, name: str) -> list[str]:
    return [
        sys.executable, "-m", "academy.operations.prefect_worker", "--pool", pool,
        "--name", f"{name}-{settings.home_id}",
    ]  # fmt: skip


@contextmanager
def _child(
    settings: Settings, name: str, command: list[str], sockets: Sequence[socket.socket] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A supervised child process (operations/child.py) that logs into the home and ends with the context.

    Where it gets sockets, their numbers are its last argument.
    """
    command = [*command, numbers_of(sockets)] if sockets else command
    with (settings.folder("prefect") / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "academy.operations.child", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno() for listener in sockets],
            cwd=settings.home,
            env=environment(ACADEMY_HOME=str(settings.home.resolve())),
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _watch(settings: Settings, children: dict[str, subprocess.Popen[bytes]]) -> None:
    """Return never. Raises HomeError where a child process ends by itself: half of the servers are of no use."""
    while True:
        for name, process in children.items():
            if process.poll() is not None:
                log = settings.folder("prefect") / f"{name}.log"
                raise HomeError(f"The {name} process ended by itself.", f"Its output is in {log}.")
        time.sleep(POLL_SECONDS)
