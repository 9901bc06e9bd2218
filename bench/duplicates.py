"""`python -m bench.duplicates`: near-duplicate examples a CPU second, beside datasketch in the same run.

Both do the whole work: character 4-grams of the normalised text, MinHash of 128 permutations, bands, and the exact
similarity of every candidate. Recall is against all pairs of the planted families at the threshold. Memory is the
growth of the process while a stream of texts is added, texts excluded: they are made anew when they are asked for.
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from academy.curriculum.similarity import SAME, Deduplicator, jaccard, near_duplicates, shingles

BUSY = 0.5
EXAMPLES, FAMILY, ROUNDS = 10_000, 5, 5
SMALL, LARGE = 20_000, 220_000
VOCABULARY = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=3 + n % 7)) for n in range(3000)]
Pairs = set[tuple[int, int]]


def text(number: int) -> str:
    """One of half a million: a text of 25 words; every tenth is one of a family whose members differ in a few words."""
    family, member = number // FAMILY, number % FAMILY
    alike = family % 10 == 0
    words = random.Random(family if alike else number + 10**9).choices(VOCABULARY, k=25)
    chance = random.Random(number)
    for _ in range(member if alike else 0):
        words[chance.randrange(25)] = chance.choice(VOCABULARY)
    return " ".join(words)


def main() -> int:
    """Measure and print a table."""
    if os.getloadavg()[0] > BUSY and "--anyway" not in sys.argv:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}); measure when it is idle, or say --anyway.")
        return 2
    texts = [text(n) for n in range(EXAMPLES)]
    wanted = planted(texts)
    peer = datasketch()
    runners: dict[str, Callable[[Sequence[str]], Pairs]] = {"ours": ours} | ({"datasketch": peer} if peer else {})
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    found: dict[str, Pairs] = {}
    for _ in range(ROUNDS):
        for name, run in runners.items():
            started = time.process_time()
            found[name] = run(texts)
            seconds[name].append(time.process_time() - started)
    print(f"{EXAMPLES} examples of {sum(map(len, texts)) / EXAMPLES:.0f} characters, {len(wanted)} pairs at {SAME}")
    for name, times in seconds.items():
        rate = EXAMPLES / statistics.median(times)
        print(f"{name:11} {rate:9,.0f} examples a CPU second, recall {len(found[name] & wanted) / len(wanted):.3f}")
    if peer:
        ratio = statistics.median(seconds["datasketch"]) / statistics.median(seconds["ours"])
        print(f"ratio {ratio:.1f} (goal: at least 6 at recall 0.90)")
    else:
        print("datasketch is not installed here: no comparison. `pip install datasketch` in an environment of its own.")
    memory = [int(_in_a_child("stream", count)) for count in (SMALL, LARGE)]
    print(f"memory {(memory[1] - memory[0]) * 1024 / (LARGE - SMALL):,.0f} bytes an example (goal: at most 1,300)")
    return 0


def ours(texts: Sequence[str]) -> Pairs:
    """All near pairs."""
    return {(i, j) for i, j, _ in near_duplicates(texts)}


def datasketch() -> Callable[[Sequence[str]], Pairs] | None:
    """The same work by datasketch, where it is installed."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ModuleNotFoundError:
        return None

    def run(texts: Sequence[str]) -> Pairs:
        index = MinHashLSH(num_perm=128, params=(32, 4))  # our bands: its own choice finds 0.74 of the pairs
        pairs = set()
        grams = [shingles(text) for text in texts]
        for j, mine in enumerate(grams):
            signature = MinHash(num_perm=128)
            signature.update_batch([gram.encode() for gram in mine])
            pairs |= {(i, j) for i in index.query(signature) if jaccard(grams[i], mine) >= SAME}
            index.insert(j, signature)
        return pairs

    return run


def planted(texts: Sequence[str]) -> Pairs:
    """Pairs inside families that are near by their exact similarity."""
    grams = [shingles(text) for text in texts]
    return {
        (i, j)
        for first in range(0, len(texts), FAMILY)
        for i, j in itertools.combinations(range(first, first + FAMILY), 2)
        if jaccard(grams[i], grams[j]) >= SAME
    }


def stream(count: int) -> int:
    """Add so many texts to an index, holding none; gives the largest size that this process had, in KiB."""
    index = Deduplicator(lambda numbers: [text(n) for n in numbers])
    for begin in range(0, count, 1024):
        index.add([text(n) for n in range(begin, min(begin + 1024, count))])
    status = Path("/proc/self/status").read_text(encoding="ascii")  # ru_maxrss would count the parent too
    return int(status.partition("VmHWM:")[2].split()[0])


def _in_a_child(name: str, count: int) -> str:
    command = [sys.executable, "-c", f"from bench.duplicates import {name}; print({name}({count}))"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
