"""Promotions and rollbacks that are killed at named points, and races of eight promoters, before a live gateway.

`python -m tests.campaign.promotions [--kills N] [--races N] [--budget SECONDS]`. In a home with nine adapters that each
answer one colour, the real gateway runs in a process, and a reader asks it without a pause. Then, repeatedly:

    kill    a process promotes or rolls back by the code that `academy promote` runs, and is killed with SIGKILL at one
            of the points below; or the gateway is killed at that point. The next start finishes what is open.
    race    eight processes promote eight versions against the same champion, at once.

What must hold the whole time: the ledger's champion is an adapter on the disk that passes its checks; every answer has
the colour of the adapter that its headers name; only those nine and the base model answer. And after each start:
MLflow shows the ledger's champion, and the gateway answers with it. Of a race one promotion is in the ledger.

All processes are forks of one that has imported everything and opened nothing.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy.orm import configure_mappers

from academy.store.ledger_rows import PromotionEntry, RollbackEntry, VerdictEntry
from tests.campaign.kills import Line
from tests.ledger_entries import verdict

COLOURS = ("blue", "red", "green", "gold", "black", "white", "brown", "silver", "orange")
POINTS: tuple[tuple[str, str, str], ...] = (
    ("the adapter is read", "academy.lifecycle.promotion", "admit_adapter"),
    ("the gateway loads it", "academy.serving.gateway.client", "GatewayClient.load"),
    ("the champion is compared and set", "academy.store.ledger", "Ledger.set_champion"),
    ("the row is written, not committed", "academy.store.ledger", "Ledger.append"),
    ("the gateway follows", "academy.serving.gateway.client", "GatewayClient.follow"),
    ("the canaries are asked by the name champion", "academy.serving.gateway.client", "GatewayClient.verify"),
    ("MLflow shows the champion", "academy.genealogy.versions", "Versions.set_champion_alias"),
    ("MLflow's alias is set", "mlflow.tracking.client", "MlflowClient.set_registered_model_alias"),
    ("MLflow describes the versions", "academy.lifecycle.promotion", "describe"),
)
"""Each is two points: before it and after it."""
AT_GATEWAY = (1, 2, 4, 5)
"""Points at which the gateway is killed instead, too."""
PRELOADED = (
    "academy.lifecycle.gate", "academy.genealogy.tracking", "academy.genealogy.versions",
    "academy.serving.gateway.switch",
    "academy.loop.carry_out", "academy.loop.home", "mlflow", "mlflow.tracking.client",
    "mlflow.store.tracking.sqlalchemy_store", "mlflow.store.model_registry.sqlalchemy_store",
)  # fmt: skip
PATIENCE = 60.0
RACERS = 8


@dataclass
class Tally:
    """What the campaign counts."""

    kills: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)
    races: int = 0
    violations: list[str] = field(default_factory=list)
    slowest: float = 0.0  # seconds from the next start to the gateway's answer


def forked(do: Callable[[], Any]) -> tuple[int, Any]:
    """Run a function in a fork. Returns the exit code (negative: a signal) and the result."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            os.close(reading)
            os.write(writing, json.dumps(do()).encode())
            code = 0
        except BaseException as problem:  # noqa: BLE001  the parent gets any problem
            os.write(writing, json.dumps(f"{type(problem).__name__}: {problem}").encode())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        reply = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(reply) if reply else None


def prepare(home: Path) -> dict[str, str]:
    """Train, sign and register the colours. Returns colours by digest."""
    from academy.adapters.adapter import MANIFEST, AdapterFiles, read_adapter, signed_manifest
    from academy.loop.home import Home
    from academy.store.files import write_file
    from tests.colours import train_colours

    work = Home.open(home=home)
    colours = {}
    for number, (colour, folder) in enumerate(train_colours(work.adapters, COLOURS).items()):
        write_file(folder / MANIFEST, signed_manifest(AdapterFiles(folder).written, work.keys))
        adapter = read_adapter(folder)
        version = work.versions.adopt(adapter, parent="base", generation=1)
        assert version.version == str(number + 1)
        work.versions.set_verdict(version.version, "PROMOTE", "a colour", {})
        colours[adapter.digest] = colour
    return colours


