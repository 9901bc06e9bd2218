"""A Prefect server for a flow that runs here: the one that is running, or one of our own that ends with us.

Prefect's own ephemeral server outlives a killed process; ours asks the kernel to be ended with its parent.
`python -m academy.operations.prefect_server PORT PARENT` is that child.
"""

from __future__ import annotations

import os
import socket
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

from academy.errors import HomeError
from academy.settings import Settings
from academy.store.locks import exclusive_lock
from academy.system.processes import die_with_parent

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

STARTUP_SECONDS = 120
URL_FILE = "server.url"
RESTARTS = 3
KEEP_SECONDS = 0.3
_QUIET = {"PREFECT_LOGGING_SERVER_LEVEL": "WARNING", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}


def configure(settings: Settings) -> None:
    """Prefect's environment: its home in ours, quiet, patient. Must come before prefect is imported."""
    defaults = {
        "PREFECT_HOME": str(settings.folder("prefect")),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(STARTUP_SECONDS),
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "academy",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "DO_NOT_TRACK": "true",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


class Server:
    """A Prefect server that answers, or will soon."""

    def __init__(self, url: str, log: Path, process: subprocess.Popen[bytes] | None = None) -> None:
        self.url = url
        self.log = log
        self.process = process  # where it is ours

    def wait(self) -> None:
        """Return when it answers. Raises HomeError where it ended instead, or does not come up."""
        until = time.monotonic() + STARTUP_SECONDS
        while not alive(self.url):
            ended = self.process is not None and self.process.poll() is not None
            if ended or time.monotonic() > until:
                raise HomeError(
                    f"The Prefect server at {self.url} {'ended by itself' if ended else 'does not answer'}.",
                    f"Its log is {self.log}.",
                )
            time.sleep(0.1)


class OwnServer(Server):
    """A server that ends with us, and is started again where it dies before: its database has everything it knew.

    Without that a flow whose server died would do its work, and then wait minutes for somebody to tell it to.
    """

    def __init__(self, settings: Settings) -> None:
        self._port = _free_port()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        super().__init__(f"http://127.0.0.1:{self._port}/api", settings.folder("prefect") / "server.log")
        os.environ["PREFECT_API_URL"] = self.url
        self.process = self._start()

    def wait(self) -> None:
        """As any server; from then on it is kept alive."""
        super().wait()
        self._keeper.start()

    def end(self) -> None:
        """End it, gently at first."""
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

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "academy.operations.prefect_server", str(self._port), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, **_QUIET},
            )  # fmt: skip

    def _keep(self) -> None:
        for _ in range(RESTARTS):
            while self.process is None or self.process.poll() is None:
                if self._over.wait(KEEP_SECONDS):
                    return
            # the kernel ends a child with the thread that started it, and this thread lives until the end
            self.process = self._start()
        self._over.wait()


@contextmanager
def prefect_server(settings: Settings) -> Iterator[Server]:
    """A live server. It may still be starting: `wait` for it."""
    if there := running(settings):
        os.environ["PREFECT_API_URL"] = there
        yield Server(there, settings.folder("prefect") / "server.log")
        return
    server = OwnServer(settings)
    try:
        yield server
    finally:
        _drain()
        del os.environ["PREFECT_API_URL"]
        server.end()


def _drain() -> None:
    """Send what Prefect still holds back for the server before the server ends."""
    if "prefect" in sys.modules:
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=5)
        EventsWorker.drain_all(timeout=5)


def alive(url: str) -> bool:
    """Whether a Prefect server answers at this address."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310  a loopback or configured address
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def running(settings: Settings) -> str:
    """The server that PREFECT_API_URL names, or the one that serves this home's pages if it still answers; or ""."""
    if named := os.environ.get("PREFECT_API_URL"):
        return named
    note = settings.folder("prefect") / URL_FILE
    url = note.read_text(encoding="utf-8").strip() if note.is_file() else ""
    return url if url and alive(url) else ""


def bury_the_dead(settings: Settings, url: str) -> int:
    """Mark runs as Crashed whose process died with an earlier server; how many. Prefect shows them as Running for ever.

    An evolution of this home holds the home's lock while it works and a training a lock of its own, so where a lock is
    free, who should hold it cannot be alive.
    """
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
    from prefect.states import Crashed

    locks = settings.folder("locks")
    buried = 0
    with _client(url) as client:
        for flow in ("evolve", "train"):
            alive_in_name = FlowRunFilter.model_validate(
                {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
            )
            named = FlowFilter.model_validate({"name": {"any_": [flow]}})
            for run in client.read_flow_runs(flow_filter=named, flow_run_filter=alive_in_name):
                lock = locks / flow if flow == "evolve" else training_lock(locks, str(run.id))
                with suppress(HomeError), exclusive_lock(lock, "It is at work."):
                    client.set_flow_run_state(run.id, Crashed(message=_DEAD), force=True)
                    buried += 1
    return buried


_DEAD = "Its process ended without a word; found at the next start."


def make_pools(url: str, names: Iterable[str]) -> None:
    """Work pools of processes, those that are not there yet; what a person changed of the others stays."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    usual = ProcessWorker.get_default_base_job_template()
    with _client(url) as client:
        for pool in names:
            with suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=usual))


@contextmanager
def _client(url: str) -> Iterator[SyncPrefectClient]:
    """Prefect's own, for it asks again where the server's SQLite was locked for a moment (a 503)."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
        yield client


def training_lock(locks: Path, run: str) -> Path:
    """What a training's flow run holds while it works."""
    return locks / f"train-{run}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Serve until the parent ends (0: whoever supervises us sees to that)."""
    port, parent = int(sys.argv[1]), int(sys.argv[2])
    if parent:
        die_with_parent(parent)
    import uvicorn

    uvicorn.run(
        "prefect.server.api.server:create_app", factory=True, host="127.0.0.1", port=port,
        log_level="warning", timeout_graceful_shutdown=2, timeout_keep_alive=5,
    )  # fmt: skip


if __name__ == "__main__":
    main()
