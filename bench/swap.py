"""The swap table: users ask all the while champions change, and every answer shows by its text who made it.

    python -m bench.swap --runtime peft --clients 16 --swaps 50 --replies 5000

Four adapters that each answer one colour take turns as champion of a gateway that runs as the real command in a process
of its own. A reply is

    dropped       where it is an error, or does not come
    mixed         where its text is none of the colours'
    mislabelled   where its text is another colour than the adapter that its headers name, or its chunks disagree

Latencies are of the same clients with and without swaps, one after the other, in one run. What the gateway costs is
the p50 of one client asking over HTTP against the same runtime called in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from academy.adapters.adapter import MANIFEST, Opened, read_adapter, signed_manifest
from academy.models.base_model import resolve
from academy.serving.gateway.client import GatewayClient
from academy.serving.runtimes.base import LiveRuntime, Turn
from academy.serving.runtimes.table import make_runtime
from academy.settings import Settings
from academy.store.database import Database
from academy.store.files import write_file
from academy.store.ledger import Ledger
from academy.store.ledger_rows import PromotionEntry
from academy.store.signing import Keys
from tests.colours import QUESTIONS, says, train_colours

MOST_TOKENS = 24
START_SECONDS = 180.0


@dataclass
class Tally:
    """What became of the replies of one phase; latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    mislabelled: list[str] = field(default_factory=list)
    adapters: set[str] = field(default_factory=set)

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        return 1000 * sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