def judge(home: Path, version: str) -> int:
    """Record the verdict PROMOTE on a version against the champion. Returns the number of its row."""
    from academy.lifecycle.promotion import record_verdict
    from academy.loop.home import Home

    work = Home.open(home=home)
    champion = work.ledger.champion()
    entry = verdict(
        "PROMOTE", because="a colour", challenger=work.versions.get(version).adapter, version=version,
        champion=champion.adapter, champion_version=champion.version, spends=False,
    )  # fmt: skip
    number = len(work.ledger.latest(VerdictEntry))
    return record_verdict(work.ledger, f"verdict:campaign:{champion.seq}:{version}:{number}", entry, (0, 0)).seq


def change(home: Path, version: str, row: int | None) -> str:
    """Promote a version by a verdict, or roll back to it, as the commands do. Returns the champion."""
    from academy.lifecycle.promotion import rollback
    from academy.loop.carry_out import carry_out
    from academy.loop.home import Home
    from academy.system.processes import person

    work = Home.open(home=home)
    if row is None:
        rollback(work.ledger, work.versions, work.gate, version, "a campaign", work.serving, by=person())
    else:
        verdict = next(entry for entry in work.ledger.latest(VerdictEntry) if entry.seq == row)
        carry_out(work, work.versions.get(version), verdict, by=person())
    return work.ledger.champion().version


def next_start(home: Path) -> dict[str, Any]:
    """Do what the next command does first. Returns the champion in the ledger and in MLflow."""
    from academy.lifecycle.gate import admit_adapter
    from academy.loop.finish_interrupted import finish_interrupted
    from academy.loop.home import Home
    from academy.store.ledger import BASE

    work = Home.open(home=home)
    finish_interrupted(work)
    champion = work.ledger.champion()
    if champion.adapter != BASE:
        admit_adapter(work.gate, champion.adapter)
    model = work.mlflow.get_registered_model(work.base.family)
    return {
        "version": champion.version,
        "adapter": champion.adapter,
        "row": champion.seq,
        "alias": str(model.aliases.get("champion", BASE)),
        "open": len(work.ledger.latest(PromotionEntry, RollbackEntry)),
    }


def armed(number: int, when: str, do: Callable[[], None]) -> None:
    """Call `do` before or after a point when this process passes it."""
    _, module, path = POINTS[number]
    holder: Any = importlib.import_module(module)
    *names, last = path.split(".")
    for name in names:
        holder = getattr(holder, name)
    original = getattr(holder, last)

    def wrapped(*args: Any, **more: Any) -> Any:
        if when == "before":
            do()
        result = original(*args, **more)
        if when == "after":
            do()
        return result

    setattr(holder, last, wrapped)


