"""The swap table: users send requests while champions change; the text of every answer shows which adapter made it.

    python -m bench.swap --runtime peft --clients 16 --swaps 50 --replies 5000

Four adapters that each answer with one colour take turns as champion of a gateway, which runs as the real command in a
separate process. A reply is

    dropped       if it is an error, or missing
    mixed         if its text is not one of the four answers
    mislabelled   if its text does not match the adapter in its headers, or its chunks disagree

Latencies come from the same clients without and with swaps, in one run. The cost of the gateway is the p50 of one
client over HTTP, compared with the same runtime called in this process.
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

from academy.adapters.adapter import MANIFEST, AdapterFiles, read_adapter, signed_manifest
from academy.home.identity import claim_home
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
    """The replies of one phase by result; latencies in seconds."""

    latencies: list[float] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    mislabelled: list[str] = field(default_factory=list)
    adapters: set[str] = field(default_factory=set)

    def quantile(self, share: float) -> float:
        """Milliseconds."""
        return 1000 * sorted(self.latencies)[min(len(self.latencies) - 1, int(share * len(self.latencies)))]


@dataclass(frozen=True)
class ServingHome:
    """A gateway in a separate process, with the ledger to promote adapters."""

    client: GatewayClient
    ledger: Ledger
    colours: Mapping[str, str]  # by digest
    pid: int

    def make_champion(self, number: int) -> None:
        """Promote the next colour by a row of the ledger, and make the gateway follow."""
        digests = list(self.colours)
        digest = digests[number % len(digests)]
        champion = self.ledger.champion()
        version, generation = str(digests.index(digest) + 1), champion.generation + 1
        entry = PromotionEntry(version=version, adapter=digest, generation=generation, cursor=0)
        seq = self.ledger.set_champion(champion, entry).seq
        status = self.client.follow()
        assert (status.champion.row, status.because) == (seq, ""), status

    @property
    def memory(self) -> int:
        """Resident bytes of the gateway's process."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def serving_home(home: Path, runtime: str, trained: Mapping[str, Path] | None = None) -> Iterator[ServingHome]:
    """A new home with four colours and its gateway, run by `academy serve`. `trained`: colours trained before."""
    settings = Settings(_env_file=None).model_copy(update={"home": home, "database_url": ""})
    claim_home(home)
    place = settings.folder("adapters")
    if trained is None:
        folders = train_colours(place)
    else:
        folders = {colour: Path(shutil.copytree(folder, place / folder.name)) for colour, folder in trained.items()}
    keys = Keys(home.resolve() / "keys")
    for folder in folders.values():  # the command serves only adapters that this home has signed
        write_file(folder / MANIFEST, signed_manifest(AdapterFiles(folder).written, keys))
    database = Database(settings.database)
    database.migrate()
    ledger = Ledger(database, resolve("seed").digest)
    log = home / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "academy.cli.main", "serve", "--port", "0", "--runtime", runtime],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env={**os.environ, "ACADEMY_HOME": str(home)},
        )  # fmt: skip
    try:
        until = time.monotonic() + START_SECONDS
        while (client := GatewayClient.find(settings, ledger.family)) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"The gateway did not start:\n{log.read_text(encoding='utf-8')}")
            time.sleep(0.2)
        colours = {read_adapter(folder).digest: colour for colour, folder in folders.items()}
        yield ServingHome(client, ledger, colours, process.pid)
    finally:
        process.terminate()
        process.wait()
        database.engine.dispose()


async def ask(http: httpx.AsyncClient, home: ServingHome, chance: random.Random, tally: Tally) -> None:
    """One request, streamed or not, counted by its text."""
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
    colour = next((name for name in home.colours.values() if text == says(name)), None)
    if colour is None:
        tally.mixed.append(text)
    elif colour != home.colours.get(adapter) or any(adapter[:16] not in mark for mark in marks) or len(marks) != 1:
        tally.mislabelled.append(f"{text} by {adapter[:12]} {sorted(marks)}")


def read(response: httpx.Response, *, stream: bool) -> tuple[str | None, set[str]]:
    """The text and the fingerprints; no text where a stream is incomplete."""
    if response.status_code != httpx.codes.OK:
        return None, set()
    if not stream:
        completion = response.json()
        return completion["choices"][0]["message"]["content"].strip(), {completion["system_fingerprint"]}
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    if events[-1] != "[DONE]":
        return None, set()
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if "choices" in chunk)
    return text.strip(), {chunk.get("system_fingerprint", "") for chunk in chunks}


