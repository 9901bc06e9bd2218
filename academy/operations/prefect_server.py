"""A Prefect server for a flow that runs in this process: the running one, or one that ends with this process.

Prefect's own ephemeral server survives a killed process. This one asks the kernel to end it with its parent.
`python -m academy.operations.prefect_server PARENT HOME SOCKETS` is that child process.
"""

from __future__ import annotations

import base64
import http.client
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from academy.access.peers import is_own_listener
from academy.access.secret import has_private, owner_of, read_private
from academy.border.current_folder import drop_prefect_settings, environment
from academy.errors import HomeError, InputError
from academy.home.private import be_private
from academy.operations.job_template import JOB_TEMPLATE
from academy.operations.listeners import inherited, listen, numbers_of
from academy.operations.locks import evolution_lock, training_lock
from academy.operations.prefect_app import CLIENT_AUTH, make_app, new_auth_string
from academy.settings import Settings, load_settings
from academy.store.locks import exclusive_lock
from academy.system.connections import check_connections
from academy.system.processes import die_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

STARTUP_SECONDS = 120
URL_FILE, AUTH_FILE = "server.url", "prefect"
RESTARTS = 3
KEEP_SECONDS = 0.3
_QUIET = {"PREFECT_LOGGING_SERVER_LEVEL": "WARNING", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}


