"""Eight processes add lessons at once and are killed at random: each acknowledged lesson is stored exactly once.

Each writes the id of a lesson to its own file after `add_lesson` returned, and continues there when it is restarted.
Not covered: power cuts.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from academy.experience.lessons import LessonsStore
from academy.store.database import Database
from tests.campaign.kills import Line

WRITERS = 8
LESSONS = 1000
SECONDS = 60.0
WRITER = """
import sys
from academy.store.database import Database
from academy.experience.lessons import LessonsStore
url, told, number, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
store = LessonsStore(Database(url))
with open(told, "a+") as stream:
    stream.seek(0)
    done = sum(1 for line in stream if line.endswith(chr(10)))
    for n in range(done, count):
        stream.write(store.add_lesson(f"request {n} of {number}", f"answer {n % 40}", "success") + chr(10))
        stream.flush()
"""


def run(seconds: float, seed: int, _rounds: int, lessons: int = LESSONS) -> list[Line]:
    """Run this part of the campaign."""
    line = Line("lessons of 8 processes")
    if seconds < SECONDS * lessons / LESSONS:
        print(f"  skipped: needs {SECONDS:.0f} s, {seconds:.0f} s remain", flush=True)
        return [line]
    place = Path(tempfile.mkdtemp(prefix="academy-store-"))
    try:
        _hammer(place, line, random.Random(seed), lessons, time.monotonic() + seconds)
    finally:
        shutil.rmtree(place)
    print(f"  {line.kills} kills, {WRITERS * lessons:,} lessons, {len(line.violations)} violations", flush=True)
    return [line]


def _hammer(place: Path, line: Line, chance: random.Random, lessons: int, until: float) -> None:
    url = f"sqlite:///{place / 'academy.db'}"
    database = Database(url)
    database.migrate()

    def start(number: int) -> subprocess.Popen[bytes]:
        arguments = [url, str(place / f"told-{number}"), str(number), str(lessons)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], env=environment, stderr=subprocess.PIPE)

    writers = {number: start(number) for number in range(WRITERS)}
    while writers and time.monotonic() < until:
        time.sleep(chance.uniform(0.05, 0.4))
        for number, writer in list(writers.items()):
            if writer.poll() == 0:
                del writers[number]
            elif writer.returncode is not None and writer.returncode != -signal.SIGKILL:
                line.violations.append((writer.communicate()[1] or b"").decode()[-300:])
                del writers[number]
        if writers and line.kills < 4 * WRITERS:
            victim = chance.choice(sorted(writers))
            writers[victim].kill()
            writers[victim].communicate()
            line.kills += 1
            line.reruns += 1
            writers[victim] = start(victim)
    for writer in writers.values():
        writer.kill()
        writer.communicate()
    if writers:
        line.violations.append(f"{len(writers)} writers did not finish in time")
    line.checked = 1
    _check(place, line, LessonsStore(database), lessons)
    line.failed = int(bool(line.violations))


def _check(place: Path, line: Line, store: LessonsStore, lessons: int) -> None:
    acknowledgements = [id_ for path in place.glob("told-*") for id_ in path.read_text().split("\n")[:-1]]
    stored = [lesson.id for lesson in store.read()]
    if missing := set(acknowledgements) - set(stored):
        line.violations.append(f"{len(missing)} acknowledged lessons are missing")
    if len(stored) != len(set(stored)):
        line.violations.append("a lesson is stored twice")
    if not line.violations and len(stored) != WRITERS * lessons:
        line.violations.append(f"{len(stored)} lessons instead of {WRITERS * lessons}")
    with store.database.read() as connection:
        if (state := connection.exec_driver_sql("PRAGMA integrity_check").scalar()) != "ok":
            line.violations.append(f"the database is damaged: {state}")