async def phase(home: ServingHome, clients: int, replies: int, swaps: int) -> tuple[Tally, list[float]]:
    """Run until both `replies` requests and `swaps` swaps are done. Returns the tally and the seconds of each swap."""
    tally, seconds = Tally(), []
    remaining = replies
    swapping = swaps > 0

    async def user(number: int) -> None:
        nonlocal remaining
        chance = random.Random(number)
        while remaining > 0 or swapping:
            remaining -= 1
            await ask(http, home, chance, tally)

    async def swap() -> None:
        nonlocal swapping
        for number in range(swaps):
            began = time.perf_counter()
            await asyncio.to_thread(home.make_champion, number + 1)
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
        swapping = False

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=home.client.discovery.url, timeout=120, limits=limits) as http:
        await asyncio.gather(swap(), *(user(number) for number in range(clients)))
    return tally, seconds


async def bare(runtime: LiveRuntime, folder: Path, times: int) -> float:
    """The p50 of the runtime called in this process, one request at a time, in milliseconds."""
    await runtime.start()
    try:
        digest = await runtime.load(folder)
        seconds = []
        for number in range(times):
            turn = Turn(
                messages=({"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]},), max_new_tokens=MOST_TOKENS
            )  # fmt: skip
            began = time.perf_counter()
            async for _ in runtime.chat(turn, digest):
                pass
            seconds.append(time.perf_counter() - began)
    finally:
        await runtime.close()
    return 1000 * statistics.median(seconds)


async def alone(home: ServingHome, times: int) -> float:
    """The p50 of one client over HTTP, one request at a time, in milliseconds."""
    seconds = []
    async with httpx.AsyncClient(base_url=home.client.discovery.url, timeout=120) as http:
        for number in range(times):
            body = {
                "model": "champion", "max_tokens": MOST_TOKENS,
                "messages": [{"role": "user", "content": QUESTIONS[number % len(QUESTIONS)]}],
            }  # fmt: skip
            began = time.perf_counter()
            (await http.post("/v1/chat/completions", json=body)).raise_for_status()
            seconds.append(time.perf_counter() - began)
    return 1000 * statistics.median(seconds)


def measure(home: ServingHome, clients: int, swaps: int, replies: int) -> dict[str, Any]:
    """The table's row: first without swaps, then with swaps."""
    home.make_champion(0)
    still, _ = asyncio.run(phase(home, clients, replies, 0))
    moving, seconds = asyncio.run(phase(home, clients, replies, swaps))
    return {
        "clients": clients,
        "swaps": home.client.status().swaps,
        "replies": len(moving.latencies),
        "champions seen": len(moving.adapters),
        "dropped": len(moving.dropped) + len(still.dropped),
        "mixed": len(moving.mixed) + len(still.mixed),
        "mislabelled": len(moving.mislabelled) + len(still.mislabelled),
        "p50 with swaps ms": round(moving.quantile(0.5), 1),
        "p50 without ms": round(still.quantile(0.5), 1),
        "p99 with swaps ms": round(moving.quantile(0.99), 1),
        "p99 without ms": round(still.quantile(0.99), 1),
        "a swap's p50 ms": round(1000 * statistics.median(seconds), 1) if seconds else None,
        "examples": (moving.dropped + moving.mixed + moving.mislabelled + still.dropped + still.mixed)[:5],
    }


def main() -> None:
    """Print the table's row as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtime", default="peft")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--swaps", type=int, default=10)
    parser.add_argument("--replies", type=int, default=200, help="minimum in each of the two phases")
    parser.add_argument("--alone", type=int, default=50, help="requests to measure the cost of the gateway")
    parser.add_argument("--memory-swaps", type=int, default=0, help="more swaps, without users, to measure the memory")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, serving_home(Path(place) / "home", arguments.runtime) as home:
        row = {"runtime": arguments.runtime, **measure(home, arguments.clients, arguments.swaps, arguments.replies)}
        row["memory MB"] = [round(home.memory / 1e6, 1)]
        steps = 10 if arguments.memory_swaps else 0
        for step in range(steps):
            for number in range(arguments.memory_swaps // steps):
                home.make_champion(step + number + 1)
            row["memory MB"].append(round(home.memory / 1e6, 1))
        if arguments.alone:
            row["p50 over HTTP ms"] = round(asyncio.run(alone(home, arguments.alone)), 2)
            settings = Settings(_env_file=None).model_copy(update={"home": Path(place) / "home"})
            folder = settings.folder("adapters") / next(iter(home.colours))[:16]
            runtime = make_runtime(settings, resolve("seed"), arguments.runtime)
            row["p50 in process ms"] = round(asyncio.run(bare(runtime, folder, arguments.alone)), 2)
    print(json.dumps(row, indent=2))


if __name__ == "__main__":
    main()