def configure(settings: Settings) -> None:
    """Set the environment of Prefect: a folder and a profile of this home, few log lines. Then import Prefect.

    Of the user's own variables only those of servers count: others name files, profiles and logging that run code.

    Raises InputError for a variable with which its client cannot connect.
    """
    check_connections()
    if (url := os.environ.get("PREFECT_API_URL")) and not url.startswith(("http://", "https://")):
        raise InputError(f"PREFECT_API_URL={url} is not an address.", "Write it as http://host:port/api, or unset it.")
    drop_prefect_settings()
    folder = settings.folder("prefect")
    variables = {
        "PREFECT_HOME": str(folder),
        "PREFECT_PROFILES_PATH": str(folder / "profiles.toml"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "academy",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "true",
    }
    os.environ |= variables


class Server:
    """A Prefect server that answers or is starting."""

    def __init__(self, url: str, log: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        self.url = url
        self.log = log
        self.process = process  # None for a server that another process started

    def wait(self) -> None:
        """Return when the server answers. Raises HomeError if it ended or does not answer in time."""
        until = time.monotonic() + STARTUP_SECONDS
        while not alive(self.url):
            exited = self.process is not None and self.process.poll() is not None
            if exited or time.monotonic() > until:
                raise HomeError(
                    f"The Prefect server at {self.url} {'exited' if exited else 'does not answer'}.",
                    f"Its log is {self.log}.",
                )
            time.sleep(0.1)


class OwnServer(Server):
    """A server that ends with this process. If it exits earlier, it is started again with the same database.

    Otherwise a flow whose server exited would finish its work, and then wait minutes to report it.
    """

    def __init__(self, settings: Settings) -> None:
        self._sockets = listen(0)
        self._home = settings.home.resolve()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        port = self._sockets[0].getsockname()[1]
        super().__init__(f"http://127.0.0.1:{port}/api", settings.folder("prefect") / "server.log")
        use_server(self.url, new_auth_string())
        self.process = self._start()

    def wait(self) -> None:
        """Return when the server answers. From then on it is kept running."""
        super().wait()
        self._keeper.start()

    def end(self) -> None:
        """Stop the server: terminate it, and kill it after ten seconds."""
        self._over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for listener in self._sockets:
            listener.close()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-m", "academy.operations.prefect_server",
                    str(os.getpid()), str(self._home), numbers_of(self._sockets),
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment(**_QUIET), cwd=self._home,
                pass_fds=[listener.fileno() for listener in self._sockets],
            )  # fmt: skip

    def _keep(self) -> None:
        for _ in range(RESTARTS):
            while self.process is None or self.process.poll() is None:
                if self._over.wait(KEEP_SECONDS):
                    return
            # the kernel ends a child with the thread that started it, and this thread runs until `end`
            self.process = self._start()
        self._over.wait()


@contextmanager
def prefect_server(settings: Settings) -> Iterator[Server]:
    """The running server, or a new one. A new one may still be starting: call `wait`."""
    if url := running(settings):
        if "PREFECT_API_URL" not in os.environ:
            use_own_server(settings, url)
        yield Server(url, settings.folder("prefect") / "server.log")
        return
    server = OwnServer(settings)
    try:
        yield server
    finally:
        _drain()
        del os.environ["PREFECT_API_URL"]
        os.environ.pop(CLIENT_AUTH, None)
        server.end()


def use_server(url: str, credentials: str) -> None:
    """Make this process and its children use a server with this auth string."""
    os.environ |= {"PREFECT_API_URL": url, CLIENT_AUTH: credentials}


def use_own_server(settings: Settings, url: str) -> None:
    """Make this process and its children use the running server of this home: the address that `running` returned.

    Its auth string ends with it, so another program that gets the address later learns nothing of use.
    """
    use_server(url, read_private(settings, AUTH_FILE))


def _drain() -> None:
    """Send the events and log lines that Prefect has queued, before the server stops."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)


def alive(url: str, credentials: str = "") -> bool:
    """Whether a Prefect server answers at this address, and accepts this auth string."""
    token = base64.b64encode(credentials.encode()).decode()
    headers = {"Authorization": f"Basic {token}"} if credentials else {}
    try:
        request = urllib.request.Request(f"{url}/health", headers=headers)  # noqa: S310  a loopback or configured address
        with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError):  # another program, or no address
        return False


def running(settings: Settings) -> str:
    """The URL of the server in PREFECT_API_URL, or of this home's server if it answers; empty if there is none.

    What another account or another home runs on the port of a server that was killed is not this home's.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        return configured
    file = settings.folder("prefect") / URL_FILE
    url = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not url or not has_private(settings, AUTH_FILE) or not is_own_listener(url, owner_of(settings)):
        return ""
    return url if alive(url, read_private(settings, AUTH_FILE)) else ""


def mark_dead_runs_crashed(settings: Settings, url: str) -> int:
    """Mark runs as Crashed whose process died with an earlier server. Returns their number.

    Prefect would show them as Running permanently. An evolution holds the home's lock while it works, and a training
    its own lock, so a free lock means that the run's process is dead.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
    from prefect.states import Crashed

    locks = settings.folder("locks")
    count = 0
    with _client(url) as client:
        for flow in ("evolve", "train"):
            unfinished = FlowRunFilter.model_validate(
                {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
            )
            of_flow = FlowFilter.model_validate({"name": {"any_": [flow]}})
            for run in client.read_flow_runs(flow_filter=of_flow, flow_run_filter=unfinished):
                lock = evolution_lock(locks) if flow == "evolve" else training_lock(locks, str(run.id))
                with suppress(HomeError), exclusive_lock(lock, "The run is working."):
                    client.set_flow_run_state(run.id, Crashed(message=_DEAD), force=True)
                    count += 1
    return count


_DEAD = "Its process ended unexpectedly; detected at the next start."


def make_pools(url: str, names: Iterable[str]) -> None:
    """Create the missing work pools of type process, and give existing ones their constants. They keep their limits."""
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    with _client(url) as client:
        for pool in names:
            try:
                client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=JOB_TEMPLATE))
            except ObjectAlreadyExists:
                client.update_work_pool(pool, WorkPoolUpdate(base_job_template=JOB_TEMPLATE))


@contextmanager
def _client(url: str) -> Iterator[SyncPrefectClient]:
    """Prefect's own client, because it retries when the server's SQLite was locked for a moment (a 503)."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def main() -> None:
    """Serve until the parent ends; with parent 0 a supervisor ends this process."""
    be_private()
    parent, home, sockets = int(sys.argv[1]), Path(sys.argv[2]), inherited(sys.argv[3])
    if parent:
        die_with_parent(parent)
    from academy.access.guarded_server import run

    run(make_app(load_settings(home), sockets[0].getsockname()[1]), sockets)


if __name__ == "__main__":
    main()