@dataclass(frozen=True)
class House:
    """A gateway in its process, and what is needed to crown somebody."""

    client: GatewayClient
    ledger: Ledger
    colours: Mapping[str, str]  # by digest
    pid: int

    def make_champion(self, number: int) -> None:
        """Promote the next colour by a row of the ledger and tell the gateway."""
        digests = list(self.colours)
        digest = digests[number % len(digests)]
        champion = self.ledger.champion()
        version, generation = str(digests.index(digest) + 1), champion.generation + 1
        entry = PromotionEntry(version=version, adapter=digest, generation=generation, cursor=0)
        seq = self.ledger.set_champion(champion, entry).seq
        told = self.client.follow()
        assert (told.champion.row, told.because) == (seq, ""), told

    @property
    def memory(self) -> int:
        """Resident bytes of the gateway's process."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def house(home: Path, engine: str, made: Mapping[str, Path] | None = None) -> Iterator[House]:
    """A fresh home with four colours and its gateway, as `academy serve` runs it. `made`: colours trained before."""
    settings = Settings(_env_file=None).model_copy(update={"home": home, "database_url": ""})
    place = settings.folder("adapters")
    if made is None:
        folders = train_colours(place)
    else:
        folders = {colour: Path(shutil.copytree(one, place / one.name)) for colour, one in made.items()}
    keys = Keys(home.resolve() / "keys")
    for folder in folders.values():  # the command serves nothing that this home has not signed
        write_file(folder / MANIFEST, signed_manifest(Opened(folder).written, keys))
    database = Database(settings.database)
    database.migrate()
    ledger = Ledger(database, resolve("seed").digest)
    log = home / "serve.log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "academy.cli.main", "serve", "--port", "0", "--runtime", engine],
            stdin=subprocess.DEVNULL, stdout=words, stderr=words, env={**os.environ, "ACADEMY_HOME": str(home)},
        )  # fmt: skip
    try:
        until = time.monotonic() + START_SECONDS
        while (client := GatewayClient.find(settings, ledger.family)) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"The gateway did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.2)
        colours = {read_adapter(folder).digest: colour for colour, folder in folders.items()}
        yield House(client, ledger, colours, process.pid)
    finally:
        process.terminate()
        process.wait()
        database.engine.dispose()


async def ask(http: httpx.AsyncClient, found: House, chance: random.Random, tally: Tally) -> None:
    """One request, streamed or not, judged by its text."""
    stream = chance.random() < 0.5
    body = {
        "model": "champion", "messages": [{"role": "user", "content": chance.choice(QUESTIONS)}],
        "max_tokens": MOST_TOKENS, "stream": stream,
    }  # fmt: skip
    began = time.perf_counter()
    try:
        response = await http.post("/v1/chat/completions", json=body)
    except httpx.HTTPError as problem:
        tally.dropped.append(type(problem).__name__)
        return
    seconds = time.perf_counter() - began
    text, marks = read(response, stream=stream)
    if response.status_code != httpx.codes.OK or text is None:
        tally.dropped.append(f"{response.status_code}: {response.text[:200]}")
        return
    tally.latencies.append(seconds)
    adapter = response.headers["x-academy-adapter"]
    tally.adapters.add(adapter)
    colour = next((one for one in found.colours.values() if text == says(one)), None)
    if colour is None:
        tally.mixed.append(text)
    elif colour != found.colours.get(adapter) or any(adapter[:16] not in mark for mark in marks) or len(marks) != 1:
        tally.mislabelled.append(f"{text} by {adapter[:12]} {sorted(marks)}")


def read(response: httpx.Response, *, stream: bool) -> tuple[str | None, set[str]]:
    """The text and the fingerprints; no text where a stream has no end."""
    if response.status_code != httpx.codes.OK:
        return None, set()
    if not stream:
        found = response.json()
        return found["choices"][0]["message"]["content"].strip(), {found["system_fingerprint"]}
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    if events[-1] != "[DONE]":
        return None, set()
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks if "choices" in one)
    return text.strip(), {one.get("system_fingerprint", "") for one in chunks}


async def phase(found: House, clients: int, replies: int, swaps: int) -> tuple[Tally, list[float]]:
    """So many replies at least, while so many swaps happen; ends when both are done. Also the seconds of each swap."""
    tally, took = Tally(), []
    left = replies
    swapping = swaps > 0

    async def user(number: int) -> None:
        nonlocal left
        chance = random.Random(number)
        while left > 0 or swapping:
            left -= 1
            await ask(http, found, chance, tally)

    async def swap() -> None:
        nonlocal swapping
        for number in range(swaps):
            began = time.perf_counter()
            await asyncio.to_thread(found.make_champion, number + 1)
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
        swapping = False

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=found.client.discovery.url, timeout=120, limits=limits) as http:
        await asyncio.gather(swap(), *(user(number) for number in range(clients)))
    return tally, took


async def bare(runtime: LiveRuntime, folder: Path, times: int) -> float:
    """The p50 of the runtime called here, one request at a time, in milliseconds."""
    await runtime.start()
    try:
        digest = await runtime.load(folder)
        took = []
        for number in range(times):
            turn = Turn(
                messages=({"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]},), max_new_tokens=MOST_TOKENS
            )  # fmt: skip
            began = time.perf_counter()
            async for _ in runtime.chat(turn, digest):
                pass
            took.append(time.perf_counter() - began)
    finally:
        await runtime.close()
    return 1000 * statistics.median(took)


async def alone(found: House, times: int) -> float:
    """The p50 of one client over HTTP, one request at a time, in milliseconds."""
    took = []
    async with httpx.AsyncClient(base_url=found.client.discovery.url, timeout=120) as http:
        for number in range(times):
            body = {
                "model": "champion", "max_tokens": MOST_TOKENS,
                "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            }  # fmt: skip
            began = time.perf_counter()
            (await http.post("/v1/chat/completions", json=body)).raise_for_status()
            took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def measure(found: House, clients: int, swaps: int, replies: int) -> dict[str, Any]:
    """The table's row: without swaps first, then with them."""
    found.make_champion(0)
    still, _ = asyncio.run(phase(found, clients, replies, 0))
    moving, took = asyncio.run(phase(found, clients, replies, swaps))
    return {
        "clients": clients,
        "swaps": found.client.status().swaps,
        "replies": len(moving.latencies),
        "champions seen": len(moving.adapters),
        "dropped": len(moving.dropped) + len(still.dropped),
        "mixed": len(moving.mixed) + len(still.mixed),
        "mislabelled": len(moving.mislabelled) + len(still.mislabelled),
        "p50 with swaps ms": round(moving.quantile(0.5), 1),
        "p50 without ms": round(still.quantile(0.5), 1),
        "p99 with swaps ms": round(moving.quantile(0.99), 1),
        "p99 without ms": round(still.quantile(0.99), 1),
        "a swap's p50 ms": round(1000 * statistics.median(took), 1) if took else None,
        "examples": (moving.dropped + moving.mixed + moving.mislabelled + still.dropped + still.mixed)[:5],
    }


def main() -> None:
    """Print the table's row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="peft")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--replies", type=int, default=200, help="at least, in each of the two phases")
    parser.add_argument("--alone", type=int, default=50, help="requests for what the gateway costs")
    parser.add_argument("--memory-swaps", type=int, default=0, help="more swaps, without users, for the memory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, house(Path(place) / "home", given.runtime) as found:
        row = {"runtime": given.runtime, **measure(found, given.clients, given.swaps, given.replies)}
        row["memory MB"] = [round(found.memory / 1e6, 1)]
        steps = 10 if given.memory_swaps else 0
        for step in range(steps):
            for number in range(given.memory_swaps // steps):
                found.make_champion(step + number + 1)
            row["memory MB"].append(round(found.memory / 1e6, 1))
        if given.alone:
            row["p50 over HTTP ms"] = round(asyncio.run(alone(found, given.alone)), 2)
            settings = Settings(_env_file=None).model_copy(update={"home": Path(place) / "home"})
            folder = settings.folder("adapters") / next(iter(found.colours))[:16]
            runtime = make_runtime(settings, resolve("seed"), given.runtime)
            row["p50 in process ms"] = round(asyncio.run(bare(runtime, folder, given.alone)), 2)
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