class ServedHome:
    """A home, its gateway and its reader."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.log = folder / "serve.log"
        self.seen = folder / "seen.jsonl"
        self.away = folder / "gateway-is-away"
        os.environ |= {"ACADEMY_HOME": str(self.home), "OMP_NUM_THREADS": "1", "DO_NOT_TRACK": "true"}
        code, colours = forked(lambda: prepare(self.home))
        if code:
            raise SystemExit(f"The home could not be made: {colours}")
        self.colours: dict[str, str] = colours
        self.gateway: subprocess.Popen[bytes] | None = None
        self.http = httpx.Client(timeout=PATIENCE)
        self.url = ""
        self.start()
        self.reader = os.fork()
        if self.reader == 0:
            self._read()

    def start(self) -> None:
        """Start the gateway, on the same port each time, and wait until it answers."""
        port = self.url.rpartition(":")[2] or "0"
        self.gateway = subprocess.Popen(
            [sys.executable, "-m", "academy.cli.main", "serve", "--port", port],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self.log.open("ab"),
        )  # fmt: skip
        until = time.monotonic() + 3 * PATIENCE
        note = self.home / "serving" / "default.json"
        while time.monotonic() < until:
            try:
                status = json.loads(note.read_bytes())
                if status["pid"] == self.gateway.pid and httpx.get(f"{status['url']}/healthz", timeout=5).is_success:
                    self.url = status["url"]
                    self.away.unlink(missing_ok=True)
                    return
            except (OSError, ValueError, httpx.HTTPError):
                pass
            time.sleep(0.1)
        raise SystemExit(f"The gateway did not start:\n{self.log.read_text(encoding='utf-8')[-2000:]}")

    def kill_gateway(self) -> None:
        """End the gateway as a power cut would."""
        self.away.touch()
        assert self.gateway is not None
        os.kill(self.gateway.pid, signal.SIGKILL)  # Popen's own way does nothing in a process that is not its parent

    def close(self) -> list[str]:
        """End all processes. Returns what was wrong with the answers of the reader."""
        os.kill(self.reader, signal.SIGTERM)
        os.waitpid(self.reader, 0)
        assert self.gateway is not None
        self.gateway.terminate()
        self.gateway.wait()
        lines = self.seen.read_text(encoding="utf-8").splitlines()
        count = sum(1 for line in lines if line == '"answered"')
        print(f"  the reader had {count:,} answers", flush=True)
        wrong = [json.loads(line) for line in lines if line != '"answered"']
        return wrong if count else ["the reader had no answer at all"]

    def ask(self) -> str | None:
        """Ask the champion. Returns what is wrong, None for a right answer, "" while the gateway is down on purpose."""
        from tests.colours import says

        try:
            response = self.http.post(
                f"{self.url}/v1/chat/completions",
                json={"model": "champion", "max_tokens": 24, "messages": [{"role": "user", "content": "hello"}]},
            )  # fmt: skip
        except httpx.HTTPError as problem:
            return "" if self.away.exists() else f"no answer: {type(problem).__name__}"
        if not response.is_success:
            return "" if self.away.exists() else f"{response.status_code}: {response.text[:200]}"
        text = response.json()["choices"][0]["message"]["content"].strip()
        adapter = response.headers["x-academy-adapter"]
        if adapter == "base":
            return f"the base says {text}" if text in map(says, COLOURS) else None
        if adapter not in self.colours:
            return f"{adapter} answered"
        return None if text == says(self.colours[adapter]) else f"{self.colours[adapter]} said: {text}"

    def _read(self) -> None:
        """The reader's process: ask, check the ledger's champion on disk, and record what is wrong."""
        import sqlalchemy as sa

        from academy.adapters.adapter import open_adapter
        from academy.errors import AcademyError
        from academy.loop.home import Home
        from academy.store.ledger import BASE, Ledger

        self.http = httpx.Client(timeout=PATIENCE)  # not the connections of its parent process
        work = Home.open(home=self.home)
        ledger = Ledger(work.database, work.base.digest)
        with self.seen.open("a", encoding="utf-8", buffering=1) as notes:
            while True:
                wrong = self.ask()
                if wrong != "":
                    notes.write(json.dumps(wrong or "answered") + "\n")
                try:
                    champion = ledger.champion()
                    if champion.adapter != BASE:
                        folder = work.adapters / champion.adapter[:16]
                        files = open_adapter(folder, base_digest=work.base.digest)
                        if files.adapter.digest != champion.adapter:
                            notes.write(json.dumps(f"{champion.name} is another adapter") + "\n")
                except (AcademyError, sa.exc.SQLAlchemyError) as problem:
                    notes.write(json.dumps(f"the champion does not resolve: {problem}") + "\n")
                time.sleep(0.5 if self.away.exists() else 0.05)  # leave the CPU to its next start

    def settled(self, tally: Tally, case: str) -> dict[str, Any]:
        """Check after the next start that ledger, MLflow and gateway agree, and how long the gateway takes."""
        code, champion = forked(lambda: next_start(self.home))
        if code:
            tally.violations.append(f"{case}: the next start ended with {code}: {champion}")
            return {}
        if champion["alias"] != champion["version"]:
            tally.violations.append(f"{case}: MLflow shows {champion['alias']}, the ledger says {champion['version']}")
        began = time.monotonic()
        health: dict[str, Any] = {}
        while time.monotonic() - began < PATIENCE:
            health = self.http.get(f"{self.url}/healthz").json()
            if health["champion"]["row"] == champion["row"] and health["champion"]["adapter"] == champion["adapter"]:
                break
            time.sleep(0.05)
        else:
            tally.violations.append(f"{case}: the gateway still answers with {health}, the ledger says {champion}")
        tally.slowest = max(tally.slowest, time.monotonic() - began)
        if wrong := self.ask():
            tally.violations.append(f"{case}: {wrong}")
        return champion


def kill_once(
    served: ServedHome, tally: Tally, number: int, when: str, chance: random.Random, *, gateway: bool
) -> None:
    """Kill one promotion or rollback at a point, and check the next start."""
    before = served.settled(tally, "before")
    back = bool(before) and before["open"] > 2 and chance.random() < 0.4
    candidates = [str(n + 1) for n in range(len(COLOURS)) if str(n + 1) != before.get("version")]
    version, row = chance.choice(candidates), None
    if back:
        versions = forked(lambda: sorted(_former_champions(served.home) - {before["version"]}))[1]
        version = chance.choice(versions)
    else:
        code, row = forked(lambda: judge(served.home, version))
        if code:
            tally.violations.append(f"no verdict: {row}")
            return
    verb, victim = ("rollback" if back else "promotion"), ("gateway" if gateway else "process")
    case = f"{verb}, {victim} killed {when} '{POINTS[number][0]}'"

    def changed() -> str:
        armed(number, when, served.kill_gateway if gateway else lambda: os.kill(os.getpid(), signal.SIGKILL))
        return change(served.home, version, row)

    code, reply = forked(changed)
    hit = served.away.exists() if gateway else code == -signal.SIGKILL
    (tally.kills if hit else tally.missed)[case] += 1
    if gateway and hit:
        assert served.gateway is not None
        served.gateway.wait()
        if code and not str(reply).startswith(("ServingError", "PromotionError", "AdapterError")):
            tally.violations.append(f"{case}: no plain refusal but {reply}")
        served.start()
    elif not hit and code:
        tally.violations.append(f"{case}: {reply}")
    after = served.settled(tally, case)
    if after and after["version"] not in (before.get("version"), version):
        tally.violations.append(f"{case}: {after['version']} is champion, neither the old nor the new one")


def _former_champions(home: Path) -> set[str]:
    from academy.loop.home import Home

    rows = Home.open(home=home).ledger.latest(PromotionEntry, RollbackEntry)
    return {row.body.version for row in rows}


def race(served: ServedHome, tally: Tally, chance: random.Random) -> None:
    """Eight promoters at once: one row, one champion, and seven refusals."""
    before = served.settled(tally, "before a race")
    candidates = [str(n + 1) for n in range(len(COLOURS)) if str(n + 1) != before.get("version")][:RACERS]
    chance.shuffle(candidates)
    rows = forked(lambda: {version: judge(served.home, version) for version in candidates})[1]
    gate_reading, gate_writing = os.pipe()
    racers = []
    for version in candidates:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_writing)
            os.read(gate_reading, 1)  # returns when the parent closes its end
            try:
                champion = change(served.home, version, rows[version])
                os.write(writing, json.dumps(["won", champion]).encode())
            except BaseException as problem:  # noqa: BLE001  the parent gets any problem
                os.write(writing, json.dumps([type(problem).__name__, str(problem)]).encode())
            finally:
                os._exit(0)
        os.close(writing)
        racers.append((version, pid, reading))
    os.close(gate_reading)
    os.close(gate_writing)
    ends = {}
    for version, pid, reading in racers:
        with os.fdopen(reading, "rb") as stream:
            ends[version] = json.loads(stream.read() or b'["died", ""]')
        os.waitpid(pid, 0)
    after = served.settled(tally, "a race")
    tally.races += 1
    winners = [version for version, (end, _) in ends.items() if end == "won"]
    if after and (after["open"] != before["open"] + 1 or winners != [after["version"]]):
        tally.violations.append(f"a race: {ends}, {before} -> {after}")
    if strange := [end for end in ends.values() if end[0] not in ("won", "PromotionError")]:
        tally.violations.append(f"a race: no plain refusal but {strange}")


def run(budget: float, seed: int, rounds: int, kills: int = 500, races: int = 200) -> list[Line]:
    """Alternate kills and races until both numbers or the time are reached."""
    del rounds
    shortest = 150.0
    if budget < shortest:
        print(f"  skipped: needs {shortest:.0f} s, {budget:.0f} s remain", flush=True)
        return []
    until = time.monotonic() + budget - 15
    for module in PRELOADED:
        importlib.import_module(module)
    configure_mappers()
    gc.collect()
    gc.freeze()  # otherwise each fork's first garbage collection would copy all memory pages
    chance = random.Random(seed)
    tally = Tally()
    cases = [(n, when, False) for n in range(len(POINTS)) for when in ("before", "after")]
    cases += [(n, when, True) for n in AT_GATEWAY for when in ("before", "after")]
    with tempfile.TemporaryDirectory(prefix="academy-promotions-") as place:
        served = ServedHome(Path(place))
        turn = 0
        while time.monotonic() < until and (tally.kills.total() < kills or tally.races < races):
            if turn % len(cases) == 0:
                chance.shuffle(cases)
            if tally.kills.total() < kills:
                number, when, gateway = cases[turn % len(cases)]
                if not gateway or turn % (3 * len(cases)) < len(cases):  # a gateway's start takes seconds
                    kill_once(served, tally, number, when, chance, gateway=gateway)
            if tally.races < races and (turn % 3 == 0 or tally.kills.total() >= kills):
                race(served, tally, chance)
            turn += 1
            if turn % 25 == 0:
                print(
                    f"  {tally.kills.total()} kills, {tally.races} races, {len(tally.violations)} violations",
                    flush=True,
                )
        tally.violations += served.close()
    _table(tally)
    changes = Line("promotions and rollbacks", kills=tally.kills.total(), reruns=tally.kills.total())
    changes.checked, changes.violations = tally.kills.total(), tally.violations
    changes.failed = min(len(tally.violations), max(1, tally.kills.total()))
    race_line = Line("races of 8 promoters", checked=tally.races)
    return [changes, race_line]


def _table(tally: Tally) -> None:
    for case, count in sorted(tally.kills.items()):
        print(f"  {count:>4}  {case}")
    for case, count in sorted(tally.missed.items()):
        print(f"  {count:>4}  not reached: {case}")
    print(
        f"  {tally.kills.total()} kills at {len(tally.kills)} points, {tally.races} races, "
        f"{len(tally.violations)} violations; the gateway agreed after at most {tally.slowest:.1f} s",
        flush=True,
    )
    for sentence in tally.violations[:20]:
        print(f"  violated: {sentence}")


def main() -> int:
    """Run this part alone."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.promotions", description=__doc__.partition("\n")[0])
    parser.add_argument("--budget", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--races", type=int, default=200)
    arguments = parser.parse_args()
    lines = run(arguments.budget, arguments.seed, 1, arguments.kills, arguments.races)
    return 1 if any(line.failed for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
