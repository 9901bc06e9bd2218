"""Lessons, hold-out and ledger on a real PostgreSQL server, if PostgreSQL is installed with its driver."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from academy.curriculum.holdout import GroupedRequest, Holdout
from academy.errors import HomeError
from academy.experience.lessons import LessonsStore
from academy.store.database import Database
from academy.store.ledger import Ledger
from tests.campaign.kills import Line
from tests.ledger_entries import verdict

LESSONS = Path(__file__).parents[2] / "examples/lessons/01-2026-07-operations.jsonl"


def run(_seconds: float, _seed: int, _rounds: int) -> list[Line]:
    """Run this part of the campaign: half a minute, or a sentence why not."""
    line = Line("PostgreSQL")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs or importlib.util.find_spec("psycopg") is None:
        print("  skipped: needs Debian's postgresql and the extra `postgres`", flush=True)
        return [line]
    line.checked = 1
    with _server(programs[-1].parent) as url, tempfile.TemporaryDirectory() as place:
        line.violations += [name for name, right in _checks(Database(url), Path(place)) if not right]
    line.failed = int(bool(line.violations))
    return [line]


def _checks(database: Database, place: Path) -> Iterator[tuple[str, bool]]:
    database.migrate()
    database.migrate()
    store = LessonsStore(database)
    extra = {"rating": 4, "gold": True, "context": [{"role": "user", "content": "hello"}]}
    first = store.add_lesson("how", "so", "success", tags=["b", "a"], metadata=extra)
    yield "adding again changes nothing", store.add_lesson("how", "so", "success", metadata=extra) == first
    batch = store.import_file(LESSONS, place)
    repetition = store.import_file(LESSONS, place)
    yield (
        "a file is admitted once",
        batch.admitted > 1000 and (repetition.admitted, repetition.known) == (0, batch.admitted),
    )
    statistics = store.get_statistics()
    yield "statistics", statistics["total_lessons"] == batch.admitted + 1 and statistics["tag_distribution"]["a"] == 1
    yield "export", store.export(place / "all.jsonl") == statistics["total_lessons"]
    with database.write() as connection:
        undone = store.undo(LESSONS.stem, connection)
        back = store.undo(LESSONS.stem, connection, restore=True)
        store.forget(first, "asked for", connection)
    yield "a batch is undone and restored", undone == back == batch.admitted
    yield "a forgotten lesson is gone", not store.by_id([first])
    requests = [GroupedRequest(text=lesson.request, suite="recall", group=lesson.answer) for lesson in store.read()]
    yield "places stay", Holdout(database).assign(requests) == Holdout(database).assign(requests)
    ledger = Ledger(database, "family")
    yield "a key is written once", ledger.append("k", verdict()).seq == ledger.append("k", verdict()).seq
    try:
        with database.write() as connection:
            connection.exec_driver_sql("DELETE FROM ledger")
        yield "the ledger is append-only", False
    except HomeError as refusal:
        yield "the ledger is append-only", "append-only" in refusal.message


@contextmanager
def _server(programs: Path) -> Iterator[str]:
    """A server on loopback with its files in a temporary folder; as postgres where root asks, which it refuses."""
    place = Path(tempfile.mkdtemp(prefix="academy-postgres-"))
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    os.chown(place, user.pw_uid, user.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def call(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=user.pw_uid, group=user.pw_gid, cwd=place)

    data = str(place / "data")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {place}"
    try:
        call(str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "academy")
        call(str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(place / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://academy@127.0.0.1:{port}/postgres"
        finally:
            call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(place, ignore_errors=True)
