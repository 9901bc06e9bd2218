"""`academy pages` and `academy deploy`: the pages of this home, the deployments and their worker."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from academy.cli.output import say
from academy.errors import HomeError, InputError
from academy.habitat.routing import POOLS
from academy.loop.home import Home
from academy.settings import Settings, load_settings
from academy.store.files import write_file
from academy.system.hardware import take_inventory

POOL = "academy-cpu"
POLL_SECONDS = 0.5


def run(port: int, mlflow_port: int, *, with_worker: bool) -> None:
    """Serve until Ctrl-C or SIGTERM; nothing is left behind, not even by SIGKILL."""
    from academy.operations.prefect_server import URL_FILE, Server, bury_the_dead, configure, running

    home = Home.open()
    settings = home.settings
    for number in (port, mlflow_port):
        _refuse_used(number)
    configure(settings)
    if running(settings):
        raise InputError("A Prefect server of this home is running already.", "Use it, or end it first.")
    home.mlflow  # noqa: B018  creates its database before its server looks for it
    url = f"http://127.0.0.1:{port}/api"
    note = settings.folder("prefect") / URL_FILE
    signal.signal(signal.SIGTERM, _as_interrupt)
    # the page asks the API at the server's own idea of its address, which is port 4200 unless it is told
    os.environ |= {"PREFECT_API_URL": url, "PREFECT_SERVER_API_HOST": "127.0.0.1", "PREFECT_SERVER_API_PORT": str(port)}
    with ExitStack() as stack, suppress(KeyboardInterrupt):
        server = [sys.executable, "-m", "academy.operations.prefect_server", str(port), "0"]
        children = {"server": stack.enter_context(_child(settings, "server", server))}
        Server(url, settings.folder("prefect") / "server.log", children["server"]).wait()
        if buried := bury_the_dead(settings, url):
            say(f"{buried} run(s) had died with their process; they are marked as crashed.")
        write_file(note, url.encode())
        stack.callback(note.unlink, missing_ok=True)
        mlflow = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(mlflow_port),
            "--workers", "1",
            "--backend-store-uri", settings.tracking_uri, "--registry-store-uri", settings.tracking_uri,
            "--default-artifact-root", settings.folder("mlartifacts").as_uri(),
        ]  # fmt: skip
        children["mlflow"] = stack.enter_context(_child(settings, "mlflow", mlflow))
        say(f"Prefect: http://127.0.0.1:{port}")
        say(f"MLflow:  http://127.0.0.1:{mlflow_port}")
        if with_worker:
            deploy()
            gpus = settings.enable_gpu and take_inventory(engine=False).gpus
            for pool in (POOL, POOLS["cpu"], *([POOLS["cuda"]] if gpus else [])):
                name = pool.replace("academy-", "worker-")
                worker = [
                    sys.executable, "-m", "prefect", "worker", "start", "--pool", pool,
                    "--name", f"{name}-{settings.home_id}", "--type", "process", "--limit", "1",
                ]  # fmt: skip
                children[name] = stack.enter_context(_child(settings, name, worker))
                say(f"A worker serves the pool {pool}.")
        say("Ctrl-C ends everything.")
        _watch(settings, children)


def deploy() -> None:
    """Create the pools and deploy prefect.yaml on the running server; doing it again changes nothing."""
    from academy.operations.prefect_server import alive, configure, make_pools, running

    settings = load_settings()
    configure(settings)
    url = running(settings)
    if not url or not alive(url):
        raise HomeError("No Prefect server answers.", "Start one with `make pages`, or set PREFECT_API_URL.")
    os.environ["PREFECT_API_URL"] = url
    os.environ["ACADEMY_HOME"] = str(settings.home.resolve())
    checkout = Path(__file__).parents[2]
    if not (checkout / "prefect.yaml").is_file():
        raise InputError("There is no prefect.yaml beside the flows.", "Deploy from a checkout of the project.")
    make_pools(url, [POOL, *POOLS.values()])
    _prefect(checkout, "--no-prompt", "deploy", "--all")
    say("Deployed evolve/nightly, evolve/on-demand, train/cpu, train/gpu, examine, promote and verify.")
    say(
        "A worker that trains for this home: prefect worker start --type process --limit 1 "
        f"--pool {POOLS['cuda']} --name gpu-{settings.home_id}"
    )


def _prefect(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise HomeError(f"Prefect refused: {lines[-1] if lines else arguments}", "Look at the Prefect server's log.")


@contextmanager
def _child(settings: Settings, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A supervised child (academy/operations/child.py) with its output in the home; ended at the end."""
    with (settings.folder("prefect") / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "academy.operations.child", str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "ACADEMY_HOME": str(settings.home.resolve()),
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its pages need no job processes
            },
        )
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def _watch(settings: Settings, children: dict[str, subprocess.Popen[bytes]]) -> None:
    """Wait for Ctrl-C. Raises HomeError where a child ends by itself: pages that serve half of it help nobody."""
    while True:
        for name, child in children.items():
            if child.poll() is not None:
                log = settings.folder("prefect") / f"{name}.log"
                raise HomeError(f"The {name} ended by itself.", f"Its output is in {log}.")
        time.sleep(POLL_SECONDS)


def _refuse_used(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            raise InputError(f"Port {port} is in use.", "Choose others with --port and --mlflow-port.") from problem


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
